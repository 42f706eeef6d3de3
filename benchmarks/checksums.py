#!/usr/bin/env python
"""What the checksums of a checkpoint cost: beside writing it, and beside reading it.

    python benchmarks/checksums.py --json checksums.json          # ViT-B, what pre-training saves
    python benchmarks/checksums.py --arch vit_huge --folder /scratch

A checkpoint of a model with its teacher and the optimiser's moments is written with checksums and
without, in turns. ``waiting`` is the share of writing in which the writer waited for a checksum, by
wall time; ``over plain`` compares the fastest whole writes, and is as noisy as the disk.
``processor`` is the time of the thread that computes them over all of writing's. ``read seconds``
is the processor time of reading and verifying all of it, ``verifying`` the part of that which the
checksums take.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import statistics
import tempfile
import time
import zlib
from pathlib import Path
from unittest import mock

import torch
from clock import load_average
from torch import Tensor, nn

from videohpm import checkpoint
from videohpm.checkpoint import checksums, stream
from videohpm.config.architecture import mae_config
from videohpm.hpm import LossTeacher
from videohpm.models import MaskedAutoencoder


class Trained:
    """What a checkpoint needs of an engine, after a step: moments for each parameter."""

    rank, skipped, moments = 0, 0, ("exp_avg", "exp_avg_sq")

    def __init__(self, model: nn.Module):
        self.model = model
        self.values = {p: torch.full_like(p, 1e-3) for p in model.parameters()}

    def updates(self) -> int:
        return 1

    def full_shape(self, parameter: Tensor) -> torch.Size:
        return parameter.shape

    def full_tensor(self, parameter: Tensor) -> Tensor:
        return parameter.detach()

    def moment(self, parameter: Tensor, name: str) -> Tensor:
        return self.values[parameter]


class Waiting:
    """Wall time that the writer spends in waiting for checksums."""

    def __init__(self):
        self.seconds = 0.0
        self.plain = stream.TensorFile._take_checksum

    def __call__(self, file: stream.TensorFile) -> None:
        begin = time.perf_counter()
        self.plain(file)
        self.seconds += time.perf_counter() - begin


def write(folder: Path, engine: Trained, teacher: nn.Module, checked: bool) -> dict[str, float]:
    """Seconds of one checkpoint, written and flushed to the disk."""
    shutil.rmtree(folder, ignore_errors=True)
    waiting, spent = Waiting(), []

    def checksum(name: str, tensor: Tensor) -> str:
        begin = time.thread_time()
        found = known(name, tensor)
        spent.append(time.thread_time() - begin)
        return found

    known = checksums.checksum if checked else lambda *_: checksums.EMPTY
    state = {"config": {}, "samples": 1, "steps": 1}
    with (
        mock.patch.object(checksums, "checksum", checksum),
        mock.patch.object(stream.TensorFile, "_take_checksum", lambda file: waiting(file)),
    ):
        wall, processor = time.perf_counter(), time.process_time()
        checkpoint.save(folder, 1, engine, {"teacher": teacher}, state, keep=1)
        wall, processor = time.perf_counter() - wall, time.process_time() - processor
    return {
        "wall": wall,
        "processor": processor,
        "waiting": waiting.seconds,
        "checksums": sum(spent),
    }


def read(folder: Path) -> float:
    """Processor seconds of reading all of it."""
    begin = time.process_time()
    for file in sorted(folder.glob("*.safetensors")):
        reader = checksums.TensorReader(file)
        for name in reader.names:
            reader.get(name)
    return time.process_time() - begin


def measure(arch: str, rounds: int, folder: Path) -> dict:
    """All figures of one size."""
    torch.manual_seed(0)
    model = MaskedAutoencoder(mae_config(arch))
    engine, teacher = Trained(model), LossTeacher(model, steps=1).model
    runs = {True: [], False: []}
    for number in range(rounds):
        for checked in (True, False) if number % 2 else (False, True):
            runs[checked].append(write(folder / "run", engine, teacher, checked))
    size = sum(file.stat().st_size for file in (folder / "run").rglob("*.safetensors"))
    newest = checkpoint.latest(folder / "run")
    assert newest is not None
    write(folder / "run", engine, teacher, True)
    reads = [read(newest) for _ in range(rounds)]

    def middle(checked: bool, name: str) -> float:
        return statistics.median(run[name] for run in runs[checked])

    def least(checked: bool) -> float:
        return min(run["wall"] for run in runs[checked])

    return {
        "arch": arch,
        "bytes": size,
        "write_seconds": round(middle(True, "wall"), 3),
        "waiting": round(statistics.median(r["waiting"] / r["wall"] for r in runs[True]), 4),
        "over_plain": round(least(True) / least(False), 3),
        "processor": round(middle(True, "checksums") / middle(True, "processor"), 3),
        "checksum_seconds": round(middle(True, "checksums"), 3),
        "read_seconds": round(statistics.median(reads), 3),
        "verifying": round(middle(True, "checksums") / statistics.median(reads), 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--arch", default="vit_base", help="size of the encoder")
    parser.add_argument("--rounds", type=int, default=5, help="writes of each kind")
    parser.add_argument("--folder", help="on the disk to measure; the system's own if left out")
    parser.add_argument("--json", type=Path, help="file for the figures")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        found = measure(given.arch, given.rounds, Path(folder))
    found |= {"rounds": given.rounds, "load_average": load_average(), "torch": torch.__version__}
    found |= {"zlib": zlib.ZLIB_RUNTIME_VERSION, "machine": platform.machine()}
    for name, value in found.items():
        print(f"{name:<17} {value}")
    if given.json:
        given.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
