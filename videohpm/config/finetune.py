"""Configuration of a fine-tuning run."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Any

from videohpm.config.architecture import POOLS, POSITIONS
from videohpm.config.checks import Section
from videohpm.config.data import DataConfig
from videohpm.config.dataset_info import read_dataset_info
from videohpm.config.engine import EngineConfig, check_batch
from videohpm.config.evaluate import ViewConfig
from videohpm.config.optim import OptimConfig
from videohpm.config.run import RunConfig
from videohpm.config.sizes import SIZES
from videohpm.config.tasks import BEST_BY, CLASSIFY, TASKS, best_by
from videohpm.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class ClassifierConfig:
    """The classifier and what it starts from.

    What is left out is as in ``init``; without ``init`` as in :class:`videohpm.VideoClassifier`.

    Args:
        init: run folder, checkpoint, export, or published checkpoint in any layout that videohpm
            convert reads, whose encoder to start from; empty: from scratch.
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
        position: sincos_1d, sincos_2d or learned; with init, learned also makes its fixed
            embedding a trained one, which starts as it was (MAE and HPM fine-tune so).
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
        check = Section(self, "model")
        check.choice("weights", ("student", "teacher"))
        check.choice("pool", POOLS)
        check.choice("arch", (None, *SIZES))
        check.choice("position", (None, *POSITIONS))
        check.at_least(1, "frames", "patch", "tubelet", "dim", "depth", "heads")
        check.image_size("image_size")
        check.fraction("drop_path", "head_dropout", one=False)
        check.at_least(0, "head_scale")


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """What is done to training clips besides the crop of section data.

    Args:
        rand_augment: timm's name of a RandAugment policy; empty for none.
        rand_augment_input: crop, with data.interpolation and the mean colour where nothing is left
            (timm; MAE and HPM on images), or frame: the whole frames before the crop, bicubic and
            grey 128 (VideoMAE), which takes longer the larger the frames are.
        random_erasing: probability of erasing a box of the clip, filled with noise.
        erasing_noise: one noise for the clip, on all of its frames, or a new one in each frame
            (VideoMAE). As clips are bytes, it is clipped to 0..255; published it is not.
        mixup: alpha of the Beta distribution that mixup weights come from; 0 for no mixup.
        cutmix: the same for the areas of cutmix; 0 for none. With both, each is as likely.
        mix_probability: share of the steps that mix at all.
    """

    rand_augment: str = "rand-m7-n4-mstd0.5-inc1"
    rand_augment_input: str = "crop"
    random_erasing: float = 0.25
    erasing_noise: str = "clip"
    mixup: float = 0.8
    cutmix: float = 1.0
    mix_probability: float = 1.0

    def __post_init__(self):
        check = Section(self, "augment")
        check.choice("rand_augment_input", ("crop", "frame"))
        check.choice("erasing_noise", ("clip", "frame"))
        check.fraction("random_erasing", "mix_probability")
        check.at_least(0, "mixup", "cutmix")
        if self.rand_augment and not _is_policy(self.rand_augment):
            raise ConfigError(
                f"augment.rand_augment: {self.rand_augment!r} is no policy of timm's; give one "
                "like rand-m7-n4-mstd0.5-inc1, or nothing"
            )

    @property
    def mixes(self) -> bool:
        """Whether clips are mixed with each other."""
        return (self.mixup > 0 or self.cutmix > 0) and self.mix_probability > 0


def _is_policy(name: str) -> bool:
    """Whether timm might know a RandAugment policy; it says for certain when a run starts."""
    variant, *settings = name.split("-")
    known = re.compile(r"t|\D*$|(m|n|p|mstd|mmax|inc)\d")
    return variant == "rand" and all(known.match(setting) for setting in settings)


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """Cross-entropy with soft labels; of several labels binary, of numbers the squared error.

    Args:
        label_smoothing: share of each label that is spread over all classes; of several labels,
            over yes and no; numbers have none.
        class_weights: none, balanced (classes weigh alike, however rare), or one number a class.
    """

    label_smoothing: float = 0.1
    class_weights: str | list[float] = "none"

    def __post_init__(self):
        Section(self, "loss").fraction("label_smoothing", one=False)
        weights = self.class_weights
        if isinstance(weights, str):
            if weights not in ("none", "balanced"):
                raise ConfigError(
                    f"loss.class_weights: {weights!r} is neither none nor balanced nor a list"
                )
        elif not all(0 <= weight < math.inf for weight in weights) or not sum(weights):
            raise ConfigError("loss.class_weights: give numbers of 0 or more, not all 0")


@dataclass(frozen=True, kw_only=True)
class ValidationConfig:
    """What a run is validated on while it trains, and tested on at its end.

    Args:
        root: folder of a folder per class; also the base of a manifest's paths. Without root and
            manifest nothing is validated, and the last weights count as the best.
        manifest: file that lists the samples and their labels.
        every_epochs: epochs between two validations, with one view of each video.
        every_steps: the same in optimiser steps; wins over every_epochs where given.
        best_by: what the best weights are best in: top1 or mean_class; with task multi_label map;
            with regress r2, mse or mae. Empty: the first of these.
    """

    root: str | None = None
    manifest: str | None = None
    every_epochs: float = 1.0
    every_steps: int | None = None
    best_by: str | None = None

    def __post_init__(self):
        check = Section(self, "validation")
        check.choice("best_by", (None, *(name for names in BEST_BY.values() for name in names)))
        check.at_least(1, "every_steps")
        check.above_zero("every_epochs")

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
            mirrored. Without it they come from the data and from section test. On the command line
            and in recipes data.sampling, data.stride and data.flip are the data set's where they
            are not given.
        task: what a label is: classify, one class; multi_label, several (``a;b`` in a list), judged
            by mean average precision; regress, one number, judged by MSE, MAE and R2.
        ema: decay of a moving average of the weights, which then is what is validated, tested and
            kept as best; 0 for none.
        test_weights: what is tested at the end: the weights that were best in validation (MAE,
            HPM), or the last (VideoMAE). The best ones were chosen on the samples that they are
            tested on, so their result is optimistic.
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
    task: str = CLASSIFY
    ema: float = 0.0
    test_weights: str = "best"

    def __post_init__(self):
        """What no section can see alone. Raises ConfigError naming the fields."""
        check = Section(self)
        check.fraction("ema", one=False)
        check.choice("test_weights", ("best", "last"))
        check.choice("task", TASKS)
        best_by(self.task, self.validation.best_by)
        if self.task != CLASSIFY and self.loss.class_weights != "none":
            raise ConfigError(f"loss.class_weights: not with task {self.task}; give none")
        if self.model.scratch and self.model.freeze:
            raise ConfigError(
                "model.freeze: a frozen encoder without weights learns nothing useful; "
                "videohpm probe --random true compares with one"
            )
        self.check_batch(1)

    @staticmethod
    def dataset_defaults(dataset: str) -> dict[str, Any]:
        """Fields, by dotted name, that the data set decides where the user does not."""
        return read_dataset_info(dataset).finetune_defaults()

    def check_batch(self, world: int) -> None:
        """ConfigError where the global batch cannot be divided over ``world`` ranks."""
        check_batch(
            self.optim.global_batch_size,
            self.engine.accumulation,
            world,
            per="ranks",
            pairs=self.augment.mixes,
        )
