"""AdamW's settings and the learning rate of every step."""

from __future__ import annotations

import math
from dataclasses import dataclass

from videohpm.config.checks import Section
from videohpm.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """AdamW with a cosine schedule.

    Args:
        global_batch_size: clips of one optimiser step over all GPUs and accumulation steps.
        base_lr: learning rate for a batch of 256; multiplied by batch/256.
        min_lr: learning rate at the end for a batch of 256; multiplied likewise.
        warmup_epochs: epochs of linear warm-up from 0.
        warmup_steps: the same in optimiser steps; wins over warmup_epochs where given.
        weight_decay: of matrices; biases, norms and tokens have none.
        layer_decay: factor on the learning rate from each encoder block to the one below it; 1 for
            the same rate everywhere.
        betas: AdamW's decay rates of the two moments.
        eps: AdamW's term against division by zero.
    """

    global_batch_size: int = 256
    base_lr: float = 1.5e-4
    min_lr: float = 1e-5
    warmup_epochs: float = 40.0
    warmup_steps: int | None = None
    weight_decay: float = 0.05
    layer_decay: float = 1.0
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8

    def __post_init__(self):
        check = Section(self, "optim")
        check.at_least(1, "global_batch_size")
        check.at_least(0, "base_lr", "min_lr", "warmup_epochs", "warmup_steps", "weight_decay")
        check.fraction("layer_decay", zero=False)
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ConfigError(f"optim.betas: {self.betas}; each must lie in [0, 1)")
        check.above_zero("eps")

    def lr_at(self, step: int, steps: int, steps_per_epoch: float) -> float:
        """The learning rate of optimiser step ``step`` (from 0) of ``steps``."""
        warmup = self.warmup_steps
        if warmup is None:
            warmup = round(self.warmup_epochs * steps_per_epoch)
        scale = self.global_batch_size / 256
        return cosine(step, steps, min(warmup, steps), self.base_lr * scale, self.min_lr * scale)


def cosine(step: int, steps: int, warmup: int, peak: float, final: float) -> float:
    """Linear from 0 to ``peak`` over ``warmup`` steps, then half a cosine towards ``final``.

    The last warm-up step and the first cosine step both stand at ``peak`` (MAE, VideoMAE).
    """
    if step < warmup:
        return peak * step / max(1, warmup - 1)
    progress = min(1.0, (step - warmup) / max(1, steps - warmup))
    return final + 0.5 * (peak - final) * (1 + math.cos(math.pi * progress))
