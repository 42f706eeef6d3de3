"""How hard tubes truly are: measured, not predicted."""

from __future__ import annotations

import torch
from torch import Tensor

from videohpm import hpm
from videohpm.models import MaskedAutoencoder


@torch.no_grad()
def true_hardness(
    model: MaskedAutoencoder,
    clips: Tensor,
    masks: int,
    ratio: float,
    target: hpm.Target,
    generator: torch.Generator | None = None,
) -> Tensor:
    """(B, L): mean hardness of each tube over the random masks that hid it; 0 for one never hidden.

    Args:
        clips: (B, 3, T, H, W), normalised.
        ratio: masked share.
        target: as trained for; what it calls hard is, usually the reconstruction loss.
    """
    grid = model.grid
    total = torch.zeros(len(clips), grid.num_tubes)
    times = torch.zeros_like(total)
    for _ in range(masks):
        shuffle_ids = hpm.random_shuffle_ids(len(clips), grid.num_tubes, generator)
        mask = hpm.random_mask(grid, ratio, shuffle_ids)
        pixels, targets = model(clips, mask).pixels, target(clips, mask)
        losses = hpm.token_losses(pixels, targets)
        losses = target.hardness(losses, pixels, targets, clips, mask)
        total.scatter_add_(1, mask.tubes, hpm.loss_per_tube(losses, mask))
        times.scatter_add_(1, mask.tubes, torch.ones(mask.tubes.shape))
    return total / times.clamp(min=1)
