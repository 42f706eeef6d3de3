"""The reconstruction loss of each token and tube, and what trains the loss predictor."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from videohpm.grid import Mask


def token_losses(predicted: Tensor, targets: Tensor) -> Tensor:
    """Mean squared error of each token: (B, K) fp32 (HPM, eq. of L_rec, before the mean).

    Args:
        predicted: (B, K, dim), the decoder's output.
        targets: (B, K, dim), see :class:`videohpm.hpm.Target`.
    """
    losses: Tensor = _MeanSquare.apply(predicted.float(), targets)  # pyright: ignore
    return losses


def smooth_l1_losses(predicted: Tensor, targets: Tensor) -> Tensor:
    """Huber's loss of each token, quadratic up to an error of 1: as :func:`token_losses`."""
    return F.smooth_l1_loss(predicted.float(), targets, reduction="none").mean(-1)


def cosine_losses(predicted: Tensor, targets: Tensor) -> Tensor:
    """1 − the cosine of the angle between prediction and target: as :func:`token_losses`."""
    return 1 - F.cosine_similarity(predicted.float(), targets, dim=-1)


def mean_loss(losses: Tensor, mask: Mask) -> Tensor:
    """L_rec: the mean over all decoded tokens (B, K), weighted where the mask has weights."""
    return losses.mean() if mask.weights is None else (losses * mask.weights).mean()


def loss_per_tube(losses: Tensor, mask: Mask) -> Tensor:
    """Mean over time of each masked tube's token losses: (B, K) → (B, M/t).

    Raises ValueError for a mask whose unit is not the tube.
    """
    if mask.tubes is None:
        raise ValueError("mask: tubes have a loss only where whole tubes are masked")
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
TOKEN_LOSSES = {"mse": token_losses, "smooth_l1": smooth_l1_losses, "cosine": cosine_losses}
"""By ``model.target_loss``: from predictions and targets (B, K, dim), the tokens' losses (B, K)."""
