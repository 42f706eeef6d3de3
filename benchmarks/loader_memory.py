#!/usr/bin/env python
"""Does memory stay flat while a loader reads? By reader, over many thousands of reads.

    python benchmarks/loader_memory.py --root DATA --json memory.json

Each reader that is here reads a copy of key frames alone of DATA, four frames a clip, through the
whole loader: workers, shared memory, batches. Exit code 1 where memory grows.
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
GROWTH = 0.02
"""From the second quarter of the reads to the last: more is a leak."""


def resident(pids: list[int]) -> float:
    """MB of the processes together, shared pages counted once."""
    total = 0
    for pid in pids:
        try:
            rows = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(row.split()[1]) for row in rows if row.startswith("Pss:"))
    return round(total / 1024, 1)


def memory_of(data: VideoDataset, reads: int, workers: int) -> list[float]:
    """MB of all processes together, twenty times while so many samples are read."""
    steps, found = reads // BATCH, []
    loader = make_loader(data, GlobalBatchSampler(len(data), BATCH, steps=steps), workers=workers)
    for number, _ in enumerate(loader, 1):
        if number % max(steps // 20, 1) == 0:
            found.append(resident([os.getpid(), *data.worker_state.pids.tolist()]))
    return found


def growth(memory: list[float]) -> float:
    """The last quarter over the second one, less one."""
    quarter = len(memory) // 4
    early, late = memory[quarter : 2 * quarter], memory[-quarter:]
    return statistics.mean(late) / statistics.mean(early) - 1


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
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
            memory = memory_of(data, settings.reads, settings.workers)
            results[reader] = {"reads": settings.reads, "mb": memory, "growth": growth(memory)}
            print(
                f"{reader}: {memory[0]:.0f} MB at first, {min(memory):.0f} to {max(memory):.0f}, "
                f"{memory[-1]:.0f} after {settings.reads} reads; {growth(memory):+.2%}",
                flush=True,
            )
    if settings.json:
        settings.json.write_text(json.dumps(results, indent=1) + "\n")
    return int(any(each["growth"] > GROWTH for each in results.values()))


if __name__ == "__main__":
    sys.exit(main())
