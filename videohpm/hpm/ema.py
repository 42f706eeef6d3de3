# pyright: reportPrivateImportUsage=false
# (torch exports its foreach operations by their names with an underscore only.)
"""Exponential moving averages of a model's weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Ema:
    """Moves a copy of a model's weights after them, and tells how far apart the two are.

    The copy, fp32, may have fewer parameters than the model: they are matched by name. An engine
    that divides weights over processes has a subclass of this (:mod:`videohpm.engine.ema`).
    """

    @torch.no_grad()
    def update(self, ema_module: nn.Module, model: nn.Module, momentum: float) -> None:
        """θ_ema ← momentum·θ_ema + (1 − momentum)·θ, in fp32."""
        averages, weights = self._pairs(ema_module, model)
        torch._foreach_lerp_(averages, weights, 1.0 - momentum)

    @torch.no_grad()
    def distance(self, ema_module: nn.Module, model: nn.Module) -> Tensor:
        """‖θ − θ_ema‖ / ‖θ‖ over the parameters that both have."""
        averages, weights = self._pairs(ema_module, model)
        differences = torch._foreach_norm(torch._foreach_sub(weights, averages))
        norms = torch.stack(
            [torch.stack(differences), torch.stack(torch._foreach_norm(weights))]
        ).norm(dim=1)
        norms = self.over_ranks(norms)
        return norms[0] / norms[1]

    def local_part(self, parameter: Tensor) -> Tensor:
        """What this process holds of a parameter, in place."""
        return parameter

    def over_ranks(self, norms: Tensor) -> Tensor:
        """Norms of full parameters from those of what each process holds."""
        return norms

    def _pairs(self, ema_module: nn.Module, model: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
        """What this process holds of each averaged parameter, and of the model's, in fp32."""
        averages, weights = dict(ema_module.named_parameters()), dict(model.named_parameters())
        return (
            [self.local_part(parameter) for parameter in averages.values()],
            [self.local_part(weights[name]).float() for name in averages],
        )
