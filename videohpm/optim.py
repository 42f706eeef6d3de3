"""Parameter groups and the learning rate of every step."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import torch
from torch import nn

TOKENS = ("cls_token", "mask_token", "positions", "query")


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
        if self.global_batch_size < 1:
            raise ValueError(
                f"optim.global_batch_size: {self.global_batch_size} clips; give at least 1"
            )
        for name in ("base_lr", "min_lr", "warmup_epochs", "weight_decay"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"optim.{name}: {getattr(self, name)}; give 0 or more")
        if self.warmup_steps is not None and self.warmup_steps < 0:
            raise ValueError(f"optim.warmup_steps: {self.warmup_steps}; give 0 or more")
        if not 0 < self.layer_decay <= 1:
            raise ValueError(f"optim.layer_decay: {self.layer_decay}; give more than 0, at most 1")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"optim.betas: {self.betas}; each must lie in [0, 1)")
        if self.eps <= 0:
            raise ValueError(f"optim.eps: {self.eps}; give more than 0")

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


def parameter_groups(model: nn.Module, weight_decay: float, layer_decay: float = 1.0) -> list[dict]:
    """Groups of parameters that are treated alike: ``params``, ``weight_decay``, ``lr_scale``.

    Matrices have ``weight_decay``; biases, norms and tokens have none. With ``layer_decay`` below 1
    there are such groups for each layer (:func:`layer_of`), whose learning rates fall by that
    factor from the head down to the embedding (BEiT, MAE, VideoMAE). Groups without parameters are
    left out: they break schedulers.
    """
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    depth = encoder_depth(model)
    groups: dict[tuple[int, bool], dict] = {}
    for name, parameter in named:
        is_free = parameter.ndim <= 1 or name.rpartition(".")[2] in TOKENS
        layer = depth + 1 if layer_decay == 1 else layer_of(name, depth)
        group = groups.setdefault(
            (layer, is_free),
            {
                "params": [],
                "weight_decay": 0.0 if is_free else weight_decay,
                "lr_scale": layer_decay ** (depth + 1 - layer),
            },
        )
        group["params"].append(parameter)
    return [groups[key] for key in sorted(groups)]


def encoder_depth(model: nn.Module) -> int:
    """The number of blocks of a model's encoder, by the names of its parameters."""
    numbers = (_BLOCK.match(name) for name, _ in model.named_parameters())
    return max((int(number[1]) + 1 for number in numbers if number), default=0)


def layer_of(name: str, depth: int) -> int:
    """0: embedding and tokens; 1 to ``depth``: the encoder's blocks; then all that follows them."""
    name = name.removeprefix("encoder.")
    block = _BLOCK.match(name)
    if block:
        return int(block[1]) + 1
    return 0 if name.startswith(("patch_embed.", "cls_token", "positions")) else depth + 1


_BLOCK = re.compile(r"(?:encoder\.)?blocks\.(\d+)\.")


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give every group ``lr`` times its ``lr_scale``."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)


def adamw(groups: list[dict], config: OptimConfig) -> torch.optim.AdamW:
    """Fused AdamW over ``groups``; the learning rate is set anew before every step."""
    return torch.optim.AdamW(
        groups, lr=config.base_lr, betas=tuple(config.betas), eps=config.eps, fused=True
    )
