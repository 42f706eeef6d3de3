"""AdamW's settings and the learning rate of every step."""

from __future__ import annotations

import math
from dataclasses import dataclass

from videohpm.config.checks import Section, choice
from videohpm.errors import ConfigError

UNDECAYED = ("cls_token", "mask_token", "positions", "query")
"""Parameters beside biases and norms that may go without weight decay, by the end of their name."""
WARMUP_PEAKS = ("last", "after")


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """AdamW with a cosine schedule.

    Args:
        global_batch_size: samples of one optimiser step over all GPUs and accumulation steps; with
            data.repeats so many times as many clips.
        base_lr: learning rate for a batch of 256; multiplied by batch/256.
        min_lr: learning rate at the end for a batch of 256; multiplied likewise.
        warmup_epochs: epochs of linear warm-up from 0.
        warmup_steps: the same in optimiser steps; wins over warmup_epochs where given.
        warmup_peak: which step is the first at base_lr: the last of the W warm-up steps, so that
            step i has i/(W-1) of it (VideoMAE), or the one after them, i/W (MAE, HPM).
        weight_decay: of matrices; biases, norms and no_weight_decay have none.
        no_weight_decay: which of cls_token, mask_token, positions (learned ones) and query (of
            attentive pooling) have no weight decay. Pre-training MAE and HPM decays all of them,
            VideoMAE none.
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
    warmup_peak: str = "last"
    weight_decay: float = 0.05
    no_weight_decay: tuple[str, ...] = UNDECAYED
    layer_decay: float = 1.0
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8

    def __post_init__(self):
        check = Section(self, "optim")
        check.at_least(1, "global_batch_size")
        check.at_least(0, "base_lr", "min_lr", "warmup_epochs", "warmup_steps", "weight_decay")
        check.choice("warmup_peak", WARMUP_PEAKS)
        for name in self.no_weight_decay:
            choice("optim.no_weight_decay", name, UNDECAYED)
        check.fraction("layer_decay", zero=False)
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ConfigError(f"optim.betas: {self.betas}; each must lie in [0, 1)")
        check.above_zero("eps")

    def warmup(self, steps_per_epoch: float) -> int:
        """Optimiser steps of warm-up that are asked for; a run may have fewer."""
        if self.warmup_steps is not None:
            return self.warmup_steps
        return round(self.warmup_epochs * steps_per_epoch)

    def lr_at(self, step: int, steps: int, steps_per_epoch: float) -> float:
        """The learning rate of optimiser step ``step`` (from 0) of ``steps``."""
        warmup = self.warmup(steps_per_epoch)
        scale, inclusive = self.global_batch_size / 256, self.warmup_peak == "last"
        peak, final = self.base_lr * scale, self.min_lr * scale
        return cosine(step, steps, min(warmup, steps), peak, final, inclusive)


def cosine(
    step: int, steps: int, warmup: int, peak: float, final: float, inclusive: bool = True
) -> float:
    """Linear from 0 to ``peak`` over ``warmup`` steps, then half a cosine towards ``final``.

    Args:
        inclusive: the last warm-up step stands at ``peak`` already, as the first of the cosine
            does: peak·step/(warmup − 1) (VideoMAE). If not, only the latter: peak·step/warmup
            (MAE, HPM).
    """
    if step < warmup:
        return peak * step / max(1, warmup - inclusive)
    progress = min(1.0, (step - warmup) / max(1, steps - warmup))
    return final + 0.5 * (peak - final) * (1 + math.cos(math.pi * progress))
