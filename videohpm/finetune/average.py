"""A moving average of a model's weights."""

from __future__ import annotations

import copy

import torch
from torch import nn

from videohpm.hpm.teacher import shard_of


class WeightAverage:
    """θ_average ← decay·θ_average + (1 − decay)·θ, in fp32, once an optimiser step.

    The first steps weigh more, min(decay, (1 + n) / (10 + n)) after n steps, so that the initial
    weights are soon forgotten (as TensorFlow's and timm's averages do).
    """

    def __init__(self, model: nn.Module, decay: float):
        self.model = copy.deepcopy(model).requires_grad_(False).eval()
        self.decay = decay

    @torch.no_grad()
    def update(self, model: nn.Module, steps: int) -> None:
        """Follow ``model`` by one step; ``steps`` came before it."""
        decay = min(self.decay, (1 + steps) / (10 + steps))
        theirs = dict(model.named_parameters())
        mine = dict(self.model.named_parameters())
        torch._foreach_lerp_(
            [shard_of(parameter)[1] for parameter in mine.values()],
            [shard_of(theirs[name])[1].float() for name in mine],
            1.0 - decay,
        )
