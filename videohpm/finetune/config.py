"""What a fine-tuning run is told."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from videohpm.data import DataConfig
from videohpm.engine import EngineConfig
from videohpm.errors import UserError
from videohpm.evaluate import ViewConfig
from videohpm.finetune.augment import AugmentConfig
from videohpm.models import SIZES
from videohpm.models.classifier import POOLS
from videohpm.models.vit import POSITIONS
from videohpm.optim import OptimConfig
from videohpm.tracking import RunConfig


@dataclass(frozen=True, kw_only=True)
class ClassifierConfig:
    """The classifier and what it starts from.

    What is left out is as in ``init``; without ``init`` as in :class:`videohpm.VideoClassifier`.

    Args:
        init: run folder, checkpoint or export whose encoder to start from; empty: from scratch.
        weights: student, or teacher (whose encoder is a moving average).
        scratch: take the architecture of init and leave its weights: for comparison.
        freeze: train the head alone: a linear probe, or with pool attentive an attentive one.
        pool: what the head reads: mean (of all tokens), class_token, first_token or attentive.
        arch: vit_tiny to vit_giant.
        frames: frames of a clip; 1, with tubelet 1, makes a model of images.
        image_size: pixels; one number for squares, or [height, width].
        patch: pixels, side of a patch.
        tubelet: frames a token spans. A video encoder's 2 can become 1 (for images), and the
            other way round.
        dim: width, instead of the size's.
        depth: blocks, instead of the size's.
        heads: attention heads, instead of the size's.
        position: sincos_1d, sincos_2d or learned.
        class_token: whether there is one.
        drop_path: stochastic depth of the last block; earlier ones rise to it.
        head_dropout: probability of dropping a pooled feature.
        head_scale: factor on the head's initial weights.
    """

    init: str | None = None
    weights: str = "student"
    scratch: bool = False
    freeze: bool = False
    pool: str = "mean"
    arch: str | None = None
    frames: int | None = None
    image_size: int | list[int] | None = None
    patch: int | None = None
    tubelet: int | None = None
    dim: int | None = None
    depth: int | None = None
    heads: int | None = None
    position: str | None = None
    class_token: bool | None = None
    drop_path: float = 0.1
    head_dropout: float = 0.0
    head_scale: float = 0.001

    def __post_init__(self):
        for name, known in (
            ("weights", ("student", "teacher")),
            ("pool", POOLS),
            ("arch", (None, *SIZES)),
            ("position", (None, *POSITIONS)),
        ):
            if getattr(self, name) not in known:
                choices = ", ".join(filter(None, known))
                raise ValueError(f"model.{name}: {getattr(self, name)!r} is not one of {choices}")
        for name in ("frames", "patch", "tubelet", "dim", "depth", "heads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"model.{name}: {value}; give at least 1")
        if isinstance(self.image_size, list) and len(self.image_size) != 2:
            raise ValueError("model.image_size: give one number, or [height, width]")
        for name in ("drop_path", "head_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"model.{name}: {getattr(self, name)}; give 0 or more, below 1")
        if not 0 <= self.head_scale < math.inf:
            raise ValueError(f"model.head_scale: {self.head_scale}; give 0 or more")


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """Cross-entropy with soft labels.

    Args:
        label_smoothing: share of each label that is spread over all classes.
        class_weights: none, balanced (classes weigh alike, however rare), or one number a class.
    """

    label_smoothing: float = 0.1
    class_weights: str | list[float] = "none"

    def __post_init__(self):
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(
                f"loss.label_smoothing: {self.label_smoothing}; give 0 or more, below 1"
            )
        weights = self.class_weights
        if isinstance(weights, str):
            if weights not in ("none", "balanced"):
                raise ValueError(
                    f"loss.class_weights: {weights!r} is neither none nor balanced nor a list"
                )
        elif not all(0 <= weight < math.inf for weight in weights) or not sum(weights):
            raise ValueError("loss.class_weights: give numbers of 0 or more, not all 0")


@dataclass(frozen=True, kw_only=True)
class ValidationConfig:
    """What a run is validated on while it trains, and tested on at its end.

    Args:
        root: folder of a folder per class; also the base of a manifest's paths. Without root and
            manifest nothing is validated, and the last weights count as the best.
        manifest: file that lists the samples and their labels.
        every_epochs: epochs between two validations, with one view of each video.
        every_steps: the same in optimiser steps; wins over every_epochs where given.
        best_by: what the best weights are best in: top1 or mean_class.
    """

    root: str | None = None
    manifest: str | None = None
    every_epochs: float = 1.0
    every_steps: int | None = None
    best_by: str = "top1"

    def __post_init__(self):
        if self.best_by not in ("top1", "mean_class"):
            raise ValueError(f"validation.best_by: {self.best_by!r} is neither top1 nor mean_class")
        if self.every_steps is not None and self.every_steps < 1:
            raise ValueError(f"validation.every_steps: {self.every_steps}; give at least 1")
        if not 0 < self.every_epochs < math.inf:
            raise ValueError(f"validation.every_epochs: {self.every_epochs}; give more than 0")

    @property
    def given(self) -> bool:
        """Whether there is anything to validate on."""
        return self.root is not None or self.manifest is not None

    def period(self, steps_per_epoch: float) -> int:
        """Optimiser steps between two validations."""
        return self.every_steps or max(1, round(self.every_epochs * steps_per_epoch))


def _run() -> RunConfig:
    return RunConfig(dir="runs/finetune")


def _data() -> DataConfig:
    return DataConfig(crop="random_resized", crop_area=(0.08, 1.0))


def _optim() -> OptimConfig:
    return OptimConfig(
        global_batch_size=512,
        base_lr=5e-4,
        min_lr=1e-6,
        warmup_epochs=5,
        layer_decay=0.75,
        betas=(0.9, 0.999),
    )


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig:
    """All of a fine-tuning run.

    Args:
        dataset: dataset.yaml (or its folder): class names, test views, whether clips may be
            mirrored. Without it they come from the data and from section test.
        ema: decay of a moving average of the weights, which then is what is validated, tested and
            kept as best; 0 for none.
    """

    dataset: str | None = None
    run: RunConfig = field(default_factory=_run)
    data: DataConfig = field(default_factory=_data)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    test: ViewConfig = field(default_factory=ViewConfig)
    model: ClassifierConfig = field(default_factory=ClassifierConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=_optim)
    engine: EngineConfig = field(default_factory=EngineConfig)
    ema: float = 0.0

    def __post_init__(self):
        """What no section can see alone. Raises UserError naming the fields."""
        if not 0 <= self.ema < 1:
            raise UserError(f"ema: {self.ema}; give 0 (none) or more, below 1")
        if self.model.scratch and self.model.freeze:
            raise UserError("model.freeze: a frozen encoder without weights learns nothing useful; "
                            "videohpm probe --random true compares with one")  # fmt: skip
        self.check_batch(1)

    def check_batch(self, world: int) -> None:
        """UserError where the global batch cannot be divided over ``world`` ranks."""
        pieces = world * self.engine.grad_accum_steps
        unit = 2 * pieces if self.augment.mixes else pieces
        if self.optim.global_batch_size % unit:
            why = ", in pairs for mixup" if self.augment.mixes else ""
            raise UserError(
                f"optim.global_batch_size: {self.optim.global_batch_size} clips cannot be "
                f"divided over {world} ranks and "
                f"engine.grad_accum_steps {self.engine.grad_accum_steps}{why}; give a "
                f"multiple of {unit}"
            )
