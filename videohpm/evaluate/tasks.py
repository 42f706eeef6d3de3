"""What outputs of a model mean, and how well they agree with the truth: one class for each task.

:data:`TASKS` has them by name. A model's config.json says which one it was trained for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from videohpm.config.tasks import CLASSIFY, MULTI_LABEL, REGRESS
from videohpm.data import Manifest
from videohpm.data.label_sets import NONE
from videohpm.evaluate.metrics import accuracy, average_precision, regression_errors, top_classes

Metrics = dict[str, float | None]
Row = dict[str, Any]
"""Cells of one sample in predictions.csv, by column."""


@dataclass(frozen=True)
class OutputTask:
    """One class a sample: what all tasks can be asked."""

    name: str = CLASSIFY
    columns: ClassVar[tuple[str, ...]] = (
        *("label", "prediction", "right", "probability", "logit", "margin", "top5"),
    )
    """Of predictions.csv, between the path and the error."""
    shown: ClassVar[dict[str, tuple[str, int]]] = {
        "top1": ("top-1", 6), "top5": ("top-5", 6), "mean_class": ("mean class", 10),
    }  # fmt: skip
    """The metrics in a table on the screen, what they are called and how wide they are."""

    @classmethod
    def of(cls, truth: np.ndarray) -> OutputTask:
        """The task of a model that is trained on this truth.

        Raises ValueError where there is nothing to learn.
        """
        return cls()

    def standard(self, truth: np.ndarray) -> np.ndarray:
        """What the outputs of a model are trained to be, in the shape of ``truth``."""
        return truth

    def unstandard(self, outputs: Tensor) -> Tensor:
        """The reverse of :meth:`standard`."""
        return outputs

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

    def row(self, predicted: np.ndarray, logits: np.ndarray, truth: Any, names: list[str]) -> Row:
        """The cells of one sample, in ``columns``.

        ``logit`` is the predicted class's, averaged over views, ``margin`` its lead over the next;
        ``top5`` lists classes and their probabilities.

        Args:
            predicted, logits: (C,).
            truth: one row of what :meth:`truth` returns.
            names: of the C classes.
        """
        best = top_classes(predicted[None], 5)[0]
        label, first = int(truth), int(best[0])
        rest = np.delete(logits, first)
        return {
            "label": names[label] if label >= 0 else "",
            "prediction": names[first],
            "right": int(label == first) if label >= 0 else "",
            "probability": f"{predicted[first]:.6f}",
            "logit": f"{logits[first]:.5f}",
            "margin": f"{logits[first] - rest.max():.5f}" if len(rest) else "",
            "top5": _listed(best, predicted, names),
        }

    def plain(self) -> dict[str, Any]:
        """What config.json holds of it."""
        return {"name": self.name}


@dataclass(frozen=True)
class MultiLabel(OutputTask):
    """Several classes a sample, each with a probability of its own."""

    name: str = MULTI_LABEL
    columns: ClassVar[tuple[str, ...]] = ("label", "prediction", "top5")
    shown: ClassVar[dict[str, tuple[str, int]]] = {"map": ("mAP", 6)}

    def predicted(self, outputs: Tensor) -> Tensor:
        return outputs.sigmoid()

    def truth(self, samples: Manifest, rows: np.ndarray, outputs: int) -> np.ndarray:
        return samples.label_sets(rows, outputs).astype(np.float64)

    def metrics(self, predicted: np.ndarray, truth: np.ndarray) -> Metrics:
        """Mean average precision over the classes that occur, in per cent."""
        found = average_precision(predicted, truth > 0)
        known = found[~np.isnan(found)]
        return {"map": 100 * float(known.mean()) if len(known) else None}

    def row(self, predicted: np.ndarray, logits: np.ndarray, truth: Any, names: list[str]) -> Row:
        """``prediction`` are the classes of probability 0.5 and more."""
        chosen = {"label": truth > 0, "prediction": predicted >= 0.5}
        cells = {
            column: "; ".join(names[c] for c in np.flatnonzero(which).tolist()) or NONE
            for column, which in chosen.items()
        }
        return cells | {"top5": _listed(top_classes(predicted[None], 5)[0], predicted, names)}


@dataclass(frozen=True)
class Regression(OutputTask):
    """One number a sample: the model's output times ``std``, plus ``mean``."""

    name: str = REGRESS
    mean: float = 0.0
    std: float = 1.0
    columns: ClassVar[tuple[str, ...]] = ("label", "prediction", "residual")
    shown: ClassVar[dict[str, tuple[str, int]]] = {
        "mse": ("MSE", 10), "mae": ("MAE", 10), "r2": ("R2", 6),
    }  # fmt: skip

    @classmethod
    def of(cls, truth: np.ndarray) -> OutputTask:
        """Outputs have mean 0 and standard deviation 1 over ``truth``."""
        mean, std = float(truth.mean()), float(truth.std())
        if std == 0:
            raise ValueError(f"all samples have the number {mean:g}; there is nothing to learn")
        return cls(mean=mean, std=std)

    def standard(self, truth: np.ndarray) -> np.ndarray:
        return (truth - self.mean) / self.std

    def unstandard(self, outputs: Tensor) -> Tensor:
        return outputs.double() * self.std + self.mean

    def predicted(self, outputs: Tensor) -> Tensor:
        return self.unstandard(outputs)

    def truth(self, samples: Manifest, rows: np.ndarray, outputs: int) -> np.ndarray:
        return samples.values[rows][:, None]

    def metrics(self, predicted: np.ndarray, truth: np.ndarray) -> Metrics:
        return regression_errors(predicted[:, 0].astype(np.float64), truth[:, 0])

    def row(self, predicted: np.ndarray, logits: np.ndarray, truth: Any, names: list[str]) -> Row:
        found, right = predicted[0], truth[0]
        known = {} if np.isnan(right) else {
            "label": f"{right:.6g}", "residual": f"{found - right:.6g}",
        }  # fmt: skip
        return {"prediction": f"{found:.6g}"} | known

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


def _listed(classes: np.ndarray, probabilities: np.ndarray, names: list[str]) -> str:
    return "; ".join(f"{names[c]} {probabilities[c]:.4f}" for c in classes.tolist())
