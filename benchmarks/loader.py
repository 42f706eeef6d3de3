#!/usr/bin/env python
"""What reading costs, and how close the whole loader comes to it: readers and forms in turns.

    python benchmarks/loader.py --json loader.json                    # made videos
    python benchmarks/loader.py --root DATA --workers 8 --batches 40  # one's own
    python benchmarks/loader.py --quick                               # three rounds

The forms are the files as they are (``original``) and a copy of key frames alone that ``data
transcode --group 1`` makes of them (``copy``). In one process, by processor time and in turns, so
that what else the machine does hits all: every reader that is there and may read the form, reading
alone and whole items with the pre-training augmentation. Then, by wall time with all workers, the
loader on the copy beside reading and resizing alone, and memory while it runs.
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
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from videohpm.data import (
    DataConfig,
    GlobalBatchSampler,
    Manifest,
    VideoDataset,
    collate,
    find_samples,
    make_loader,
    read_video_info,
)
from videohpm.data.index import video_index
from videohpm.data.readers import READERS
from videohpm.data.transcode import transcode

PLACES = ("root", "manifest", "json")
"""Settings that say where files lie."""
SIDE = 256
"""Shorter side of the copy, pixels."""


def make_videos(folder: Path, count: int, height: int, width: int, frames: int) -> None:
    """H.264 as an encoder makes it by default (long groups, B-frames) but for closed groups."""
    import av

    # Detail at all scales, the coarser the stronger, as in photographs, and a little noise: a copy
    # of key frames alone then takes 4 to 6 kB a picture, as of real videos of this size.
    rng = np.random.default_rng(0)
    tall, wide = height + 240, width + 240
    large = np.full((tall, wide, 3), 128.0)
    for step in (128, 64, 32, 16, 8, 4):
        small = Image.fromarray(rng.integers(0, 256, (tall // step + 2, wide // step + 2, 3), "u1"))
        detail = np.asarray(small.resize((wide, tall), Image.Resampling.BICUBIC), float)
        large += (detail - 127.5) * (step / 128) ** 0.75 * 0.6
    large = (large + rng.normal(0, 1, large.shape)).clip(0, 255).astype(np.uint8)
    path = folder / "0.mp4"
    with av.open(str(path), "w") as file:
        options = {"preset": "veryfast", "crf": "23", "x264-params": "open-gop=0"}
        stream = file.add_stream("libx264", rate=30, options=options)
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        for i in range(frames):
            down, right = int(120 + 110 * np.sin(i / 23)), int(120 + 110 * np.cos(i / 17))
            picture = np.ascontiguousarray(large[down : down + height, right : right + width])
            file.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        file.mux(stream.encode(None))
    for i in range(1, count):  # copies: what is measured is not the disk
        (folder / f"{i}.mp4").write_bytes(path.read_bytes())


def keys_of(data: VideoDataset, batch: int, batches: int, first: int) -> list[list]:
    sampler = GlobalBatchSampler(len(data), batch, start_step=first, steps=first + batches)
    return list(sampler)


def limit_alone(data: VideoDataset, keys: list[list], workers: int) -> float:
    """Clips a second of reading and resizing alone, in ``workers`` processes."""
    context = multiprocessing.get_context("fork" if os.name == "posix" else "spawn")
    start, ends = context.Barrier(workers + 1), context.Barrier(workers + 1)
    parts = [sum(keys[i::workers], []) for i in range(workers)]
    jobs = [
        context.Process(target=_read_and_resize, args=(data, part, start, ends)) for part in parts
    ]
    for job in jobs:
        job.start()
    start.wait()
    begun = time.perf_counter()
    ends.wait()
    taken = time.perf_counter() - begun
    for job in jobs:
        job.join()
    return sum(map(len, keys)) / taken


def _read_and_resize(data: VideoDataset, keys: list, start, ends) -> None:
    torch.set_num_threads(1)
    data.read(data.manifest[0], np.random.default_rng(0))  # imports the readers
    start.wait()
    for epoch, index in keys:
        rng = np.random.default_rng([data.seed, epoch, index, 0])
        data.transform(data.read(data.manifest[index], rng), rng)
    ends.wait()


def whole_loader(data: VideoDataset, batch: int, batches: int, first: int, workers: int) -> tuple:
    """(clips a second once every worker has delivered, memory in MB at each batch after that)."""
    sampler = GlobalBatchSampler(len(data), batch, start_step=first, steps=first + 2 * batches)
    arrivals, memory = [], []
    loader = make_loader(data, sampler, workers=workers)
    stream = iter(loader)
    for number, _ in enumerate(stream):
        arrivals.append(time.perf_counter())
        if number >= workers:
            memory.append(resident([os.getpid(), *data.worker_state.pids.tolist()]))
        # The stream goes on behind the last batch that counts, so that no worker idles in it.
        if number == workers + batches - 1:
            break
    stream.close()
    del stream, loader
    return (len(arrivals) - workers) * batch / (arrivals[-1] - arrivals[workers - 1]), memory


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


def stages(data: VideoDataset, clips: int) -> dict[str, float]:
    """Milliseconds of processor time a clip of each stage, in one process of one thread."""
    spent = dict.fromkeys(("decode", "crop_and_resize", "mask_priority", "collate"), 0.0)
    items = []
    for index in range(clips):
        rng = np.random.default_rng([data.seed, 0, index, 0])
        sample = data.manifest[index % len(data)]
        marks = [time.process_time()]
        frames = data.read(sample, rng)
        marks.append(time.process_time())
        repeats = range(data.config.repeats)
        cut = [data.transform(frames, rng).transpose(0, 1) for _ in repeats]
        clip = torch.stack(cut) if len(cut) > 1 else cut[0][None]
        marks.append(time.process_time())
        shuffle_ids = data._shuffle_ids(0, index)
        marks.append(time.process_time())
        items.append(
            {"clips": clip, "shuffle_ids": shuffle_ids, "label": -1, "index": 0, "bad": []}
        )
        for name, begun, ended in zip(spent, marks, marks[1:], strict=False):
            spent[name] += ended - begun
        if len(items) == 16:
            begun = time.process_time()
            collate(items)
            spent["collate"] += time.process_time() - begun
            items.clear()
    return {name: round(1000 * seconds / clips, 3) for name, seconds in spent.items()}


def as_scanned(manifest: Manifest) -> Manifest:
    """With what a scan would write of frames and sizes: what is measured is not the demux pass."""
    infos = [read_video_info(sample.path) for sample in manifest]
    return Manifest(
        [sample.path for sample in manifest],
        frames=[info.frames for info in infos],
        heights=[info.height for info in infos],
        widths=[info.width for info in infos],
    )


def readers_of(manifest: Manifest) -> list[str]:
    """Those that are there and may read the first file, in the order in which they are asked."""
    index = video_index(manifest[0].path)
    return [n for n, one in READERS.items() if one.available() is None and one.can_read(index)]


def one_core(data: VideoDataset, reader: str, first: int, clips: int) -> tuple[float, float]:
    """Processor milliseconds a clip: read alone, and as whole items of batches of 16."""
    data.manifest._readers[:] = ["", *READERS].index(reader)
    spent, whole = 0.0, 0.0
    for begin in range(first, first + clips, 16):
        keys = [(0, (begin + i) % len(data)) for i in range(min(16, first + clips - begin))]
        begun = time.process_time()
        for epoch, index in keys:
            data.read(data.manifest[index], np.random.default_rng([0, epoch, index, 0]))
        spent += time.process_time() - begun
        begun = time.process_time()
        collate([data[key] for key in keys])
        whole += time.process_time() - begun
    return 1000 * spent / clips, 1000 * whole / clips / data.config.repeats


def measure(settings: argparse.Namespace, forms: dict[str, Manifest]) -> dict:
    config = DataConfig(
        stride=settings.stride, repeats=settings.repeats, crop=settings.crop, short_videos="repeat"
    )
    size, units = (settings.size, settings.size), (settings.size // 16) ** 2
    shape = {"frames": settings.frames, "size": size, "units": units}
    data = {form: VideoDataset(one, config, **shape) for form, one in forms.items()}
    readers = {form: readers_of(one) for form, one in forms.items()}
    rows: dict[tuple[str, str], list] = {(form, r): [] for form in forms for r in readers[form]}
    rounds, memory = [], []
    for number in range(settings.rounds):
        torch.set_num_threads(1)
        for form, reader in rows:
            rows[form, reader].append(one_core(data[form], reader, number * 7, settings.clips))
        copy, first = data["copy"], number * settings.batches
        copy.manifest._readers[:] = ["", *READERS].index(readers["copy"][0])
        keys = keys_of(copy, settings.batch, settings.batches, first)
        alone = limit_alone(copy, keys, settings.workers)
        whole, seen = whole_loader(copy, settings.batch, settings.batches, first, settings.workers)
        rounds.append({"limit": round(alone, 2), "loader": round(whole, 2)})
        memory += seen
        print(f"round {number + 1}: limit {alone:.1f}, loader {whole:.1f} clips/s", flush=True)
    cores = {form: {} for form in forms}
    for (form, reader), each in rows.items():
        read, whole = (statistics.median(one[i] for one in each) for i in (0, 1))
        cores[form][reader] = {"read_ms": round(read, 2), "loader_ms": round(whole, 2)}
    default = {form: cores[form][readers[form][0]]["loader_ms"] for form in forms}
    share = statistics.median(each["loader"] / each["limit"] for each in rounds)
    return {
        "settings": {key: value for key, value in vars(settings).items() if key not in PLACES},
        "machine": {
            "processor": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
            "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
            "torch": torch.__version__,
        },
        "videos": {form: described(one) for form, one in forms.items()},
        "one_core": cores,
        "ratios": {
            "prepared_over_original": round(default["original"] / default["copy"], 3),
            "loader_over_limit": round(share, 3),
        },
        "rounds": rounds,
        "stages_ms_per_clip": stages(data["copy"], settings.clips),
        "memory_mb": memory,
    }


def described(manifest: Manifest) -> dict:
    """What the first file holds, and the bytes of a frame over all files."""
    infos = [read_video_info(sample.path) for sample in manifest]
    size = sum(os.path.getsize(sample.path) for sample in manifest)
    bytes_a_frame = round(size / sum(info.frames for info in infos))
    return {**vars(infos[0]), "files": len(manifest), "bytes_a_frame": bytes_a_frame}


def report(found: dict) -> str:
    """The rows of a table for the README."""
    rows = ["| form | bytes a frame | reader | read, ms | whole loader, ms | clips/s a core |"]
    rows.append("|---|---|---|---|---|---|")
    for form, readers in found["one_core"].items():
        video = found["videos"][form]
        for reader, ms in readers.items():
            cells = f"{ms['read_ms']:.1f} | {ms['loader_ms']:.1f} | {1000 / ms['loader_ms']:.1f}"
            rows.append(f"| {form} | {video['bytes_a_frame']} | {reader} | {cells} |")
    ratios, spent = found["ratios"], found["stages_ms_per_clip"]
    rows += [
        "",
        f"copy over original: {ratios['prepared_over_original']:.2f} times the clips a core",
        f"loader over reading and resizing alone: {ratios['loader_over_limit']:.0%}",
        "on the copy, ms: " + ", ".join(f"{name} {ms:.1f}" for name, ms in spent.items()),
    ]
    if found["memory_mb"]:
        first, last = found["memory_mb"][0], found["memory_mb"][-1]
        rows.append(f"memory of all processes: {first:.0f} MB at first, {last:.0f} MB at last")
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
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--stride", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--crop", choices=("multiscale", "random_resized"), default="multiscale")
    parser.add_argument("--height", type=int, default=256, help="of made videos")
    parser.add_argument("--width", type=int, default=340, help="of made videos")
    parser.add_argument("--length", type=int, default=300, help="frames of made videos")
    parser.add_argument("--clips", type=int, default=16, help="of each arm in a round, on one core")
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
        original = as_scanned(find_samples(root, settings.manifest))
        found = measure(settings, {"original": original, "copy": copy})
    print(report(found))
    if settings.json:
        settings.json.write_text(json.dumps(found, indent=1, default=str) + "\n")


if __name__ == "__main__":
    main()
