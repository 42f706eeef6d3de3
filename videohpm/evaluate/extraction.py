"""Frozen features of any videos or images: in memory, or as a folder of files that can be resumed.

A folder of features holds ``features.json`` (model, protocol and data they came from), shards
``features_00000.safetensors`` (or ``.npz``) of so many rows of the manifest each, and
``index.csv``: a row for each sample with its class, its shard, its position in it, the first and
last frame of each of its views, or why it could not be read. Classes are numbers (``label``); what
they are called stands beside them, and in order in ``features.json``. A shard appears under its
name when it is complete.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from torch import Tensor

from videohpm.config.options import check_features, check_shards
from videohpm.data import Manifest
from videohpm.data.tables import write_table
from videohpm.errors import UserError
from videohpm.evaluate.load import Loaded, pool_tokens, token_features
from videohpm.evaluate.processes import EvalProcesses
from videohpm.evaluate.protocol import EvalProtocol
from videohpm.evaluate.views import ViewOutput, run_views
from videohpm.writing import complete

WRONG = (
    *(ValueError, KeyError, TypeError, IndexError, AttributeError),
    *(ZeroDivisionError, OverflowError, RecursionError),
)
"""What reading a file of numbers raises that holds something else."""


@dataclass
class Features:
    """Features of the samples that could be read, in the order of the manifest."""

    index: np.ndarray
    """(n,) rows of the manifest."""
    labels: np.ndarray
    """(n,) class numbers, -1 for none."""
    spans: np.ndarray
    """(n, V, T) int64: the frames of the video that each view was made of."""
    pooled: np.ndarray | None
    """(n, V, D)."""
    tokens: np.ndarray | None
    """(n, V, N, D), tokens in (t, h, w) order, a class token in front."""
    errors: dict[int, str]
    """Why the other rows could not be read."""


def extract(
    loaded: Loaded,
    manifest: Manifest,
    protocol: EvalProtocol,
    *,
    rows: np.ndarray | None = None,
    what: str = "pooled",
    dtype: str = "float32",
    processes: EvalProcesses | None = None,
    device: torch.device | None = None,
    **options,
) -> Features:
    """Features of the rows of a manifest.

    Args:
        what: pooled, tokens or both.
        dtype: float32 or float16.
        processes: which share of the rows is this process's; None for all.
        options: batch, workers, decode_timeout, bf16 and progress of
            :func:`videohpm.evaluate.views.run_views`.
    """
    check_features(what, dtype)
    device = device or torch.device("cpu")
    model = loaded.model.to(device).eval()
    rows = np.arange(len(manifest)) if rows is None else rows

    def both(clips: Tensor) -> Tensor:
        """The pooled feature as one more token, in front: (B, 1 + [1+]N, D); or it alone."""
        tokens = token_features(model, clips)
        pooled = pool_tokens(model, tokens)[:, None]
        return pooled if what == "pooled" else torch.cat([pooled, tokens], 1)

    outputs = run_views(
        both,
        manifest,
        rows,
        protocol,
        processes=processes or EvalProcesses(),
        device=device,
        **options,
    )
    return _collect(outputs, manifest, what, dtype)


def _collect(outputs: Iterator[ViewOutput], manifest: Manifest, what: str, dtype: str) -> Features:
    index, spans, pooled, tokens, errors = [], [], [], [], {}
    for one in outputs:
        if one.output is None:
            errors[one.index] = one.error
            continue
        index.append(one.index)
        spans.append(one.spans)
        output = one.output.numpy().astype(dtype)
        pooled.append(output[:, 0])
        tokens.append(output[:, 1:])
    rows = np.array(index, dtype=np.int64)
    return Features(
        index=rows,
        labels=manifest.labels[rows].astype(np.int64),
        spans=np.array(spans, dtype=np.int64),
        pooled=np.array(pooled) if what != "tokens" else None,
        tokens=np.array(tokens) if what != "pooled" else None,
        errors=errors,
    )


def write_features(
    out: Path,
    loaded: Loaded,
    manifest: Manifest,
    protocol: EvalProtocol,
    *,
    metadata: dict,
    format: str = "safetensors",
    shard: int = 512,
    processes: EvalProcesses | None = None,
    **options: Any,
) -> dict[int, str]:
    """Fill the folder ``out``; shards that are there already are left alone.

    Args:
        metadata: what else features.json says of the origin of the features: a folder made with
            other metadata is refused, never mixed.
        shard: rows of the manifest in one file; each rank makes every world-th file.
        options: of :func:`extract`.

    Returns:
        Why the rows that could not be read could not.
    """
    check_shards(format, shard)
    processes = processes or EvalProcesses()
    options = {"what": "pooled", "dtype": "float32"} | options
    check_features(options["what"], options["dtype"])
    metadata = metadata | {
        "protocol": protocol.plain(),
        "samples": len(manifest),
        "classes": manifest.classes,
        "shard": shard,
        "format": format,
        "what": options["what"],
        "dtype": options["dtype"],
    }
    _claim_folder(out, metadata, processes)
    progress = options.pop("progress", None)
    count = math.ceil(len(manifest) / shard)
    for number in range(processes.rank, count, processes.world):
        file = shard_file(out, number, format)
        if file.exists():
            continue
        rows = np.arange(number * shard, min((number + 1) * shard, len(manifest)))
        name = f"{progress} {number + 1}/{count}" if progress else None
        found = extract(loaded, manifest, protocol, rows=rows, progress=name, **options)
        with processes.working():
            _write_shard(file, found)
    processes.gather(None)  # the shards of all processes are written
    errors = {}
    if processes.is_main:
        with processes.working():
            errors = _write_index(out, manifest, format, count)
    return processes.gather(errors)[0]


def read_features(out: Path) -> Features:
    """What :func:`write_features` wrote, in memory. Raises UserError where files are missing."""
    try:
        return _joined(out)
    except (OSError, BadZipFile, SafetensorError, *WRONG) as error:
        text = " ".join(str(error).split())[:200]
        raise UserError(
            f"{out}: not a complete folder of features ({text}); make it again"
        ) from None


def _joined(out: Path) -> Features:
    metadata = json.loads((out / "features.json").read_text())
    count = math.ceil(metadata["samples"] / metadata["shard"])
    shards = [read_shard(shard_file(out, n, metadata["format"])) for n in range(count)]
    errors = {k: v for shard in shards for k, v in shard.errors.items()}
    shards = [shard for shard in shards if len(shard.index)] or shards[:1]

    def join(name: str) -> Any:
        parts = [getattr(shard, name) for shard in shards]
        return None if parts[0] is None else np.concatenate(parts)

    names = ("index", "labels", "spans", "pooled", "tokens")
    return Features(**{name: join(name) for name in names}, errors=errors)


def shard_file(out: Path, number: int, format: str) -> Path:
    """Where a shard lies."""
    return out / f"features_{number:05d}.{format}"


def read_shard(file: Path) -> Features:
    """One shard of a folder of features."""
    if file.suffix == ".npz":
        with np.load(file, allow_pickle=False) as archive:
            arrays: dict[str, Any] = dict(archive)
    else:
        arrays = dict(load_file(file))
    errors = json.loads(arrays.pop("errors").tobytes().decode())
    for name in ("pooled", "tokens"):
        arrays.setdefault(name, None)
    return Features(**arrays, errors={int(row): reason for row, reason in errors.items()})


def _write_shard(file: Path, found: Features) -> None:
    arrays = {name: getattr(found, name) for name in ("index", "labels", "spans")}
    for name in ("pooled", "tokens"):
        if getattr(found, name) is not None:
            arrays[name] = getattr(found, name)
    text = json.dumps({str(k): v for k, v in found.errors.items()}).encode()
    arrays["errors"] = np.frombuffer(text, dtype=np.uint8)
    with complete(file) as partial:
        if file.suffix == ".npz":
            with partial.open("wb") as out:
                np.savez(out, **arrays)
        else:
            save_file({k: np.ascontiguousarray(v) for k, v in arrays.items()}, partial)


def _claim_folder(out: Path, metadata: dict, processes: EvalProcesses) -> None:
    """Start a folder, or continue one that was made in the same way. Raises UserError."""
    file, differs = out / "features.json", []
    if file.exists():
        try:
            found = json.loads(file.read_text())
            differs = [name for name in metadata if found.get(name) != metadata[name]]
        except (ValueError, AttributeError):
            differs = ["features.json"]
    elif out.exists() and any(out.iterdir()):
        differs = ["features.json"]
    if differs:
        raise UserError(
            f"{out}: holds something else (it differs in {', '.join(differs)}); give another folder"
        )
    processes.gather(None)  # all have checked before the first writes
    out.mkdir(parents=True, exist_ok=True)
    if processes.is_main:
        with complete(file) as partial:
            partial.write_text(json.dumps(metadata, indent=2) + "\n")
    processes.gather(None)


def _write_index(out: Path, manifest: Manifest, format: str, count: int) -> dict[int, str]:
    errors: dict[int, str] = {}
    table: list[list[Any]] = []
    for number in range(count):
        file = shard_file(out, number, format)
        shard = read_shard(file)
        errors |= shard.errors
        rows: dict[int, list[Any]] = {
            row: [*_label(manifest, row), "", "", "", reason]
            for row, reason in shard.errors.items()
        }
        for position, row in enumerate(shard.index.tolist()):
            spans = " ".join(f"{view.min()}-{view.max()}" for view in shard.spans[position])
            rows[row] = [*_label(manifest, row), file.name, position, spans, ""]
        table += [[manifest.name(row), *fields] for row, fields in sorted(rows.items())]
    columns = ("path", "label", "class", "shard", "position", "frames", "error")
    write_table(out / "index.csv", columns, table)
    return errors


def _label(manifest: Manifest, row: int) -> tuple[Any, Any]:
    """Number and name of a row's class, as far as it has them."""
    number = int(manifest.labels[row])
    if number < 0:
        return "", ""
    return number, manifest.classes[number] if manifest.classes else ""
