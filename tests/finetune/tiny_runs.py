"""Settings of tiny fine-tuning runs on the made data sets."""

from dataclasses import replace
from pathlib import Path

from videohpm.config import (
    AugmentConfig,
    ClassifierConfig,
    FinetuneConfig,
    OptimConfig,
    RunConfig,
    ValidationConfig,
)
from videohpm.data import DataConfig
from videohpm.engine import EngineConfig
from videohpm.evaluate import ViewConfig

PLAIN = AugmentConfig(rand_augment="", random_erasing=0.0, mixup=0.0, cutmix=0.0)
TINY = {"frames": 4, "image_size": 32, "patch": 8, "tubelet": 2, "dim": 24, "depth": 2, "heads": 2}


def settings(shapes: Path, folder: Path, steps: int = 6, **changes) -> FinetuneConfig:
    """A run of a few steps on 32 clips, validated on 16 every fourth; logged every step."""
    default = FinetuneConfig(
        run=RunConfig(dir=str(folder), steps=steps, log_every=1, save_every=0),
        data=DataConfig(
            manifest=str(shapes / "train-shape.csv"),
            workers=0, stride=2, crop="random_resized", crop_area=(0.5, 1.0),
        ),
        validation=ValidationConfig(
            manifest=str(shapes / "validation-shape.csv"), every_steps=4
        ),
        test=ViewConfig(clips=2, batch=8),
        model=ClassifierConfig(arch="vit_tiny", drop_path=0.1, **TINY),
        optim=OptimConfig(
            global_batch_size=8, base_lr=3e-2, min_lr=1e-4, warmup_steps=2,
            layer_decay=0.75, betas=(0.9, 0.999),
        ),
        engine=EngineConfig(device="cpu", precision="fp32"),
    )  # fmt: skip
    return replace(default, **changes)


def two_process_settings(shapes: Path, folder: Path) -> FinetuneConfig:
    """A run that one process and two can be compared on: drop-path is drawn by each for itself."""
    config = settings(shapes, folder, steps=4, ema=0.5)
    return replace(config, model=replace(config.model, drop_path=0.0))
