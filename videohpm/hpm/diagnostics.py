"""Numbers that say whether the teacher is right; they cost little and change nothing."""

from __future__ import annotations

import torch
from torch import Tensor


def rank_correlation(scores: Tensor, losses: Tensor) -> Tensor:
    """Spearman's ρ between predicted and true hardness, mean over samples; ties in given order.

    Args:
        scores, losses: (B, K) of the same units, K ≥ 2.

    Returns:
        A scalar in [−1, 1] on the same device: 1 when the predictor orders every pair rightly.
    """
    ranks = [x.detach().float().argsort(1).argsort(1).float() for x in (scores, losses)]
    a, b = (r - (r.shape[1] - 1) / 2 for r in ranks)
    return torch.nn.functional.cosine_similarity(a, b, dim=1).mean()
