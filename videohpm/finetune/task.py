"""What a fine-tuning run is to learn: labels, targets, loss, scores and metrics.

A task is one class with the methods of :class:`Task`; the loop knows nothing else of it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import torch.nn.functional as F
from torch import Tensor, nn

from videohpm import evaluate
from videohpm.config import FinetuneConfig
from videohpm.config.dataset_info import DatasetInfo
from videohpm.data import Manifest
from videohpm.errors import UserError
from videohpm.finetune.augment import mix
from videohpm.finetune.labels import class_weights, count_classes, warn_of_labels


class Task(Protocol):
    """What the loop of a fine-tuning run needs of its task."""

    outputs: int
    """Outputs of the model's head."""
    names: list[str] | None
    """What each output stands for, where that is known."""

    def check(self, samples: Manifest) -> None:
        """UserError where samples for validation have labels that the task does not."""
        ...

    def targets(self, clips: Tensor, labels: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """Clips (B, 3, T, H, W), normalised, and their labels (B, …), made ready for a step.

        Returns the clips, perhaps mixed, and what the loss compares the outputs with: (B, …). All
        that is random comes from ``step``.
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

    def __init__(self, config: FinetuneConfig, manifest: Manifest, info: DatasetInfo | None):
        self.config, self.names = config, manifest.classes
        self.outputs = count_classes(manifest.labels, info, self.names)
        warn_of_labels(manifest.labels, self.outputs, self.names)
        self.weights = class_weights(config.loss.class_weights, manifest.labels, self.outputs)

    def check(self, samples: Manifest) -> None:
        largest = int(samples.labels.max())
        if largest >= self.outputs:
            raise UserError(
                f"validation.manifest: label {largest}, but the training data has "
                f"{self.outputs} classes (0 to {self.outputs - 1}); check both"
            )

    def targets(self, clips: Tensor, labels: Tensor, step: int) -> tuple[Tensor, Tensor]:
        return mix(
            clips,
            labels,
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
        return evaluate.score(model, self.outputs, samples, protocol, **options)

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
