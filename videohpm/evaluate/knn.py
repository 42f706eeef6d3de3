"""Nearest neighbours among frozen features."""

from __future__ import annotations

import torch
from torch import Tensor

BLOCK = 1024
"""Queries compared with all of the training features at a time."""


def knn_probabilities(
    train: Tensor,
    labels: Tensor,
    queries: Tensor,
    *,
    classes: int,
    k: int = 20,
    temperature: float | None = 0.07,
) -> Tensor:
    """Votes of the ``k`` training features of the highest cosine similarity: (n, classes).

    Args:
        train, queries: (m, D) and (n, D).
        labels: (m,) class numbers.
        temperature: a neighbour's vote is exp(similarity / temperature), as DINO counts; None
            gives every neighbour the same.

    Returns:
        Each row sums to 1. Of equal votes the lower class number wins.
    """
    k = min(k, len(train))
    train = torch.nn.functional.normalize(train.float(), dim=1)
    votes = []
    for block in torch.nn.functional.normalize(queries.float(), dim=1).split(BLOCK):
        near, index = (block @ train.T).topk(k, dim=1)
        weight = torch.ones_like(near)
        if temperature is not None:
            weight = ((near - near[:, :1]) / temperature).exp()
        total = weight.new_zeros(len(block), classes).scatter_add_(1, labels[index], weight)
        votes.append(total / total.sum(1, keepdim=True))
    return torch.cat(votes)
