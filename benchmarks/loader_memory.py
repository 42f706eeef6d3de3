#!/usr/bin/env python
"""Does memory stay flat while a loader reads? By reader, over many thousands of reads.

    python benchmarks/loader_memory.py --root DATA --json memory.json

Each reader that is here reads a copy of key frames alone of DATA, four frames a clip, through the
whole loader: workers, shared memory, batches. Judged is what the processes wrote themselves and the
batches they share; exit code 1 where that grows.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path

from videohpm.data import DataConfig, GlobalBatchSampler, VideoDataset, find_samples, make_loader
from videohpm.data.bench import key_frame_copies, readers_of

BATCH = 40
TIMES = 20
"""Looks at the memory, evenly over the reads."""
GROWTH = 0.02
"""From the second quarter of the reads to the last: more is a leak."""


def held(pids: list[int]) -> dict[str, float]:
    """MB of the processes together by kind, what several of them share counted once.

    ``own`` is what they wrote themselves, ``batches`` memory that they share, ``files`` pages of
    libraries and files. Of the last each process is counted its part by how many on the whole
    machine have the page, so that it rises when somebody else's program ends.
    """
    kinds = {"Pss_Anon:": "own", "Pss_Shmem:": "batches", "Pss_File:": "files"}
    total = dict.fromkeys(kinds.values(), 0)
    for pid in pids:
        try:
            rows = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        for name, size, *_ in map(str.split, rows[1:]):
            if name in kinds:
                total[kinds[name]] += int(size)
    return {kind: round(kb / 1024, 1) for kind, kb in total.items()}


def memory_of(data: VideoDataset, reads: int, workers: int) -> dict[str, list[float]]:
    """MB of all processes together by kind, twenty times while so many samples are read."""
    steps, found = reads // BATCH, []
    loader = make_loader(data, GlobalBatchSampler(len(data), BATCH, steps=steps), workers=workers)
    for number, _ in enumerate(loader, 1):
        if number % max(steps // TIMES, 1) == 0:
            found.append(held([os.getpid(), *data.worker_state.pids.tolist()]))
    return {kind: [one[kind] for one in found] for kind in found[0]}


def growth(memory: list[float]) -> float:
    """The last quarter over the second one, less one."""
    quarter = len(memory) // 4
    early, late = memory[quarter : 2 * quarter], memory[-quarter:]
    return statistics.mean(late) / statistics.mean(early) - 1


def bytes_a_read(memory: list[float], reads: int) -> float:
    """The slope of a line through all but the first quarter."""
    rest = memory[len(memory) // 4 :]
    at = [number * reads / len(memory) for number in range(len(rest))]
    return statistics.linear_regression(at, rest).slope * 2**20


def main() -> int:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").split("\n\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--root", required=True, help="folder of videos")
    parser.add_argument("--reads", type=int, default=20000, help="of each reader")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--readers", nargs="+", help="by name; all that are here")
    parser.add_argument("--json", type=Path, help="file for the results")
    settings = parser.parse_args()
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        copies, _ = key_frame_copies(find_samples(settings.root, kind="video"), Path(folder), 256)
        for reader in settings.readers or readers_of(copies):
            data = VideoDataset(
                copies.read_by(reader),
                DataConfig(short_videos="repeat", downscale_on_decode=False),
                frames=4,
                size=(64, 64),
                units=16,
            )
            kinds = memory_of(data, settings.reads, settings.workers)
            mb = [
                own + batches for own, batches in zip(kinds["own"], kinds["batches"], strict=True)
            ]
            results[reader] = {
                "reads": settings.reads,
                "mb": kinds,
                "growth": round(growth(mb), 4),
                "bytes_a_read": round(bytes_a_read(mb, settings.reads), 1),
            }
            if settings.json:
                settings.json.write_text(json.dumps(results, indent=1) + "\n")
            print(
                f"{reader}: {mb[0]:.1f} MB at first, {min(mb):.1f} to {max(mb):.1f}, {mb[-1]:.1f} "
                f"after {settings.reads} reads; {growth(mb):+.2%}, "
                f"{results[reader]['bytes_a_read']:+.0f} bytes a read; pages of files "
                f"{min(kinds['files']):.1f} to {max(kinds['files']):.1f} MB",
                flush=True,
            )
    return int(any(each["growth"] > GROWTH for each in results.values()))


if __name__ == "__main__":
    sys.exit(main())
