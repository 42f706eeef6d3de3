"""Whether the teacher of an arm of evidence.py is right, and what its masks leave to see."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from evidence_data import STRIDE, Split
from evidence_judge import first_frames
from evidence_train import Method, random_part, random_stream
from hardness import true_hardness
from mining import compare
from torch import Tensor

from videohpm import hpm
from videohpm.config import PretrainConfig

BLOCK = 64
CLIPS, MASKS = 192, 48
HIDDEN = 0.05
"""An object of which less than this share is visible counts as hidden."""


@torch.no_grad()
def diagnose(method: Method, split: Split, config: PretrainConfig) -> dict[str, float | None]:
    """Numbers of :mod:`mining` for the truth and for who scores, and what is left of the object.

    The truth: a tube's mean hardness over the random masks, of the share of the recipe, that hid
    it; of validation clips.
    """
    rows = torch.arange(min(CLIPS, len(split)))
    generator = random_stream(0)
    asked = {"scorer": method.scorer, "teacher": method.teacher}
    asked = {name: scorer for name, scorer in asked.items() if scorer is not None}
    if asked.get("scorer") is asked.get("teacher"):
        asked.pop("scorer", None)
    parts: dict[str, list[Tensor]] = {name: [] for name in ("first", "second", *asked)}
    for block in rows.split(BLOCK):
        clips = first_frames(split, block, config)
        for half in ("first", "second"):
            parts[half].append(
                true_hardness(
                    method.model, clips, MASKS // 2, config.mask.ratio, method.target, generator
                )
            )
        ids = random_part(len(block), config, generator)
        for name, scorer in asked.items():
            scores = scorer(clips, ids)
            parts[name].append(scores.view(len(block), -1, method.model.grid.num_tubes).mean(1))
    first, second, *told = (torch.cat(part) for part in parts.values())
    found = compare((first, second), dict(zip(asked, told, strict=True)))
    numbers = {f"{who}: {what.replace('_', ' ')}": value
               for who, row in found.items() for what, value in row.items()}  # fmt: skip
    numbers["validation loss"] = float((first + second).mean() / 2)
    if split.cover is not None:
        numbers |= object_left(method, split, rows, config)
    return numbers


def object_left(
    method: Method, split: Split, rows: Tensor, config: PretrainConfig
) -> dict[str, float]:
    """How much of the object the masks of the arm's last step leave to the encoder."""
    cover = cover_per_token(split, rows, config)
    seen = first_frames(split, rows, config)
    shuffle_ids = random_part(len(seen), config, random_stream(1))
    grid, end = config.model.grid(), config.hpm.hard_ratio_end
    mask = hpm.draw_mask(method.scorer, seen, shuffle_ids, grid, config.mask, end, decode_all=True)
    visible = 1 - cover.gather(1, mask.masked.cpu()).sum(1) / cover.sum(1)
    return {
        "object visible at the end": float(visible.mean()),
        "clips with the object hidden": float((visible < HIDDEN).float().mean()),
    }


def cover_per_token(split: Split, rows: Tensor, config: PretrainConfig) -> Tensor:
    """(B, N): share of each token that is object, as the generator knows it."""
    grid = config.model.grid()
    assert split.cover is not None
    steps = STRIDE * torch.arange(config.model.frames)
    return F.adaptive_avg_pool3d(split.cover[rows][:, steps], (grid.t, grid.h, grid.w)).flatten(1)
