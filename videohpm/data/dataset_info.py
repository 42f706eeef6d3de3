"""What a data set's dataset.yaml says: classes, sampling, the flip rule, test views."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import yaml

from videohpm.data.transforms import IMAGENET_MEAN, IMAGENET_STD
from videohpm.errors import UserError


@dataclass(frozen=True)
class DatasetInfo:
    """The facts that programs use; ``datasets/shapes/README.md`` explains the file."""

    file: str
    name: str
    class_count: int | None
    classes: list[str] | None
    """Names in the order of the labels."""
    flip_allowed: bool
    flip_why: str
    sampling: str
    stride: int
    clips: int
    """Of a test, over the length of a video; ``crops`` over its frame."""
    crops: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


def read_dataset_info(path: str | Path) -> DatasetInfo:
    """The facts in a dataset.yaml, or in the folder that holds one. Raises UserError."""
    file = Path(path) / "dataset.yaml" if Path(path).is_dir() else Path(path)
    try:
        said = yaml.safe_load(file.read_text(encoding="utf-8"))
        classes, clip = said.get("classes") or {}, said.get("clip") or {}
        test, flip, pixels = (said.get(key) or {} for key in ("test", "flip", "pixels"))
        names = _class_names(file, classes)
        return DatasetInfo(
            file=str(file),
            name=str(said["name"]),
            class_count=int(classes["count"]) if "count" in classes else names and len(names),
            classes=names,
            flip_allowed=bool(flip.get("allowed", False)),
            flip_why=str(flip.get("why", "")),
            sampling=str(test.get("sampling", clip.get("sampling", "dense"))),
            stride=int(clip.get("stride", 1)),
            clips=int(test.get("clips", 1)),
            crops=int(test.get("crops", 1)),
            mean=tuple(float(v) for v in pixels.get("mean", IMAGENET_MEAN)),
            std=tuple(float(v) for v in pixels.get("std", IMAGENET_STD)),
        )
    except (OSError, yaml.YAMLError, AttributeError, KeyError, TypeError, ValueError) as error:
        said = " ".join(str(error).split())
        raise UserError(
            f"dataset: {file} cannot be read ({type(error).__name__}: {said}); give a dataset.yaml "
            "like datasets/shapes/dataset.yaml"
        ) from None


def _class_names(file: Path, classes: dict) -> list[str] | None:
    names = classes.get("names")
    if names is None and classes.get("file"):
        lines = (file.parent / classes["file"]).read_text(encoding="utf-8").splitlines()
        names = [line.strip() for line in lines if line.strip()]
    if names is None:
        return None
    names = [str(name) for name in names]
    if len(names) != int(classes.get("count", len(names))):
        raise ValueError(f"{len(names)} class names for {classes['count']} classes")
    return names
