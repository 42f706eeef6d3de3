"""What a fine-tuning run is to learn: labels, targets, loss, scores and metrics.

A task is one class with the methods of :class:`Task`; the loop knows nothing else of it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from videohpm import evaluate
from videohpm.config import FinetuneConfig
from videohpm.config.dataset_info import DatasetInfo
from videohpm.config.tasks import CLASSIFY, MULTI_LABEL, REGRESS, best_by
from videohpm.data import Batch, Manifest
from videohpm.errors import UserError
from videohpm.finetune.augment import mix
from videohpm.finetune.labels import class_weights, count_classes, warn_of_labels


class Task(Protocol):
    """What the loop of a fine-tuning run needs of its task."""

    outputs: int
    """Outputs of the model's head."""
    names: list[str] | None
    """What each output stands for, where that is known."""
    meaning: evaluate.OutputTask
    """What outputs say, and how they are judged."""

    def check(self, samples: Manifest) -> None:
        """UserError where samples for validation have labels that the task does not."""
        ...

    def targets(self, clips: Tensor, batch: Batch, step: int) -> tuple[Tensor, Tensor]:
        """Clips (B, 3, T, H, W), normalised, and their labels, made ready for a step.

        Returns the clips, perhaps mixed, and what the loss compares the outputs with: (B, …). All
        that is random comes from ``step``. ``batch`` has class numbers as labels, and the rows of
        the manifest for whatever else there is of a sample.
        """
        ...

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The scalar to minimise, from outputs (B, outputs) in fp32."""
        ...

    def step_metrics(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Scalars of a training step, left on the device."""
        ...

    def score(
        self, model: nn.Module, samples: Manifest, protocol: evaluate.EvalProtocol, **options: Any
    ) -> Any:
        """The outputs of the model for all samples, the same on every rank.

        Has ``metrics()``: plain values, among them ``validation.best_by``. ``options`` are those of
        :func:`videohpm.evaluate.score`.
        """
        ...

    def validation_metrics(self, metrics: dict) -> dict[str, float]:
        """Which of the metrics of :meth:`score` are logged after a validation."""
        ...

    def write_results(
        self, folder: Path, scores: Any, samples: Manifest, protocol: evaluate.EvalProtocol,
        metadata: dict,
    ) -> str:  # fmt: skip
        """Write the result of the test; returns it in one or two lines."""
        ...


class Classification:
    """One class a sample: cross-entropy with smoothed and mixed labels, top-1 and top-5."""

    logged = ("top1", "top5", "mean_class", "scored")
    meaning = evaluate.OutputTask()

    def __init__(self, config: FinetuneConfig, manifest: Manifest, info: DatasetInfo | None):
        self.config, self.names = config, manifest.classes
        self.outputs = count_classes(manifest.labels, info, self.names)
        warn_of_labels(manifest.labels, self.outputs, self.names)
        self.weights = class_weights(config.loss.class_weights, manifest.labels, self.outputs)

    def check(self, samples: Manifest) -> None:
        self._check_largest(int(samples.labels.max()))

    def _check_largest(self, largest: int) -> None:
        if largest >= self.outputs:
            raise UserError(
                f"validation.manifest: label {largest}, but the training data has "
                f"{self.outputs} classes (0 to {self.outputs - 1}); check both"
            )

    def targets(self, clips: Tensor, batch: Batch, step: int) -> tuple[Tensor, Tensor]:
        return mix(
            clips,
            batch.labels,
            self.config.augment,
            classes=self.outputs,
            smoothing=self.config.loss.label_smoothing,
            repeats=self.config.data.repeats,
            seed=self.config.run.seed,
            step=step,
        )

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        if self.weights is not None and self.weights.device != outputs.device:
            self.weights = self.weights.to(outputs.device)
        return F.cross_entropy(outputs, targets, weight=self.weights)

    def step_metrics(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        hits = outputs.argmax(1) == targets.argmax(1)
        return {"train_top1": 100 * hits.float().mean()}

    def score(
        self, model: nn.Module, samples: Manifest, protocol: evaluate.EvalProtocol, **options: Any
    ) -> evaluate.Scores:
        return evaluate.score(model, self.outputs, samples, protocol, task=self.meaning, **options)

    def validation_metrics(self, metrics: dict) -> dict[str, float]:
        return {
            f"validation_{name}": metrics[name] for name in self.logged if metrics[name] is not None
        }

    def write_results(
        self,
        folder: Path,
        scores: evaluate.Scores,
        samples: Manifest,
        protocol: evaluate.EvalProtocol,
        metadata: dict,
    ) -> str:
        summary = evaluate.write_results(folder, scores, samples, protocol, self.names, metadata)
        return evaluate.sentence(summary, scores.errors, samples)


class _Numbers(Classification):
    """What tasks have in common whose truth is a row of numbers for each sample."""

    truth: Tensor
    """(samples, outputs) fp32, on the CPU."""

    def targets(self, clips: Tensor, batch: Batch, step: int) -> tuple[Tensor, Tensor]:
        truth = self.truth[batch.index].to(clips.device)
        if not self.config.augment.mixes:
            return clips, truth
        # Mixed by the shares that each clip has in each mixture.
        clips, shares = mix(
            clips,
            torch.arange(len(clips), device=clips.device),
            self.config.augment,
            classes=len(clips),
            smoothing=0.0,
            repeats=self.config.data.repeats,
            seed=self.config.run.seed,
            step=step,
        )
        return clips, shares @ truth

    def step_metrics(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        return {}


class MultiLabelClassification(_Numbers):
    """Several classes a sample: binary cross-entropy of each, mean average precision."""

    logged = ("map", "scored")
    meaning = evaluate.MultiLabel()

    def __init__(self, config: FinetuneConfig, manifest: Manifest, info: DatasetInfo | None):
        self.config, self.names = config, manifest.classes
        largest = np.array([manifest.largest])
        self.outputs = count_classes(largest, info, self.names)
        rows = np.arange(len(manifest))
        self.truth = evaluate.as_tensor(self.meaning.truth(manifest, rows, self.outputs))

    def check(self, samples: Manifest) -> None:
        self._check_largest(int(samples.largest))

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        smoothing = self.config.loss.label_smoothing
        targets = targets * (1 - smoothing) + smoothing / 2
        return F.binary_cross_entropy_with_logits(outputs, targets)


class NumberRegression(_Numbers):
    """One number a sample: squared error of what the training data has standardised."""

    logged = ("mse", "mae", "r2", "scored")

    def __init__(self, config: FinetuneConfig, manifest: Manifest, info: DatasetInfo | None):
        self.config, self.names, self.outputs = config, None, 1
        try:
            self.meaning = evaluate.Regression.of(manifest.values[:, None])
        except ValueError as error:
            raise UserError(f"data: {error}") from None
        self.truth = evaluate.as_tensor(self.meaning.standard(manifest.values[:, None]))

    def check(self, samples: Manifest) -> None:
        by = best_by(REGRESS, self.config.validation.best_by)
        if by == "r2" and len(np.unique(samples.values)) < 2:
            raise UserError(
                "validation.best_by: r2 compares with the spread of the labels, and those of "
                "validation are all the same; give mse or mae"
            )

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return F.mse_loss(outputs, targets)


TASKS = {
    CLASSIFY: Classification,
    MULTI_LABEL: MultiLabelClassification,
    REGRESS: NumberRegression,
}
"""By ``task``: from the configuration, the samples and what is known of the data set, the task."""
