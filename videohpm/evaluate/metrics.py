"""How well predictions agree with the truth: of classes, of several classes, of numbers."""

from __future__ import annotations

import numpy as np


def ranks_of(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """How many classes stand before the right one: (n,); 0 is a hit.

    Of equally probable classes the lower number comes first, as :func:`top_classes` orders them.
    """
    right = np.take_along_axis(probabilities, labels[:, None], 1)
    earlier = np.arange(probabilities.shape[1])[None] < labels[:, None]
    before = (probabilities > right) | ((probabilities == right) & earlier)
    return before.sum(1)


def top_classes(probabilities: np.ndarray, count: int) -> np.ndarray:
    """The ``count`` most probable classes of each row, best first: (n, count)."""
    return np.argsort(-probabilities, axis=1, kind="stable")[:, :count]


def confusion(predicted: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """How often each true class (row) was predicted as each (column): (classes, classes) int64."""
    table = np.zeros((classes, classes), dtype=np.int64)
    np.add.at(table, (labels, predicted), 1)
    return table


def accuracy(probabilities: np.ndarray, labels: np.ndarray) -> dict[str, float | None]:
    """``top1``, ``top5`` and ``mean_class`` (over the classes that occur), in per cent.

    None where there is nothing to score; ``top5`` of fewer than six classes is 100.
    """
    if len(labels) == 0:
        return {"top1": None, "top5": None, "mean_class": None}
    ranks = ranks_of(probabilities, labels)
    hits = np.bincount(labels, ranks == 0)
    counts = np.bincount(labels)
    return {
        "top1": 100 * float((ranks == 0).mean()),
        "top5": 100 * float((ranks < 5).mean()),
        "mean_class": 100 * float((hits[counts > 0] / counts[counts > 0]).mean()),
    }


def average_precision(scores: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Σ (Rₙ − Rₙ₋₁)·Pₙ over the thresholds n of each class: (classes,); nan without a positive.

    Precision P and recall R are of all samples whose score is at least the threshold, so that the
    order of equal scores does not matter (as in scikit-learn).

    Args:
        scores: (n, classes), larger = more likely.
        truth: (n, classes) bool.
    """
    found = np.full(scores.shape[1], np.nan)
    for number in range(scores.shape[1]):
        order = np.argsort(-scores[:, number], kind="stable")
        ranked, right = scores[order, number], truth[order, number]
        if not right.any():
            continue
        last = np.flatnonzero(np.append(np.diff(ranked) != 0, True))  # of each run of equal ones
        hits = np.cumsum(right)[last]
        found[number] = (np.diff(hits, prepend=0) / right.sum() * hits / (last + 1)).sum()
    return found


def regression_errors(predicted: np.ndarray, truth: np.ndarray) -> dict[str, float | None]:
    """``mse``, ``mae`` and ``r2`` (1 − Σ error² / Σ (truth − mean)²) of numbers (n,).

    None where there is nothing to score; ``r2`` also where all of the truth is one number.
    """
    if len(truth) == 0:
        return {"mse": None, "mae": None, "r2": None}
    errors = predicted - truth
    total = np.square(truth - truth.mean()).sum()
    return {
        "mse": float(np.square(errors).mean()),
        "mae": float(np.abs(errors).mean()),
        "r2": float(1 - np.square(errors).sum() / total) if total > 0 else None,
    }
