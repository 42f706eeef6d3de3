#!/usr/bin/env python
"""How close the whole loader comes to decoding alone: the same files, clips and processes.

    python benchmarks/loader.py --out loader.json                    # made videos
    python benchmarks/loader.py --root DATA --workers 8 --batches 40  # one's own

Two arms take turns, so that what else the machine does hits both: ``decode`` reads the frames of
each clip and drops them, ``loader`` gives whole batches with the pre-training augmentation. Also
the time of each stage in one process, and memory while the loader runs.
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


def make_videos(folder: Path, count: int, height: int, width: int, frames: int) -> None:
    """H.264 as an encoder makes it by default (long groups, B-frames) but for closed groups."""
    import av

    rng = np.random.default_rng(0)
    large = rng.integers(0, 256, (height // 8 + 40, width // 8 + 40, 3), np.uint8)
    large = np.kron(large, np.ones((8, 8, 1), np.uint8))
    large = (large + rng.integers(0, 24, large.shape)).clip(0, 255).astype(np.uint8)
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


def decode_only(data: VideoDataset, keys: list[list], workers: int) -> float:
    """Clips a second of reading alone, in ``workers`` processes."""
    context = multiprocessing.get_context("fork" if os.name == "posix" else "spawn")
    start, ends = context.Barrier(workers + 1), context.Barrier(workers + 1)
    parts = [sum(keys[i::workers], []) for i in range(workers)]
    jobs = [context.Process(target=_decode, args=(data, part, start, ends)) for part in parts]
    for job in jobs:
        job.start()
    start.wait()
    begun = time.perf_counter()
    ends.wait()
    taken = time.perf_counter() - begun
    for job in jobs:
        job.join()
    return sum(map(len, keys)) / taken


def _decode(data: VideoDataset, keys: list, start, ends) -> None:
    torch.set_num_threads(1)
    data.read(data.manifest[0], np.random.default_rng(0))  # imports the readers
    start.wait()
    for epoch, index in keys:
        data.read(data.manifest[index], np.random.default_rng([data.seed, epoch, index, 0]))
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


def measure(settings: argparse.Namespace, manifest: Manifest) -> dict:
    config = DataConfig(
        stride=settings.stride, repeats=settings.repeats, crop=settings.crop, short_videos="repeat"
    )
    size, units = (settings.size, settings.size), (settings.size // 16) ** 2
    data = VideoDataset(manifest, config, frames=settings.frames, size=size, units=units)
    info = read_video_info(manifest[0].path)
    rounds, memory = [], []
    for number in range(settings.rounds):
        first = number * settings.batches
        keys = keys_of(data, settings.batch, settings.batches, first)
        alone = decode_only(data, keys, settings.workers)
        whole, seen = whole_loader(data, settings.batch, settings.batches, first, settings.workers)
        rounds.append({"decode_only": round(alone, 2), "loader": round(whole, 2)})
        memory += seen
        print(f"round {number + 1}: decode only {alone:.1f}, loader {whole:.1f} clips/s "
              f"({whole / alone:.0%})", flush=True)  # fmt: skip
    torch.set_num_threads(1)
    alone = statistics.median(each["decode_only"] for each in rounds)
    whole = statistics.median(each["loader"] for each in rounds)
    spent = stages(data, settings.batch * 4)
    return {
        "settings": {key: value for key, value in vars(settings).items() if key != "out"},
        "machine": {
            "processor": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
            "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
            "torch": torch.__version__,
        },
        "video": {**vars(info), "files": len(manifest)},
        "clips_per_second": {"decode_only": alone, "loader": whole},
        "share": round(whole / alone, 4),
        "rounds": rounds,
        "stages_ms_per_clip": spent,
        "decode_share_of_processor_time": round(spent["decode"] / sum(spent.values()), 4),
        "memory_mb": memory,
    }


def report(found: dict) -> str:
    """The rows of a table for the README."""
    video, said = found["video"], found["clips_per_second"]
    shape = f"{video['width']}x{video['height']} {video['codec']}, read by {video['reader']}"
    spent = ", ".join(f"{name} {ms:.1f}" for name, ms in found["stages_ms_per_clip"].items())
    rows = [
        f"videos: {shape}; {found['settings']['workers']} processes",
        f"decode only {said['decode_only']:.1f} clips/s, loader {said['loader']:.1f} clips/s: "
        f"{found['share']:.0%}",
        f"decoding is {found['decode_share_of_processor_time']:.0%} of the processor time",
        f"processor ms a clip: {spent}",
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
    parser.add_argument("--out", help="JSON file for the results")
    settings = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if not settings.root and not settings.manifest:
            shape = settings.height, settings.width, settings.length
            make_videos(Path(folder), 32, *shape)
        root = settings.root or (None if settings.manifest else folder)
        found = measure(settings, find_samples(root, settings.manifest))
    print(report(found))
    if settings.out:
        Path(settings.out).write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
