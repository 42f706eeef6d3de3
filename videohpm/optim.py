"""Parameter groups and the learning rate of every step."""

from __future__ import annotations

import re
from collections.abc import Collection

import torch
from torch import nn

from videohpm.config.optim import UNDECAYED, OptimConfig


def parameter_groups(
    model: nn.Module,
    weight_decay: float,
    layer_decay: float = 1.0,
    no_weight_decay: Collection[str] = UNDECAYED,
) -> list[dict]:
    """Groups of parameters that are treated alike: ``params``, ``weight_decay``, ``lr_scale``.

    Matrices have ``weight_decay``; biases, norms and what ``no_weight_decay`` names (the last part
    of a parameter's name) have none. With ``layer_decay`` below 1 there are such groups for each
    layer (:func:`layer_of`), whose learning rates fall by that factor from the head down to the
    embedding (BEiT, MAE, VideoMAE). Groups without parameters are left out: they break schedulers.
    """
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    depth = encoder_depth(model)
    groups: dict[tuple[int, bool], dict] = {}
    for name, parameter in named:
        is_free = parameter.ndim <= 1 or name.rpartition(".")[2] in no_weight_decay
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
    first, second = config.betas
    return torch.optim.AdamW(
        groups, lr=config.base_lr, betas=(first, second), eps=config.eps, fused=True
    )
