"""A moving average of a model's weights."""

from __future__ import annotations

import copy

from torch import nn

from videohpm.hpm import Ema


class WeightAverage(nn.Module):
    """θ_average ← decay·θ_average + (1 − decay)·θ, in fp32, once an optimiser step.

    The first steps weigh more, min(decay, (1 + n) / (10 + n)) after n steps, so that the initial
    weights are forgotten early (as TensorFlow's and timm's averages do).

    ``model`` is the average; ``ema`` how it follows the weights, which is the engine's once it is
    attached to one.
    """

    def __init__(self, model: nn.Module, decay: float):
        super().__init__()
        self.model = copy.deepcopy(model).float().requires_grad_(False).eval()
        self.decay, self.ema = decay, Ema()

    def update(self, model: nn.Module, steps: int) -> None:
        """Follow ``model`` by one step; ``steps`` came before it."""
        self.ema.update(self.model, model, min(self.decay, (1 + steps) / (10 + steps)))
