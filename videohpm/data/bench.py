"""What reading costs: processor time a clip, by form of the files, by reader and by stage.

Everything runs in this process, on one thread, in turns: what else the machine does hits all alike.
What a demux pass found is forgotten before each clip, as it is where a data set has more files than
are remembered.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch

from videohpm.data.clips import ClipDataset
from videohpm.data.container import DecodeError, decoded
from videohpm.data.decode import read_frames, read_video_info
from videohpm.data.geometry import UPRIGHT
from videohpm.data.index import forget_indexes, video_index
from videohpm.data.kept_memory import keep_memory
from videohpm.data.manifest import Manifest
from videohpm.data.readers import READERS
from videohpm.data.readers.pyav import rgb
from videohpm.data.shared_memory import PartMaker, Slots
from videohpm.data.transcode import encode, recipe_of


@dataclass(frozen=True)
class Cost:
    """Milliseconds of processor time of a clip, repeats counted as clips."""

    index: float = 0.0
    """The demux pass, where the list does not say how a file is read."""
    open: float = 0.0
    """Opening the file and decoding its first frame."""
    decode: float = 0.0
    """The rest of reading."""
    convert: float = 0.0
    """To RGB, as PyAV does it."""
    crop: float = 0.0
    """Crop, resize and what else the transform does."""
    hand_over: float = 0.0
    """Copying to shared memory, and the random part of the mask."""
    whole: float = 0.0
    """All that a worker does for a clip."""

    @property
    def read(self) -> float:
        """From the file to RGB frames."""
        return self.index + self.open + self.decode + self.convert

    @property
    def clips_per_second(self) -> float:
        """Of a core that does nothing else."""
        return 1000 / self.whole


def measure(arms: dict[Any, ClipDataset], clips: int, rounds: int) -> dict[Any, Cost]:
    """The median over ``rounds`` of the mean of ``clips`` clips, for each arm.

    In each round all arms read the same clips, one arm after the other. From now on this process
    keeps its memory, as workers do. Raises DecodeError.
    """
    keep_memory()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for data in arms.values():  # readers are imported, memory is there
            _round(data, 0, 2)
        found = {name: [] for name in arms}
        for number in range(rounds):
            for name, data in arms.items():
                found[name].append(_round(data, 1 + number * clips, clips))
    finally:
        torch.set_num_threads(threads)
    return {name: _median(each) for name, each in found.items()}


def _median(costs: list[Cost]) -> Cost:
    """Of each stage; those that are differences of noisy times are no less than 0."""
    names = [field.name for field in fields(Cost)]
    return Cost(
        **{n: max(statistics.median(getattr(cost, n) for cost in costs), 0.0) for n in names}
    )


def _round(data: ClipDataset, first: int, clips: int) -> Cost:
    maker = PartMaker(data, Slots(1, (1, *data.clips_shape)))
    spent = dict.fromkeys([field.name for field in fields(Cost)], 0.0)
    for number in range(first, first + clips):
        key = divmod(number, len(data))
        # What comes second finds the file in the processor's caches: the whole in every other clip.
        for name, seconds in _one_clip(data, maker, key, whole_first=number % 2 == 0).items():
            spent[name] += 1000 * seconds / clips / data.config.repeats
    return Cost(**spent)


def _one_clip(
    data: ClipDataset, maker: PartMaker, key: tuple[int, int], whole_first: bool
) -> dict[str, float]:
    """Seconds of each stage of one item."""
    sample, rng = data.manifest[key[1]], np.random.default_rng([data.seed, *key, 0])

    def make() -> float:
        forget_indexes()
        return _timed(maker.__getitems__, (0, [key]))[0]

    before = make() if whole_first else 0.0
    forget_indexes()
    read, frames = _timed(data.read, sample, rng)
    crop = sum(_timed(data.transform, frames, rng)[0] for _ in range(data.config.repeats))
    whole = before if whole_first else make()
    spent = {"crop": crop, "hand_over": whole - read - crop, "whole": whole}
    if data.manifest.kind == "image" or os.path.isdir(sample.path):
        return spent | {"decode": read}
    index = 0.0
    if sample.reader in (None, "pyav") or sample.frames is None:
        forget_indexes()
        index, _ = _timed(video_index, sample.path)
    opened, _ = _timed(
        lambda: read_frames(sample.path, [0], reader=sample.reader, size=sample.size)
    )
    first = next(decoded(sample.path))
    size = first.height, first.width
    convert = _timed(rgb, first, size, UPRIGHT)[0] * len(frames)
    rest = read - index - opened - convert
    return spent | {"index": index, "open": opened, "convert": convert, "decode": rest}


def _timed(function: Callable[..., Any], *arguments: Any) -> tuple[float, Any]:
    begun = time.process_time()
    result = function(*arguments)
    return time.process_time() - begun, result


def readers_of(manifest: Manifest) -> list[str]:
    """The readers that are here and may read every file, in the order in which they are asked.

    None where a sample is a picture, or a folder of frames.
    """
    if manifest.kind == "image" or any(os.path.isdir(sample.path) for sample in manifest):
        return []
    indexes = [video_index(sample.path) for sample in manifest]
    return [
        name
        for name, reader in READERS.items()
        if reader.available() is None and all(map(reader.can_read, indexes))
    ]


def some_of(data: ClipDataset, count: int) -> Manifest:
    """Up to ``count`` samples of a data set, spread over it, that give a clip."""
    kept = []
    for row in np.unique(np.linspace(0, len(data) - 1, 2 * count).astype(int)):
        try:
            data.read(data.manifest[row], np.random.default_rng(0))
        except DecodeError:
            continue
        kept.append(row)
    spread = np.unique(np.linspace(0, len(kept) - 1, min(count, len(kept))).astype(int))
    return data.manifest.subset([kept[i] for i in spread])


def key_frame_copies(manifest: Manifest, folder: Path, short_side: int) -> tuple[Manifest, float]:
    """Copies as ``data transcode --group 1`` makes them, and the processor seconds they took."""
    recipe, paths = recipe_of(short_side, group=1), []
    begun = time.process_time()
    for number in range(len(manifest)):
        paths.append(str(folder / f"{number}.mp4"))
        encode((manifest[number].path, paths[-1]), recipe)
    seconds = time.process_time() - begun
    return as_scanned(Manifest(paths)), seconds


def as_scanned(manifest: Manifest) -> Manifest:
    """With the columns that ``data scan`` adds."""
    infos = [read_video_info(sample.path) for sample in manifest]
    return Manifest(
        [sample.path for sample in manifest],
        frames=[info.frames for info in infos],
        readers=[info.reader for info in infos],
        heights=[info.height for info in infos],
        widths=[info.width for info in infos],
    )
