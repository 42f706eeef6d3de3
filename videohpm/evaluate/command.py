"""``videohpm evaluate``: a fine-tuned model against a labelled set of videos or images."""

from __future__ import annotations

import logging
from pathlib import Path

import torch

from videohpm.checkpoint import check_writable
from videohpm.config import EvaluateConfig, SamplesConfig
from videohpm.config.checks import choice
from videohpm.config.dataset_info import read_dataset_info
from videohpm.config.engine import PRECISIONS, check_device
from videohpm.config.machine import reading_processes
from videohpm.data import Manifest, find_samples
from videohpm.engine import resolved_precision, torch_device
from videohpm.errors import UserError
from videohpm.evaluate.load import Loaded, load
from videohpm.evaluate.multiview import score
from videohpm.evaluate.processes import init_eval_processes
from videohpm.evaluate.results import UNREADABLE, sentence, write_results

_log = logging.getLogger(__name__)


def evaluate(config: EvaluateConfig) -> int:
    """Score a classifier; returns 0, or 3 where some of the videos could not be read."""
    out = Path(config.out or Path(config.model) / "evaluation")
    loaded = load(config.model)
    model = loaded.classifier()
    info = read_dataset_info(config.dataset) if config.dataset else None
    manifest = labelled_samples(config.data, loaded, info.classes if info else None)
    protocol = loaded.protocol.changed(info, config.test.given())
    check_kind(manifest, protocol.frames)
    check_writable(out, "out")
    device, bf16 = resolve_device(config.device, config.precision)
    processes = init_eval_processes(device, config.timeout)
    scores = score(
        model.to(device),
        model.config.classes,
        manifest,
        protocol,
        processes=processes,
        device=device,
        batch=config.test.batch,
        workers=reading_processes(config.data.workers),
        decode_timeout=config.data.decode_timeout,
        bf16=bf16,
        task=loaded.task,
        progress="evaluate",
    )
    if processes.is_main:
        metadata = {"model": config.model, "data": config.data.manifest or config.data.root}
        with processes.working():
            summary = write_results(out, scores, manifest, protocol, loaded.labels, metadata)
        print(f"{sentence(summary, scores.errors, manifest)}\n{out}: evaluation.json and more")
    processes.destroy_process_group()
    return UNREADABLE if scores.errors else 0


def labelled_samples(
    data: SamplesConfig, loaded: Loaded, classes: list[str] | None = None
) -> Manifest:
    """The samples with labels that are the model's classes. Raises UserError.

    ``classes`` are the data set's, in the order of its numbers: what a number means where the model
    has the same classes in another order, or knows no names.
    """
    count, names = loaded.classifier().config.classes, loaded.labels or classes
    if names is not None and len(names) != count:
        owner = "model" if loaded.labels else "dataset"
        raise UserError(f"{owner}: {len(names)} class names for a model of {count} classes")
    reordered = names != classes and same_names(names, classes)
    manifest = find_samples(
        data.root,
        data.manifest,
        labels=True,
        kind=data.kind,
        classes=classes if reordered else names,
        numbered=names is None,
        task=loaded.task.name,
    )
    if reordered and classes is not None and names is not None:
        manifest = manifest.renumbered(names)
    elif loaded.labels and classes is not None and names != classes:
        _log.warning(
            "dataset: its class names are not those of the model, such as %r; labels are taken for "
            "the model's classes",
            next(iter(set(classes) - set(loaded.labels)), loaded.labels[0]),
        )
    highest = int(manifest.largest)
    if highest >= count:
        raise UserError(
            f"data: label {highest}, but the model knows {count} classes (0 to {count - 1}); give "
            "the data set that it was fine-tuned on"
        )
    return manifest


def same_names(first: list[str] | None, second: list[str] | None) -> bool:
    """Whether two lists hold the same names, each once, in any order."""
    if first is None or second is None or len(first) != len(second):
        return False
    return len(set(first)) == len(first) and set(first) == set(second)


def check_kind(manifest: Manifest, frames: int) -> None:
    """UserError where images meet a model of videos."""
    if manifest.kind == "image" and frames > 1:
        raise UserError(
            f"data: images, but the model takes clips of {frames} frames; fine-tune it with "
            "--model.frames 1 --model.tubelet 1, or give videos"
        )


def resolve_device(device: str, precision: str = "auto") -> tuple[torch.device, bool]:
    """The device of this process, and whether to compute in bf16. Raises UserError."""
    check_device("device", device)
    choice("precision", precision, PRECISIONS)
    found = torch_device(device, field="device")
    return found, resolved_precision(precision, found) == "bf16"
