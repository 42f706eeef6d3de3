"""Numbers that say whether the teacher is right, and whether features say anything of the clips.

They cost little and change nothing.
"""

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


def effective_rank(features: Tensor) -> float:
    """RankMe: exp of the entropy of the singular values, divided by their sum (arXiv 2210.02885).

    Of the features less their mean, which would hide how much the others vary.

    Args:
        features: (n, D), one a clip.

    Returns:
        From 1, where all features lie on a line, to min(n − 1, D); 0 where all are equal.
    """
    values = torch.linalg.svdvals(_centred(features))
    total = values.sum()
    if total <= 0:
        return 0.0
    shares = values / total
    return float(torch.special.entr(shares).sum().exp())


def feature_spread(features: Tensor) -> float:
    """How far features (n, D) lie from their mean, as a share of their length: 0 to 1.

    √(Σ‖f − mean‖² / Σ‖f‖²): 0 where all clips have the same features.
    """
    length = torch.linalg.vector_norm(features.double())
    return float(torch.linalg.vector_norm(_centred(features)) / length) if length > 0 else 0.0


def feature_change(before: Tensor, after: Tensor) -> float:
    """‖after − before‖ / ‖before‖ of features of the same clips: 0 where none has changed."""
    length = torch.linalg.vector_norm(before.double()).clamp(min=1e-30)
    return float(torch.linalg.vector_norm(after.double() - before.double()) / length)


def _centred(features: Tensor) -> Tensor:
    return features.double() - features.double().mean(0)
