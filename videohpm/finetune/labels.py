"""Classes of a data set: how many, how much each counts, and what may not be done to them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from videohpm.config.dataset_info import DatasetInfo
from videohpm.errors import UserError


def check_flip(flip: bool, info: DatasetInfo | None) -> None:
    """UserError where clips would be mirrored although their labels say left or right."""
    if info is not None and flip and not info.flip_allowed:
        why = f" ({info.flip_why})" if info.flip_why else ""
        raise UserError(f"data.flip: {info.name} must not be mirrored{why}; set data.flip false")


def count_classes(labels: np.ndarray, info: DatasetInfo | None, names: list[str] | None) -> int:
    """How many classes there are, of which some may have no sample here. Raises UserError."""
    if names is not None:
        return len(names)
    largest = int(labels.max())
    if info is None or info.class_count is None:
        return largest + 1
    if largest >= info.class_count:
        raise UserError(f"dataset: {info.name} has {info.class_count} classes; label {largest}")
    return info.class_count


def class_weights(rule: str | list[float], labels: np.ndarray, classes: int) -> Tensor | None:
    """(classes,) weights with mean 1 over the samples, or None for equal ones. Raises UserError."""
    if rule == "none":
        return None
    counts = np.bincount(labels, minlength=classes)
    if rule == "balanced":
        weights = np.where(counts > 0, 1 / np.maximum(counts, 1), 0.0)
    elif len(rule) != classes:
        raise UserError(f"loss.class_weights: {len(rule)} numbers for {classes} classes")
    else:
        weights = np.array(rule)
    return torch.tensor(weights * len(labels) / (weights * counts).sum(), dtype=torch.float32)
