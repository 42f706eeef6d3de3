"""What is known of a data set, from its dataset.yaml: classes, sampling, the flip rule, views."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from videohpm.config.checks import at_least, choice
from videohpm.config.data import IMAGENET_MEAN, IMAGENET_STD, SAMPLINGS
from videohpm.config.places import find
from videohpm.config.plain import ODD_YAML
from videohpm.errors import ConfigError


@dataclass(frozen=True)
class DatasetInfo:
    """What programs use of a dataset.yaml; ``datasets/shapes/README.md`` explains the file."""

    file: str
    name: str
    class_count: int | None
    classes: list[str] | None
    """Names in the order of the labels."""
    flip_allowed: bool
    flip_why: str
    clip: dict[str, Any]
    """How clips are cut for fine-tuning: ``sampling`` and ``stride``, as far as the file has
    them."""
    pretrain_clip: dict[str, Any]
    """The same for pre-training."""
    views: dict[str, Any]
    """Of a test: ``clips`` (over the length of a video), ``crops`` (over its frame), and
    ``sampling`` and ``stride`` as far as the file has them."""
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def finetune_defaults(self) -> dict[str, Any]:
        """Fields of a fine-tuning that the data set decides where the user does not."""
        fields = {f"data.{name}": value for name, value in self.clip.items()}
        return fields | {"data.flip": self.flip_allowed}

    def pretrain_defaults(self) -> dict[str, Any]:
        """Fields of a pre-training that the data set decides where the user does not."""
        return {f"data.{name}": value for name, value in self.pretrain_clip.items()}


def read_dataset_info(path: str | Path) -> DatasetInfo:
    """The contents of a dataset.yaml, or of the one in a folder. Raises ConfigError.

    A relative path that is not there is looked for beside the recipes (:mod:`.places`).
    """
    import yaml

    file = find(path)
    if file.is_dir():
        file = file / "dataset.yaml"
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
        classes, test, flip, pixels = (
            content.get(key) or {} for key in ("classes", "test", "flip", "pixels")
        )
        clip = _clip(content, "clip")
        pretrain_clip = _clip(content, "pretrain_clip") or clip
        names = _class_names(file, classes)
        count = len(names) if names is not None else None
        return DatasetInfo(
            file=str(file),
            name=str(content["name"]),
            class_count=int(classes["count"]) if "count" in classes else count,
            classes=names,
            flip_allowed=bool(flip.get("allowed", False)),
            flip_why=str(flip.get("why", "")),
            clip=clip,
            pretrain_clip=pretrain_clip,
            views={"clips": int(test.get("clips", 1)), "crops": int(test.get("crops", 1))}
            | clip
            | _clip(content, "test"),
            mean=_channels(pixels.get("mean", IMAGENET_MEAN)),
            std=_channels(pixels.get("std", IMAGENET_STD)),
        )
    except (OSError, yaml.YAMLError, TypeError, *ODD_YAML) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(
            f"dataset: {file} cannot be read ({type(error).__name__}: {reason}); give a "
            "dataset.yaml like datasets/shapes/dataset.yaml"
        ) from None


def _clip(content: Mapping[str, Any], section: str) -> dict[str, Any]:
    """Sampling and stride of a section, as far as it has them."""
    clip = {k: v for k, v in (content.get(section) or {}).items() if k in ("sampling", "stride")}
    choice(f"{section}.sampling", clip.get("sampling"), (None, *SAMPLINGS))
    at_least(f"{section}.stride", clip.get("stride"), 1)
    return clip


def _class_names(file: Path, classes: Mapping[str, Any]) -> list[str] | None:
    names = classes.get("names")
    if names is None and classes.get("file"):
        text = (file.parent / classes["file"]).read_text(encoding="utf-8")
        names = [line.strip() for line in text.rstrip().splitlines()]
        if not all(names):
            at = names.index("") + 1
            raise ValueError(f"{classes['file']} line {at} is empty: classes are numbered by line")
    if names is None:
        return None
    names = [str(name) for name in names]
    if len(names) != int(classes.get("count", len(names))):
        raise ValueError(f"{len(names)} class names for {classes['count']} classes")
    return names


def _channels(values: Any) -> tuple[float, float, float]:
    red, green, blue = (float(value) for value in values)
    return red, green, blue
