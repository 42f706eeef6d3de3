"""Targets, the reconstruction loss of each token and tube, and what trains the loss predictor."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from videohpm.config.data import IMAGENET_STD
from videohpm.config.model import TARGETS
from videohpm.grid import Mask, TokenGrid


def pixel_targets(
    clips: Tensor,
    mask: Mask,
    grid: TokenGrid,
    target: str = "per_channel",
    std: tuple[float, ...] = IMAGENET_STD,
) -> Tensor:
    """What the masked tokens should be reconstructed to, and only they: (B, M, P) fp32.

    Args:
        clips: (B, 3, T, H, W), normalised: (pixels in [0, 1] − mean) / std.
        target: ``raw``: the normalised pixels (HPM as published). ``per_channel``: pixels in
            [0, 1], standardised over each channel of the token with unbiased deviation + 1e-6
            (VideoMAE). ``joint``: normalised pixels, standardised over all values of the token
            with 1e-6 added to the unbiased variance (MAE with ``norm_pix_loss``).
        std: of each channel, by which the clips were normalised.
    """
    if target not in TARGETS:
        raise ValueError(f"target: {target!r} is not one of {', '.join(TARGETS)}")
    pixels = (
        grid.gather_patches(clips, mask.decoded).float().flatten(3)
    )  # (B, M, 3, values of a channel)
    if target == "per_channel":
        pixels -= pixels[..., :1].clone()  # then what is flat becomes exactly 0
        pixels -= pixels.mean(-1, keepdim=True)
        spread = _deviation(pixels, dim=-1)
        # In [0, 1] a channel's deviation is std times ours, so the same 1e-6 is 1e-6/std here.
        for channel, scale in enumerate(std):
            spread[:, :, channel] += 1e-6 / scale
        pixels /= spread
    elif target == "joint":
        pixels -= pixels[:, :, :1, :1].clone()
        pixels -= pixels.mean((-2, -1), keepdim=True)
        pixels /= (_deviation(pixels, dim=(-2, -1)).square_() + 1e-6).sqrt_()
    return pixels.transpose(2, 3).flatten(2)


def reconstruction_loss(
    predicted: Tensor,
    clips: Tensor,
    mask: Mask,
    grid: TokenGrid,
    target: str = "per_channel",
    std: tuple[float, ...] = IMAGENET_STD,
) -> Tensor:
    """Mean squared error of each masked token: (B, M) fp32, in token order (HPM, eq. of L_rec).

    Args:
        predicted: (B, M, P), what the pixel decoder says.
        clips, target, std: see :func:`pixel_targets`.
    """
    return _MeanSquare.apply(predicted.float(), pixel_targets(clips, mask, grid, target, std))


def loss_per_tube(losses: Tensor, mask: Mask) -> Tensor:
    """Mean over time of each masked tube's token losses: (B, M) → (B, M/t)."""
    return losses.unflatten(1, (-1, mask.tubes.shape[1])).mean(1)


def relative_loss(scores: Tensor, losses: Tensor) -> Tensor:
    """The relative objective: which of two masked units is harder (HPM, section 3.2, L_pred).

    The mean over all pairs (i, j) of one sample with losses_i > losses_j of −log σ(s_i − s_j);
    ties are no pairs. 0 when there are none. fp32 throughout.

    Args:
        scores: (B, K) predicted hardness.
        losses: (B, K) true losses of the same units; no gradient flows into them.
    """
    return _PairwiseRank.apply(scores.float(), losses.detach().float())


def absolute_loss(scores: Tensor, losses: Tensor) -> Tensor:
    """The absolute objective: squared error to standardised losses (HPM, section 3.2).

    Args:
        scores, losses: as for :func:`relative_loss`. Unbiased variance, + 1e-6 under the root.
    """
    variance, average = torch.var_mean(losses.detach().float(), dim=1, keepdim=True)
    return F.mse_loss(scores.float(), (losses.detach() - average) * (variance + 1e-6).rsqrt())


def _deviation(centred: Tensor, dim: int | tuple[int, ...]) -> Tensor:
    """Unbiased standard deviation of values whose mean is 0. Faster than torch's one-pass one."""
    dims = (dim,) if isinstance(dim, int) else dim
    count = math.prod(centred.shape[d] for d in dims)
    return torch.linalg.vector_norm(centred, dim=dim, keepdim=True) / math.sqrt(count - 1)


class _MeanSquare(torch.autograd.Function):
    """(x − y)² averaged over the last dimension, holding nothing but the difference."""

    @staticmethod
    def forward(ctx, predicted: Tensor, targets: Tensor) -> Tensor:
        difference = predicted - targets
        ctx.save_for_backward(difference)
        return torch.linalg.vector_norm(difference, dim=-1).square_() / difference.shape[-1]

    @staticmethod
    def backward(ctx, upstream: Tensor) -> tuple[Tensor, None]:
        (difference,) = ctx.saved_tensors
        return difference * (upstream * (2 / difference.shape[-1]))[..., None], None


class _PairwiseRank(torch.autograd.Function):
    """Value and gradient of the relative objective in one pass over unordered pairs.

    Units are sorted by loss, so that every pair stands above the diagonal; rows are taken a few at
    a time, so that nothing of size B·K² is ever held.
    """

    ELEMENTS_AT_ONCE = 1 << 22

    @staticmethod
    def forward(ctx, scores: Tensor, losses: Tensor) -> Tensor:
        batch, count = scores.shape
        losses, order = losses.sort(dim=1, descending=True)
        ranked = scores.gather(1, order)
        total, pairs = scores.new_zeros(()), scores.new_zeros(())
        gradient = torch.zeros_like(ranked)
        rows = max(1, _PairwiseRank.ELEMENTS_AT_ONCE // max(1, batch * count))
        for first in range(0, count, rows):
            last = min(first + rows, count)
            margin = ranked[:, first:last, None] - ranked[:, None, first:]
            harder = losses[:, first:last, None] > losses[:, None, first:]
            total += (F.softplus(-margin) * harder).sum()
            pairs += harder.sum()
            push = torch.sigmoid(-margin) * harder
            gradient[:, first:last] -= push.sum(2)
            gradient[:, first:] += push.sum(1)
        pairs = pairs.clamp(min=1)
        ctx.save_for_backward(torch.zeros_like(gradient).scatter(1, order, gradient / pairs))
        return total / pairs

    @staticmethod
    def backward(ctx, upstream: Tensor) -> tuple[Tensor, None]:
        (gradient,) = ctx.saved_tensors
        return upstream * gradient, None


OBJECTIVES = {"relative": relative_loss, "absolute": absolute_loss}
