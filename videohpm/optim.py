"""Parameter groups and the learning rate of every step."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn

TOKENS = ("cls_token", "mask_token")


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """AdamW with a cosine schedule.

    Args:
        batch: clips of one optimiser step over all GPUs and accumulation steps.
        lr: learning rate for a batch of 256; multiplied by batch/256.
        final_lr: learning rate at the end for a batch of 256; multiplied likewise.
        warmup_epochs: epochs of linear warm-up from 0.
        warmup_steps: the same in optimiser steps; wins over warmup_epochs where given.
        weight_decay: of matrices; biases, norms and tokens have none.
        betas: AdamW's decay rates of the two moments.
        eps: AdamW's term against division by zero.
    """

    batch: int = 256
    lr: float = 1.5e-4
    final_lr: float = 1e-5
    warmup_epochs: float = 40.0
    warmup_steps: int | None = None
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8

    def __post_init__(self):
        if self.batch < 1:
            raise ValueError(f"optim.batch: {self.batch} clips; give at least 1")
        for name in ("lr", "final_lr", "warmup_epochs", "weight_decay"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"optim.{name}: {getattr(self, name)}; give 0 or more")
        if self.warmup_steps is not None and self.warmup_steps < 0:
            raise ValueError(f"optim.warmup_steps: {self.warmup_steps}; give 0 or more")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"optim.betas: {self.betas}; each must lie in [0, 1)")
        if self.eps <= 0:
            raise ValueError(f"optim.eps: {self.eps}; give more than 0")

    def lr_at(self, step: int, steps: int, steps_per_epoch: float) -> float:
        """The learning rate of optimiser step ``step`` (from 0) of ``steps``."""
        warmup = self.warmup_steps
        if warmup is None:
            warmup = round(self.warmup_epochs * steps_per_epoch)
        scale = self.batch / 256
        return cosine(step, steps, min(warmup, steps), self.lr * scale, self.final_lr * scale)


def cosine(step: int, steps: int, warmup: int, peak: float, final: float) -> float:
    """Linear from 0 to ``peak`` over ``warmup`` steps, then half a cosine towards ``final``.

    The last warm-up step and the first cosine step both stand at ``peak`` (MAE, VideoMAE).
    """
    if step < warmup:
        return peak * step / max(1, warmup - 1)
    progress = min(1.0, (step - warmup) / max(1, steps - warmup))
    return final + 0.5 * (peak - final) * (1 + math.cos(math.pi * progress))


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Two groups: matrices with ``weight_decay``; biases, norms and tokens without.

    Groups without parameters are left out: they break schedulers.
    """
    decayed, free = [], []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        is_free = parameter.ndim <= 1 or name.rpartition(".")[2] in TOKENS
        (free if is_free else decayed).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": free, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def adamw(groups: list[dict], config: OptimConfig) -> torch.optim.AdamW:
    """Fused AdamW over ``groups``; the learning rate is set anew before every step."""
    return torch.optim.AdamW(
        groups, lr=config.lr, betas=tuple(config.betas), eps=config.eps, fused=True
    )
