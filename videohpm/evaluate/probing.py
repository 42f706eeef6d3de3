"""``videohpm probe``: linear, attentive and k-NN classifiers on one cache of frozen features."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from videohpm.checkpoint import check_writable
from videohpm.config import ProbeConfig
from videohpm.config.machine import reading_processes
from videohpm.config.plain import as_plain
from videohpm.config.tasks import REGRESS
from videohpm.data import Manifest, find_samples
from videohpm.errors import UserError, fields_called
from videohpm.evaluate.command import check_kind, resolve_device
from videohpm.evaluate.extraction import Features, read_features, write_features
from videohpm.evaluate.knn import knn_means, knn_probabilities
from videohpm.evaluate.linear import (
    attentive_probabilities,
    choose_strength,
    linear_probabilities,
)
from videohpm.evaluate.load import Loaded, fingerprint, load, random_copy
from videohpm.evaluate.processes import init_eval_processes
from videohpm.evaluate.protocol import EvalProtocol
from videohpm.evaluate.results import UNREADABLE
from videohpm.evaluate.tasks import TASKS, as_tensor
from videohpm.writing import complete


def probe(config: ProbeConfig) -> int:
    """Probe frozen features; returns 0, or 3 where some of the samples could not be read."""
    if not config.train or not config.validation:
        raise UserError("train, validation: give a folder of a folder per class, or a manifest")
    loaded = load(config.model)
    if config.random:
        loaded.model = random_copy(loaded.model, config.seed)
    source, labels = (config.root, config.kind), {"task": config.task}
    train = labelled_list("train", config.train, *source, **labels)
    known = {"classes": train.classes, "numbered": train.classes is None}
    validation = labelled_list("validation", config.validation, *source, **known, **labels)
    protocol = loaded.protocol.changed(None, {"clips": 1, "crops": 1} | config.test.given())
    for manifest in (train, validation):
        check_kind(manifest, protocol.frames)
    regress = config.task == REGRESS
    classes = 1 if regress else len(train.classes or ()) or int(train.largest) + 1
    if not regress and int(validation.largest) >= classes:
        raise UserError(f"validation: label {validation.largest}, train has {classes} classes")
    out = Path(config.out or Path(config.model) / "probe")
    check_writable(out, "out")
    device, bf16 = resolve_device(config.device)
    processes = init_eval_processes(device, config.timeout)
    weights = f"random {config.seed}" if config.random else fingerprint(config.model)
    errors = {}
    for name, manifest in (("train", train), ("validation", validation)):
        errors[name] = write_features(
            out / f"{name}-features",
            loaded,
            manifest,
            protocol,
            metadata={"model": weights, "source": getattr(config, name)},
            processes=processes,
            what="both" if "attentive" in config.probes else "pooled",
            device=device,
            bf16=bf16,
            batch=config.test.batch,
            workers=reading_processes(config.workers),
            progress=f"{name} features",
        )
    if processes.is_main:
        found = {n: read_features(out / f"{n}-features") for n in ("train", "validation")}
        for name, manifest in (("train", train), ("validation", validation)):
            # The cache may be older than the numbers that labels have today.
            rows = found[name].index
            found[name].labels = TASKS[config.task]().truth(manifest, rows, classes)
        with processes.working():
            result = run_probes(config, found, classes, loaded.encoder.config.heads, device)
        write_probe(out, config, protocol, loaded, weights, result, found)
    processes.destroy_process_group()
    return UNREADABLE if any(errors.values()) else 0


def run_probes(
    config: ProbeConfig,
    found: dict[str, Features],
    classes: int,
    heads: int,
    device: torch.device | str = "cpu",
) -> dict[str, dict]:
    """Metrics of each probe, and what it was set to.

    Views of one sample are averaged for the linear probe and k-NN, and are tokens side by side for
    the attentive one.
    """
    truth, right = (found[name].labels for name in ("train", "validation"))
    try:
        task = TASKS[config.task].of(truth)
    except ValueError as error:
        raise UserError(f"train: {error}") from None
    labels = as_tensor(task.standard(truth))
    pooled = {n: torch.from_numpy(f.pooled).float().mean(1) for n, f in found.items()}
    result = {}
    for name in config.probes:
        settings: dict[str, Any]
        if name == "knn":
            settings = {"k": config.k, "temperature": config.temperature or None}
            pair = pooled["train"], labels, pooled["validation"]
            if labels.ndim == 1:
                probabilities = knn_probabilities(*pair, classes=classes, **settings)
            else:
                probabilities = task.unstandard(knn_means(*pair, **settings))
        elif name == "linear":
            strength = choose_strength(
                pooled["train"], labels, classes, tuple(config.strength), config.seed,
                type(task)(),  # on labels that are standardised
            )  # fmt: skip
            settings = {"strength": strength, "tried": list(config.strength)}
            probabilities = linear_probabilities(
                pooled["train"], labels, pooled["validation"],
                classes=classes, strength=strength, task=task,
            )  # fmt: skip
        else:
            settings = {n: getattr(config, n)
                        for n in ("epochs", "batch", "lr", "weight_decay", "seed")}  # fmt: skip
            tokens = {n: torch.from_numpy(f.tokens).flatten(1, 2) for n, f in found.items()}
            probabilities = attentive_probabilities(
                tokens["train"], labels, tokens["validation"],
                classes=classes, heads=heads, device=device, task=task, **settings,
            )  # fmt: skip
        result[name] = task.metrics(probabilities.numpy().astype(np.float64), right) | settings
    return result


def write_probe(
    out: Path,
    config: ProbeConfig,
    protocol: EvalProtocol,
    loaded: Loaded,
    weights: str,
    result: dict[str, dict],
    found: dict[str, Features],
) -> None:
    """probe.json, with all that the numbers depend on, and the table on the screen."""
    counts = {
        name: {"scored": len(part.index), "total": len(part.index) + len(part.errors)}
        for name, part in found.items()
    }
    summary = {
        "probes": result,
        **counts,
        "weights": weights,
        "encoder": as_plain(loaded.encoder.config),
        "protocol": protocol.plain(),
        "config": asdict(config),
    }
    with complete(out / "probe.json") as partial:
        partial.write_text(json.dumps(summary, indent=2) + "\n")
    columns = TASKS[config.task].shown
    print(f"{'probe':<10} " + " ".join(f"{title:>{width}}" for title, width in columns.values()))
    for name, row in result.items():
        cells = ("-" if row[c] is None else f"{row[c]:.2f}" for c in columns)
        widths = (width for _, width in columns.values())
        cells = " ".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True))
        print(f"{name:<10} {cells}")
    shown = counts["validation"]
    print(f"{shown['scored']} of {shown['total']} validation samples scored; {out}/probe.json")
    for part in found.values():
        for reason in list(part.errors.values())[:3]:
            print(f"  could not be read: {reason}")


def labelled_list(field: str, path: str, root: str | None, kind: str, **known: Any) -> Manifest:
    """The labelled samples of a manifest, or of a folder of a folder per class. Raises UserError.

    Args:
        field: of the configuration that ``path`` comes from.
        root: folder that a manifest's paths start from; its own if None.
        known: other arguments of :func:`videohpm.data.find_samples`.
    """
    options = {"labels": True, "kind": kind} | known
    folder = Path(path).is_dir()
    section = field.rpartition(".")[0]
    of_root = field if folder else f"{section}.root".removeprefix(".")
    with fields_called({"data.manifest": field, "data.root": of_root}):
        return find_samples(path, **options) if folder else find_samples(root, path, **options)
