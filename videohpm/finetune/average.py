"""A moving average of a model's weights."""

from __future__ import annotations

import copy

import torch
from torch import nn


class WeightAverage:
    """θ_average ← decay·θ_average + (1 − decay)·θ, in fp32, once an optimiser step.

    The first steps weigh more, min(decay, (1 + n) / (10 + n)) after n updates, so that the initial
    weights are soon forgotten (as TensorFlow's and timm's averages do).
    """

    def __init__(self, model: nn.Module, decay: float):
        self.model = copy.deepcopy(model).requires_grad_(False).eval()
        self.decay, self.updates = decay, 0

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Follow ``model`` by one step."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        theirs = dict(model.named_parameters())
        mine = dict(self.model.named_parameters())
        torch._foreach_lerp_(
            list(mine.values()), [theirs[name].float() for name in mine], 1.0 - decay
        )
        self.updates += 1

    def state_dict(self) -> dict:
        """What a resumed run needs."""
        return {"updates": self.updates, "weights": self.model.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        """Go on from :meth:`state_dict`."""
        self.updates = state["updates"]
        self.model.load_state_dict(state["weights"])
