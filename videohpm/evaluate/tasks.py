"""What outputs of a model mean, and how well they agree with the truth: one class for each task.

:data:`TASKS` has them by name. A model's config.json says which one it was trained for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from videohpm.config.tasks import CLASSIFY, MULTI_LABEL, REGRESS
from videohpm.data import Manifest
from videohpm.evaluate.metrics import accuracy, average_precision, regression_errors

Metrics = dict[str, float | None]


@dataclass(frozen=True)
class OutputTask:
    """One class a sample: what all tasks can be asked."""

    name: str = CLASSIFY

    def predicted(self, outputs: Tensor) -> Tensor:
        """What outputs (…, C) of a model say, in the same shape: probabilities of the classes."""
        return outputs.softmax(-1)

    def truth(self, samples: Manifest, rows: np.ndarray, outputs: int) -> np.ndarray:
        """(n,) class numbers of these rows, -1 where unknown; of other tasks (n, outputs)."""
        return samples.labels[rows].astype(np.int64)

    def metrics(self, predicted: np.ndarray, truth: np.ndarray) -> Metrics:
        """The metrics of predictions (n, C), over the rows whose truth is known."""
        known = truth >= 0
        return accuracy(predicted[known], truth[known])

    def plain(self) -> dict[str, Any]:
        """What config.json holds of it."""
        return {"name": self.name}


@dataclass(frozen=True)
class MultiLabel(OutputTask):
    """Several classes a sample, each with a probability of its own."""

    name: str = MULTI_LABEL

    def predicted(self, outputs: Tensor) -> Tensor:
        return outputs.sigmoid()

    def truth(self, samples: Manifest, rows: np.ndarray, outputs: int) -> np.ndarray:
        return samples.label_sets(rows, outputs).astype(np.float64)

    def metrics(self, predicted: np.ndarray, truth: np.ndarray) -> Metrics:
        """Mean average precision over the classes that occur, in per cent."""
        found = average_precision(predicted, truth > 0)
        known = found[~np.isnan(found)]
        return {"map": 100 * float(known.mean()) if len(known) else None}


@dataclass(frozen=True)
class Regression(OutputTask):
    """One number a sample: the model's output times ``std``, plus ``mean``."""

    name: str = REGRESS
    mean: float = 0.0
    std: float = 1.0

    def predicted(self, outputs: Tensor) -> Tensor:
        return outputs.double() * self.std + self.mean

    def truth(self, samples: Manifest, rows: np.ndarray, outputs: int) -> np.ndarray:
        return samples.values[rows][:, None]

    def metrics(self, predicted: np.ndarray, truth: np.ndarray) -> Metrics:
        return regression_errors(predicted[:, 0].astype(np.float64), truth[:, 0])

    def plain(self) -> dict[str, Any]:
        return {"name": self.name, "mean": self.mean, "std": self.std}


TASKS: dict[str, type[OutputTask]] = {
    CLASSIFY: OutputTask,
    MULTI_LABEL: MultiLabel,
    REGRESS: Regression,
}


def task_from(saved: object) -> OutputTask:
    """The task that config.json names; one class a sample where it names none.

    Raises ValueError for what :meth:`OutputTask.plain` did not write.
    """
    if saved is None:
        return OutputTask()
    if not isinstance(saved, Mapping) or saved.get("name") not in TASKS:
        raise ValueError(f"task: {saved!r} is not one of {', '.join(TASKS)}")
    settings = {name: saved[name] for name in ("mean", "std") if name in saved}
    if any(not isinstance(value, int | float) for value in settings.values()):
        raise ValueError(f"task: {saved!r} has settings that are no numbers")
    try:
        return TASKS[saved["name"]](**settings)
    except TypeError as error:
        raise ValueError(f"task: {error}") from None


def as_tensor(truth: np.ndarray) -> Tensor:
    """The truth as what losses compare with: class numbers, or rows of numbers in fp32."""
    return torch.from_numpy(truth if truth.ndim == 1 else truth.astype(np.float32))
