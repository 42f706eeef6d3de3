"""``videohpm evaluate``: a fine-tuned model against a labelled set of videos or images."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch

from videohpm.checkpoint import check_writable
from videohpm.data import Manifest, find_samples
from videohpm.data.dataset_info import read_dataset_info
from videohpm.engine import EngineConfig
from videohpm.errors import UserError
from videohpm.evaluate.load import Loaded, load
from videohpm.evaluate.multiview import score
from videohpm.evaluate.processes import init_eval_processes
from videohpm.evaluate.protocol import ViewConfig
from videohpm.evaluate.results import UNREADABLE, sentence, write_results


@dataclass(frozen=True, kw_only=True)
class SamplesConfig:
    """What is read for a test.

    Args:
        root: folder of a folder per class; also the base of a manifest's paths.
        manifest: file that lists the samples and their labels.
        kind: auto, video or image.
        workers: reading processes for each rank; 0 reads in the main process.
        decode_timeout: longest time that reading one file may take; 0 waits for ever.
    """

    root: str | None = None
    manifest: str | None = None
    kind: str = "auto"
    workers: int = 4
    decode_timeout: float = 120.0

    def __post_init__(self):
        if self.workers < 0:
            raise ValueError(f"data.workers: {self.workers}; give 0 or more")
        if not self.decode_timeout >= 0:
            raise ValueError(f"data.decode_timeout: {self.decode_timeout}; give 0 or more")


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """All of an evaluation.

    Args:
        model: run folder (its best weights, else its newest), checkpoint or export.
        out: folder for the results; empty: ``evaluation`` in the run folder.
        dataset: dataset.yaml (or its folder) that says the test views and class names; what the
            model was fine-tuned with if left out.
        data: what is tested on.
        test: how a video is looked at.
        device: auto, cpu, cuda or cuda:N.
        precision: auto (bf16 where the GPU has it, else fp32), fp32 or bf16.
    """

    model: str = "runs/finetune"
    out: str = ""
    dataset: str | None = None
    data: SamplesConfig = field(default_factory=SamplesConfig)
    test: ViewConfig = field(default_factory=ViewConfig)
    device: str = "auto"
    precision: str = "auto"

    def __post_init__(self):
        check_place(self.device, self.precision)


def evaluate(config: EvaluateConfig) -> int:
    """Score a classifier; returns 0, or 3 where some of the videos could not be read."""
    out = Path(config.out or Path(config.model) / "evaluation")
    loaded = load(config.model)
    model = loaded.classifier()
    facts = read_dataset_info(config.dataset) if config.dataset else None
    manifest = labelled_samples(
        config.data, loaded, facts.classes if facts and not loaded.labels else None
    )
    protocol = loaded.protocol.changed(facts, config.test.given())
    check_kind(manifest, protocol.frames)
    check_writable(out, "out")
    device, bf16 = resolve_device(config.device, config.precision)
    processes = init_eval_processes(device)
    scores = score(
        model.to(device),
        model.config["classes"],
        manifest,
        protocol,
        processes=processes,
        device=device,
        batch=config.test.batch,
        workers=config.data.workers,
        seconds=config.data.decode_timeout,
        bf16=bf16,
        progress="evaluate",
    )
    if processes.is_main:
        about = {"model": config.model, "data": config.data.manifest or config.data.root}
        summary = write_results(out, scores, manifest, protocol, loaded.labels, about)
        print(f"{sentence(summary, scores.errors, manifest)}\n{out}: evaluation.json and more")
    processes.destroy_process_group()
    return UNREADABLE if scores.errors else 0


def labelled_samples(
    data: SamplesConfig, loaded: Loaded, classes: list[str] | None = None
) -> Manifest:
    """The samples with labels that are the model's classes. Raises UserError."""
    manifest = find_samples(
        data.root, data.manifest, labels=True, kind=data.kind, classes=loaded.labels or classes
    )
    count, highest = loaded.classifier().config["classes"], int(manifest.labels.max())
    if highest >= count:
        raise UserError(
            f"data: label {highest}, but the model knows {count} classes (0 to {count - 1}); give "
            "the data set that it was fine-tuned on"
        )
    return manifest


def check_kind(manifest: Manifest, frames: int) -> None:
    """UserError where images meet a model of videos."""
    if manifest.kind == "image" and frames > 1:
        raise UserError(
            f"data: images, but the model takes clips of {frames} frames; fine-tune it with "
            "--model.frames 1 --model.tubelet 1, or give videos"
        )


def check_place(device: str, precision: str) -> EngineConfig:
    """ValueError where a device or a precision is none of ours."""
    try:
        return EngineConfig(device=device, precision=precision)
    except ValueError as error:
        raise ValueError(str(error).removeprefix("engine.")) from None


def resolve_device(device: str, precision: str = "auto") -> tuple[torch.device, bool]:
    """The device of this process, and whether to compute in bf16. Raises UserError."""
    try:
        engine = check_place(device, precision)
        found = engine.torch_device()
    except ValueError as error:
        raise UserError(str(error).removeprefix("engine.")) from None
    return found, engine.resolved_precision(found) == "bf16"
