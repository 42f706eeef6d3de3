"""Nearest neighbours among frozen features."""

from __future__ import annotations

from collections.abc import Iterator

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
    votes = []
    for weight, index in _neighbours(train, queries, k, temperature):
        total = weight.new_zeros(len(weight), classes).scatter_add_(1, labels[index], weight)
        votes.append(total / total.sum(1, keepdim=True))
    return torch.cat(votes)


def knn_means(
    train: Tensor,
    truth: Tensor,
    queries: Tensor,
    *,
    k: int = 20,
    temperature: float | None = 0.07,
) -> Tensor:
    """Means of the neighbours' ``truth`` (m, C), weighted as their votes: (n, C).

    With a row of 0 and 1 for each sample it is the share of the votes that each class has.
    """
    means = []
    for weight, index in _neighbours(train, queries, k, temperature):
        weight = (weight / weight.sum(1, keepdim=True)).to(truth.dtype)
        means.append((weight[:, None] @ truth[index])[:, 0])
    return torch.cat(means)


def _neighbours(
    train: Tensor, queries: Tensor, k: int, temperature: float | None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Votes and rows of the nearest training features (n, k), for a block of queries at a time."""
    train = torch.nn.functional.normalize(train.float(), dim=1)
    for block in torch.nn.functional.normalize(queries.float(), dim=1).split(BLOCK):
        near, index = (block @ train.T).topk(min(k, len(train)), dim=1)
        weight = torch.ones_like(near)
        if temperature is not None:
            weight = ((near - near[:, :1]) / temperature).exp()
        yield weight, index
