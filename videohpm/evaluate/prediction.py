"""From files to features and class names: the Python calls, and their commands."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from videohpm.checkpoint import check_writable
from videohpm.config import ViewConfig
from videohpm.config.checks import at_least
from videohpm.config.machine import reading_processes
from videohpm.config.tasks import REGRESS
from videohpm.data import Manifest, find_samples
from videohpm.data.frame_folders import is_frame_folder
from videohpm.data.manifest_parser import IMAGE_SUFFIXES
from videohpm.data.sample_files import files_in
from videohpm.engine import resolved_precision
from videohpm.errors import UserError, fields_called, printable
from videohpm.evaluate.command import check_kind, resolve_device
from videohpm.evaluate.extraction import Features, extract, write_features
from videohpm.evaluate.load import Loaded, fingerprint, load
from videohpm.evaluate.metrics import top_classes
from videohpm.evaluate.multiview import score
from videohpm.evaluate.processes import EvalProcesses, init_eval_processes
from videohpm.evaluate.results import UNREADABLE
from videohpm.models import VideoClassifier

LISTS = (".csv", ".tsv", ".txt", ".jsonl")
_log = logging.getLogger(__name__)
Model = Loaded | str | os.PathLike[str]


@dataclass(frozen=True)
class Prediction:
    """One video's most probable classes, best first; ``error`` where it could not be read."""

    path: str
    names: list[str]
    labels: list[int]
    probabilities: list[float]
    error: str | None = None
    value: float | None = None
    """The predicted number, of a model that was trained for task regress; it has no classes."""


def predict(
    model: Model,
    paths: Sequence[str | os.PathLike],
    top: int = 5,
    *,
    device: str | torch.device = "cpu",
    **views: Any,
) -> list[Prediction]:
    """The most probable classes of videos (or images, for a model of images).

    Args:
        paths: files, folders of extracted frames, or folders in which videos (images) are.
        model: what :func:`videohpm.evaluate.load` returns, or a path for it.
        top: how many classes.
        views: fields of :class:`videohpm.evaluate.ViewConfig`, such as clips and crops.

    Raises UserError for a model that is no classifier.
    """
    at_least("top", top, 1)
    loaded = as_loaded(model)
    classifier = loaded.classifier()
    manifest, view = _samples(paths, loaded), _views(views)
    scores = score(
        classifier.to(torch.device(device)),
        classifier.config.classes,
        manifest,
        loaded.protocol.changed(None, view.given()),
        processes=EvalProcesses(),
        device=torch.device(device),
        batch=view.batch,
        bf16=_in_bf16(device),
        task=loaded.task,
    )
    predictions = {
        i: Prediction(manifest.name(i), [], [], [], why) for i, why in scores.errors.items()
    }
    best = top_classes(scores.probabilities, top)
    for position, row in enumerate(scores.index.tolist()):
        if loaded.task.name == REGRESS:
            number = float(scores.probabilities[position, 0])
            predictions[row] = Prediction(manifest.name(row), [], [], [], value=number)
            continue
        labels = best[position].tolist()
        predictions[row] = Prediction(
            manifest.name(row),
            [loaded.name_of(label) for label in labels],
            labels,
            scores.probabilities[position][labels].tolist(),
        )
    return [predictions[row] for row in sorted(predictions)]


def features(
    model: Model,
    paths: Sequence[str | os.PathLike],
    what: str = "pooled",
    *,
    device: str | torch.device = "cpu",
    **views: Any,
) -> Features:
    """Frozen features of videos (or images): ``.pooled`` (n, V, D), ``.tokens``, ``.spans``.

    Args:
        paths: as of :func:`predict`.
        model: what :func:`videohpm.evaluate.load` returns, or a path for it.
        what: pooled, tokens or both.
        views: fields of :class:`videohpm.evaluate.ViewConfig`, such as clips and crops.
    """
    loaded = as_loaded(model)
    view = _views(views)
    return extract(
        loaded,
        _samples(paths, loaded),
        loaded.protocol.changed(None, view.given()),
        what=what,
        device=torch.device(device),
        batch=view.batch,
        bf16=_in_bf16(device),
    )


def as_loaded(model: Model) -> Loaded:
    """The model itself, or the one at a path."""
    return model if isinstance(model, Loaded) else load(model)


def _in_bf16(device: str | torch.device) -> bool:
    """Whether training would compute in bf16 there."""
    return resolved_precision("auto", torch.device(device)) == "bf16"


def _views(views: dict[str, Any]) -> ViewConfig:
    given: dict[str, Any] = {"clips": 1, "crops": 1} | views
    try:
        return ViewConfig(**given)
    except (TypeError, ValueError) as error:
        raise UserError(str(error).removeprefix("test.")) from None


def _samples(paths: Sequence[str | os.PathLike], loaded: Loaded) -> Manifest:
    """Files by name; a missing one is an error, an unreadable one a failed prediction."""
    if isinstance(paths, str | os.PathLike):
        paths = [paths]
    names = [name for path in paths for name in _files(os.fspath(path), loaded.protocol.frames)]
    images = sum(Path(name).suffix.lower() in IMAGE_SUFFIXES for name in names)
    if 0 < images < len(names):
        raise UserError("videos and images together; give one kind at a time")
    manifest = Manifest(names, kind="image" if images else "video")
    check_kind(manifest, loaded.protocol.frames)
    return manifest


def _files(path: str, frames: int) -> list[str]:
    """A file, or a folder of frames, by itself; of another folder, what lies below it."""
    if Path(path).suffix.lower() in LISTS:
        raise UserError(f"{path}: is a list; give videos, or the list to videohpm evaluate")
    if Path(path).is_file() or (frames > 1 and is_frame_folder(path)):
        return [path]
    if not Path(path).is_dir():
        raise UserError(f"{path}: no such file or folder")
    with fields_called({"data.root": "videos"}):
        found = files_in(Path(path), "video" if frames > 1 else "image")
        return [os.path.join(path, name) for name in found]


def _labelled(root: str | None, manifest: str | None, kind: str, loaded: Loaded) -> Manifest:
    """The samples; labels, where they have some, are the classes that the model knows.

    Where it knows none they are numbers, also those that folders are named by. What is neither is
    numbered in the order of the names, with a warning: that order is of these samples alone.
    """
    known = loaded.labels if isinstance(loaded.model, VideoClassifier) else None
    options: dict[str, Any] = {"labels": "optional", "kind": kind}
    try:
        return find_samples(root, manifest, classes=known, numbered=known is None, **options)
    except UserError as error:
        samples = find_samples(root, manifest, **options)  # what else is wrong is raised here
        if samples.classes is not None:
            _log.warning(
                "%s: labels are no classes of the model (%s); they are numbered in the order of "
                "these samples' own names, which features.json lists",
                *(samples.base, error),
            )
        return samples


def predict_command(
    videos: list[str],
    model: str = "runs/finetune",
    top: int = 5,
    clips: int | None = None,
    crops: int | None = None,
    device: str = "auto",
) -> int:
    """``videohpm predict``; the arguments are those of :func:`videohpm.config.options.predict`."""
    loaded = load(model)
    views = {
        "clips": clips or loaded.protocol.clips,
        "crops": crops or loaded.protocol.crops,
    }
    predictions = predict(loaded, videos, top, device=resolve_device(device)[0], **views)
    for one in predictions:
        path = printable(one.path)
        print(path if one.error is None else f"{path}: could not be read: {one.error}")
        if one.value is not None:
            print(f"  {one.value:.6g}")
        for name, probability in zip(one.names, one.probabilities, strict=True):
            print(f"  {probability:6.1%}  {printable(name)}")
    return UNREADABLE if any(one.error for one in predictions) else 0


def features_command(
    model: str,
    out: str,
    root: str | None = None,
    manifest: str | None = None,
    kind: str = "auto",
    what: str = "pooled",
    format: str = "safetensors",
    dtype: str = "float32",
    clips: int = 1,
    crops: int = 1,
    sampling: str | None = None,
    stride: int | None = None,
    shard: int = 512,
    batch: int = 16,
    workers: int | str = "auto",
    device: str = "auto",
    timeout: float = 600.0,
) -> int:
    """``videohpm features``; arguments as in :func:`videohpm.config.options.features`."""
    loaded = load(model)
    try:
        view = ViewConfig(clips=clips, crops=crops, sampling=sampling, stride=stride, batch=batch)
    except ValueError as error:
        raise UserError(str(error).removeprefix("test.")) from None
    with fields_called({f"data.{name}": name for name in ("root", "manifest", "kind")}):
        samples = _labelled(root, manifest, kind, loaded)
    check_kind(samples, loaded.protocol.frames)
    check_writable(Path(out), "out")
    found, bf16 = resolve_device(device)
    processes = init_eval_processes(found, timeout)
    errors = write_features(
        Path(out),
        loaded,
        samples,
        loaded.protocol.changed(None, view.given()),
        metadata={"model": fingerprint(model), "kind": samples.kind},
        format=format,
        shard=shard,
        processes=processes,
        what=what,
        dtype=dtype,
        device=found,
        bf16=bf16,
        batch=batch,
        workers=reading_processes(workers),
        progress="features",
    )
    if processes.is_main:
        print(f"{out}: features of {len(samples) - len(errors)} of {len(samples)} samples")
        for row, reason in list(errors.items())[:5]:
            print(f"  could not be read: {printable(samples.name(row))}: {reason}")
    processes.destroy_process_group()
    return UNREADABLE if errors else 0
