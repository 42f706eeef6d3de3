"""The clips of a fine-tuning run: those it trains on, and the views of the others."""

from __future__ import annotations

from videohpm import evaluate
from videohpm.config import FinetuneConfig
from videohpm.config.dataset_info import DatasetInfo
from videohpm.data import (
    ClipDataset,
    ImageDataset,
    Manifest,
    VideoDataset,
    find_samples,
    training_transform,
)
from videohpm.errors import fields_called
from videohpm.finetune.augment import augmented
from videohpm.grid import TokenGrid


def training_clips(config: FinetuneConfig, manifest: Manifest, grid: TokenGrid) -> ClipDataset:
    """Cropped and augmented clips that fit ``grid``. UserError where images are to be videos."""
    data, size = config.data, (grid.height, grid.width)
    evaluate.check_kind(manifest, grid.frames)
    crop = training_transform(data, size)
    transform = augmented(crop, config.augment, data.mean, data.std, data.interpolation)
    kind = ImageDataset if grid.frames == 1 else VideoDataset
    return kind(
        manifest, data, frames=grid.frames, size=size, seed=config.run.seed, transform=transform
    )


def final_protocol(
    config: FinetuneConfig, info: DatasetInfo | None, grid: TokenGrid
) -> evaluate.EvalProtocol:
    """The test at the end: frames as far apart as in training, the views of the data set."""
    data = config.data
    as_trained = evaluate.EvalProtocol.as_trained(data, grid)
    return as_trained.changed(info, {"stride": data.stride} | config.test.given())


def validation_samples(config: FinetuneConfig, names: list[str] | None) -> Manifest | None:
    """The samples of section validation, if it names any.

    ``names`` are the classes of the training data; None: they are known by number only.
    """
    given = config.validation
    if not given.given:
        return None
    with fields_called({"data.root": "validation.root", "data.manifest": "validation.manifest"}):
        return find_samples(
            given.root,
            given.manifest,
            labels=True,
            kind=config.data.kind,
            classes=names,
            numbered=names is None,
            task=config.task,
        )
