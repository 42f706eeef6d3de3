#!/usr/bin/env python
"""What reading costs, and how close the whole loader comes to it: readers and forms in turns.

    python benchmarks/loader.py --json loader.json                    # made videos
    python benchmarks/loader.py --root DATA --workers 8 --batches 40  # one's own
    python benchmarks/loader.py --quick                               # three rounds
    python benchmarks/loader.py --root DATA --workers 4 --first_batch 256 --rounds 3

The forms are the files as they are (``original``) and a copy of key frames alone that ``data
transcode --group 1`` makes of them (``copy``). In one process, by processor time and in turns, so
that what else the machine does hits all: every reader that is there and may read the form, four
clips of each decode (``repeats``), and what others do (``loader_peers.py``). Then the whole loader
with all workers on the copy beside reading and resizing alone, by processor time and by wall time.
``--first_batch`` asks instead how long the first batch takes from the start of the workers.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import statistics
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from clock import load_average
from loader_peers import peers
from loader_videos import make_videos

from videohpm.data import (
    DataConfig,
    GlobalBatchSampler,
    Manifest,
    VideoDataset,
    find_samples,
    make_loader,
    read_video_info,
)
from videohpm.data import bench as reading
from videohpm.data.batches import collate
from videohpm.data.kept_memory import keep_memory
from videohpm.data.loader import Loader
from videohpm.data.sampling import dense_indices
from videohpm.data.transcode import transcode

PLACES = ("root", "manifest", "json")
"""Settings that say where files lie."""
SIDE = 256
"""Shorter side of the copy, pixels."""
REPEATS = 4
"""Of VideoMAEv2's pre-training."""


def limit_alone(data: VideoDataset, keys: list[list], workers: int) -> dict[str, float]:
    """Reading and resizing alone in ``workers`` processes: seconds by both clocks."""
    context = multiprocessing.get_context("fork" if os.name == "posix" else "spawn")
    start, ends, spent = context.Barrier(workers + 1), context.Barrier(workers + 1), context.Queue()
    parts = [sum(keys[i::workers], []) for i in range(workers)]
    jobs = [
        context.Process(target=_read_and_resize, args=(data, part, start, ends, spent))
        for part in parts
    ]
    for job in jobs:
        job.start()
    start.wait()
    begun = time.perf_counter()
    ends.wait()
    taken = time.perf_counter() - begun
    processor = sum(spent.get() for _ in jobs)
    for job in jobs:
        job.join()
    return {"wall": taken, "processor": processor}


def _read_and_resize(data: VideoDataset, keys: list, start, ends, spent) -> None:
    torch.set_num_threads(1)
    keep_memory()  # as workers do

    def read_and_resize() -> None:
        for epoch, index in keys:
            rng = np.random.default_rng([data.seed, epoch, index, 0])
            frames = data.read(data.manifest[index], rng)
            for _ in range(data.config.repeats):
                data.transform(frames, rng)

    read_and_resize()  # as the loader is measured once it is warm
    start.wait()
    begun = time.process_time()
    read_and_resize()
    ends.wait()
    spent.put(time.process_time() - begun)


def whole_loader(data: VideoDataset, sampler: GlobalBatchSampler, workers: int) -> dict[str, float]:
    """The batches of ``sampler`` with workers that made them before: seconds by both clocks."""
    loader = make_loader(data, sampler, workers=workers)
    for _ in loader:
        pass
    pids = data.worker_state.pids.tolist()
    before, begun = processor_seconds(pids), time.perf_counter()
    for _ in loader:
        pass
    taken = time.perf_counter() - begun
    return {"wall": taken, "processor": processor_seconds(pids) - before}


def processor_seconds(pids: list[int]) -> float:
    """Of this process and of others."""
    ticks = 0
    for pid in pids:
        after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(after_name[11]) + int(after_name[12])
    return time.process_time() + ticks / os.sysconf("SC_CLK_TCK")


def arms_of(forms: dict[str, Manifest], config: DataConfig, shape: dict) -> dict[tuple, dict]:
    """(form, reader, repeats) of what is measured on one core: data sets."""
    arms = {}
    for form, manifest in forms.items():
        readers = reading.readers_of(manifest)
        for reader in readers:
            arms[form, reader, 1] = VideoDataset(manifest.read_by(reader), config, **shape)
        repeated = replace(config, repeats=REPEATS)
        best = manifest.read_by(readers[0])
        arms[form, readers[0], REPEATS] = VideoDataset(best, repeated, **shape)
    return arms


def peer_costs(forms: dict[str, Manifest], settings: argparse.Namespace) -> dict[str, dict]:
    """Milliseconds of processor time a clip of each peer, in turns; None where it fails."""
    torch.set_num_threads(1)
    spent = {form: {name: [] for name in peers()} for form in forms}
    for number in range(settings.rounds):
        for form, manifest in forms.items():
            for name, run in peers().items():
                spent[form][name].append(_peer_round(run, manifest, number, settings))
    return {
        form: {n: None if None in ms else round(statistics.median(ms), 2) for n, ms in each.items()}
        for form, each in spent.items()
    }


def _peer_round(run, manifest: Manifest, number: int, settings) -> float | None:
    clips, total = max(settings.clips // 4, 1), 0.0
    for i in range(number * clips, number * clips + clips):
        sample, rng = manifest[i % len(manifest)], np.random.default_rng(i)
        at = dense_indices(sample.frames or 1, settings.frames, settings.stride, rng).tolist()
        crop = 3 * min(sample.size or (SIDE, SIDE)) // 4
        begun = time.process_time()
        try:
            run(sample.path, at, crop, settings.size)
        except Exception:
            return None
        total += time.process_time() - begun
    return 1000 * total / clips


def measure(settings: argparse.Namespace, forms: dict[str, Manifest]) -> dict:
    config = DataConfig(
        stride=settings.stride, repeats=settings.repeats, crop=settings.crop, short_videos="repeat"
    )
    size, units = (settings.size, settings.size), (settings.size // 16) ** 2
    shape = {"frames": settings.frames, "size": size, "units": units}
    arms = arms_of(forms, config, shape)
    costs = reading.measure(arms, settings.clips, settings.rounds)
    default = {}  # by form and repeats: readers come in the order in which they are asked
    for (form, _, repeats), cost in costs.items():
        default.setdefault((form, repeats), cost)
    data = next(one for (form, _, repeats), one in arms.items() if (form, repeats) == ("copy", 1))
    rounds = []
    for number in range(settings.rounds):
        first = number * settings.batches
        sampler = GlobalBatchSampler(
            len(data), settings.batch, start_step=first, steps=first + settings.batches
        )
        limit = limit_alone(data, list(sampler), settings.workers)
        whole = whole_loader(data, sampler, settings.workers)
        clips = settings.batches * settings.batch * settings.repeats
        rounds.append(
            {f"{name}_{clock}": round(1000 * seconds / clips, 3)
             for name, spent in (("limit", limit), ("loader", whole))
             for clock, seconds in spent.items()}
        )  # fmt: skip
        print(f"round {number + 1}, ms a clip: {rounds[-1]}", flush=True)

    def share(clock: str) -> float:
        each = (one[f"limit_{clock}"] / one[f"loader_{clock}"] for one in rounds)
        return round(statistics.median(each), 3)

    def gain(cheaper: tuple, than: tuple) -> float:
        return round(default[than].whole / default[cheaper].whole, 3)

    return conditions(settings) | {
        "videos": {form: described(one) for form, one in forms.items()},
        "one_core": [
            {"form": form, "reader": reader, "repeats": repeats}
            | {name: round(ms, 2) for name, ms in asdict(cost).items()}
            for (form, reader, repeats), cost in costs.items()
        ],
        "peers": peer_costs(forms, settings),
        "ratios": {
            "prepared_over_original": gain(("copy", 1), ("original", 1)),
            "loader_over_limit": share("processor"),
            "loader_over_limit_wall": share("wall"),
            "repeats_over_one_original": gain(("original", REPEATS), ("original", 1)),
            "repeats_over_one_copy": gain(("copy", REPEATS), ("copy", 1)),
        },
        "rounds": rounds,
    }


def conditions(settings: argparse.Namespace) -> dict:
    """What was asked for, and of which machine; no places of files."""
    return {
        "settings": {key: value for key, value in vars(settings).items() if key not in PLACES},
        "machine": {
            "processor": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
            "load": load_average(),
            "torch": torch.__version__,
        },
    }


def first_batches(settings: argparse.Namespace, forms: dict[str, Manifest]) -> dict:
    """Seconds of wall time until the first batch is there, with workers that have yet to start.

    ``parts``: all workers make parts of it, as ``make_loader`` has them; ``whole``: each worker
    makes a whole batch, the usual way.
    """
    config = DataConfig(stride=settings.stride, crop=settings.crop, short_videos="repeat")
    shape = {"frames": settings.frames, "size": (settings.size,) * 2}
    rounds = []
    for _ in range(settings.rounds):
        rounds.append({})
        for form, manifest in forms.items():
            data = VideoDataset(
                manifest.read_by(reading.readers_of(manifest)[0]),
                config,
                **shape,
                units=(settings.size // 16) ** 2,
            )
            sampler = GlobalBatchSampler(len(data), settings.first_batch, steps=settings.workers)
            many = {"workers": settings.workers}
            for way, loader in (
                ("parts", make_loader(data, sampler, **many)),
                ("whole", Loader(data, sampler, collate, prefetch=1, **many)),
            ):
                begun = time.perf_counter()
                batches = iter(loader)
                next(batches)
                rounds[-1][f"{form}, {way}"] = round(time.perf_counter() - begun, 2)
                batches.close()
        print(f"seconds to a first batch of {settings.first_batch}: {rounds[-1]}", flush=True)
    return conditions(settings) | {
        "rounds": rounds,
        "seconds": {name: statistics.median(one[name] for one in rounds) for name in rounds[0]},
    }


def described(manifest: Manifest) -> dict:
    """What the first file holds, and the bytes of a frame over all files."""
    infos = [read_video_info(sample.path) for sample in manifest]
    size = sum(os.path.getsize(sample.path) for sample in manifest)
    bytes_a_frame = round(size / sum(info.frames for info in infos))
    return {**vars(infos[0]), "files": len(manifest), "bytes_a_frame": bytes_a_frame}


def report(found: dict) -> str:
    """The rows of tables for the README."""
    rows = [
        "| form | reader | clips of a decode | index | open | decode | convert | crop, resize |"
    ]
    rows[0] += " hand over | whole, ms a clip | clips/s a core | frames/s |"
    rows.append("|---" * 12 + "|")
    frames = found["settings"]["frames"]
    for one in found["one_core"]:
        cells = [one["form"], one["reader"], str(one["repeats"])]
        names = ("index", "open", "decode", "convert", "crop", "hand_over", "whole")
        rate = 1000 / one["whole"]
        cells += [f"{one[name]:.1f}" for name in names] + [f"{rate:.1f}", f"{frames * rate:.0f}"]
        rows.append(f"| {' | '.join(cells)} |")
    rows += ["", "| peer, ms a clip | " + " | ".join(found["peers"]) + " |"]
    rows.append("|---" * (1 + len(found["peers"])) + "|")
    for name in next(iter(found["peers"].values())):
        ms = [each[name] for each in found["peers"].values()]
        rows.append(f"| {name} | {' | '.join('fails' if x is None else f'{x:.1f}' for x in ms)} |")
    rows += ["", *(f"{name}: {ratio:.2f}" for name, ratio in found["ratios"].items())]
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--root", help="folder of videos; without one, videos are made")
    parser.add_argument("--manifest", help="manifest, such as one written by a scan")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--batch", type=int, default=16, help="clips in a batch")
    parser.add_argument("--batches", type=int, default=16, help="batches in a round")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--stride", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=1, help="of the loader beside its limit")
    parser.add_argument("--crop", choices=("multiscale", "random_resized"), default="multiscale")
    parser.add_argument("--height", type=int, default=256, help="of made videos")
    parser.add_argument("--width", type=int, default=340, help="of made videos")
    parser.add_argument("--length", type=int, default=300, help="frames of made videos")
    parser.add_argument("--clips", type=int, default=16, help="of each arm in a round, on one core")
    parser.add_argument("--first_batch", type=int, help="clips; only its wait is timed")
    parser.add_argument("--quick", action="store_true", help="three rounds of eight clips")
    parser.add_argument("--json", type=Path, help="file for the results")
    settings = parser.parse_args()
    if settings.quick:
        settings.rounds, settings.clips, settings.batches = 3, 8, 4
    with tempfile.TemporaryDirectory() as folder:
        root = settings.root
        if not root and not settings.manifest:
            root = Path(folder) / "original"
            root.mkdir()
            make_videos(root, 8, settings.height, settings.width, settings.length)
        source = str(settings.manifest or root)
        where = {"root": str(root)} if settings.manifest and root else {}
        transcode(source, f"{folder}/copy", short_side=SIDE, group=1, **where)
        copy = find_samples(f"{folder}/copy/manifest.csv")
        original = reading.as_scanned(find_samples(root, settings.manifest))
        forms = {"original": original, "copy": copy}
        if settings.first_batch:
            found = first_batches(settings, forms)
        else:
            found = measure(settings, forms)
            print(report(found))
    if settings.json:
        settings.json.write_text(json.dumps(found, indent=1, default=str) + "\n")


if __name__ == "__main__":
    main()
