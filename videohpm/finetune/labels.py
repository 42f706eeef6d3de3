"""Classes of a data set: how many, how much each counts, and what may not be done to them."""

from __future__ import annotations

import logging

import numpy as np
import torch
from torch import Tensor

from videohpm.config.dataset_info import DatasetInfo
from videohpm.errors import UserError

MAX_OUTPUTS = 10**7
"""Labels that would need a larger head are refused: its weights alone take gigabytes."""
FAR_LARGER = 4
"""Outputs for each class seen, above which labels are thought to be numbered with gaps."""
NEARLY_ALL, FEW = 0.9, 10
"""Share of the samples with a label of their own that is warned of, from so many samples on."""
_log = logging.getLogger(__name__)


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
    if largest >= MAX_OUTPUTS:
        raise UserError(
            f"data: label {largest} needs a head of {largest + 1} outputs; number the classes from "
            "0 without gaps"
        )
    if info is None or info.class_count is None:
        return largest + 1
    if largest >= info.class_count:
        raise UserError(f"dataset: {info.name} has {info.class_count} classes; label {largest}")
    return info.class_count


def warn_of_labels(labels: np.ndarray, outputs: int, names: list[str] | None) -> None:
    """Warns of labels that are hardly meant: classes without samples, a class for each sample."""
    counts = np.bincount(labels, minlength=outputs)
    seen = int((counts > 0).sum())
    if outputs > FAR_LARGER * seen and names is None:
        _log.warning(
            "data: labels go up to %d, but only %d classes have samples; the head gets %d outputs "
            "(number the classes from 0 without gaps)",
            *(labels.max(), seen, outputs),
        )
    elif seen < outputs:
        first = int(counts.argmin())
        _log.warning(
            "data: %d of %d classes have no sample to train on (first: %s)",
            *(outputs - seen, outputs, names[first] if names else first),
        )
    if len(labels) >= FEW and seen > NEARLY_ALL * len(labels):
        _log.warning(
            "data: %d samples have %d different labels; is the label a number of the sample, or of "
            "its class?",
            *(len(labels), seen),
        )


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
        if not (weights * counts).any():
            raise UserError(f"loss.class_weights: {rule}, and every sample weighs 0")
    return torch.tensor(weights * len(labels) / (weights * counts).sum(), dtype=torch.float32)
