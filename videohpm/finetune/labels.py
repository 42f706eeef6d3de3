"""Classes of a data set: how many, how much each counts, and what may not be done to them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from videohpm.data.dataset_info import DatasetInfo
from videohpm.errors import UserError


def check_flip(flip: bool, facts: DatasetInfo | None) -> None:
    """UserError where clips would be mirrored although their labels say left or right."""
    if facts is not None and flip and not facts.flip_allowed:
        why = f" ({facts.flip_why})" if facts.flip_why else ""
        raise UserError(f"data.flip: {facts.name} must not be mirrored{why}; set data.flip false")


def count_classes(labels: np.ndarray, facts: DatasetInfo | None, names: list[str] | None) -> int:
    """How many classes there are, of which some may have no sample here. Raises UserError."""
    if names is not None:
        return len(names)
    seen = int(labels.max()) + 1
    if facts is None or facts.class_count is None:
        return seen
    if seen > facts.class_count:
        raise UserError(f"dataset: {facts.name} has {facts.class_count} classes; label {seen - 1}")
    return facts.class_count


def class_weights(wish: str | list[float], labels: np.ndarray, classes: int) -> Tensor | None:
    """(classes,) weights with mean 1 over the samples, or None for equal ones. Raises UserError."""
    if wish == "none":
        return None
    counts = np.bincount(labels, minlength=classes)
    if wish == "balanced":
        weights = np.where(counts > 0, 1 / np.maximum(counts, 1), 0.0)
    elif len(wish) != classes:
        raise UserError(f"loss.class_weights: {len(wish)} numbers for {classes} classes")
    else:
        weights = np.array(wish)
    return torch.tensor(weights * len(labels) / (weights * counts).sum(), dtype=torch.float32)
