#!/usr/bin/env python
"""Whether files are read as they should be: every frame asked for is that of a plain decode.

    python benchmarks/compare_readers.py DATA --json compared.json

Takes folders of videos and images, or files. Each video is decoded once from its first frame to its
end; then frames are asked for by position, as training and tests do: by the reader that the file
itself leads to, by the one that ``videohpm data scan`` would write into a manifest, by every other
one that is there and may read it, and by PyAV, which stands in for all. Single frames are read in
descending order, then batches: consecutive, strided, scattered, and unordered with repeats. Images
are compared with Pillow's.

One line for each file that differs or cannot be read; the last line counts. The exit code is 1
where a file differs.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from videohpm.data import DecodeError, read_frames, read_image, read_video_info
from videohpm.data.container import decoded
from videohpm.data.geometry import orientation
from videohpm.data.index import VideoIndex, video_index
from videohpm.data.killable_pool import Failed, run_killable
from videohpm.data.manifest_parser import IMAGE_SUFFIXES, VIDEO_SUFFIXES
from videohpm.data.readers import READERS, Reader
from videohpm.data.sample_files import walk
from videohpm.data.scan import check as scan_check
from videohpm.errors import printable

SAME, DIFFERS, UNREADABLE = "same", "differs", "cannot be read"
SPREAD = 7
"""Single reads begin at so many places, besides the first and the last frame."""
Outcome = dict[str, Any]


def patterns(frames: int) -> dict[str, list[list[int]]]:
    """Reads, each a list of positions, of a video of so many frames, by what they try."""
    last = frames - 1
    spread = sorted({last * i // (SPREAD + 1) for i in range(SPREAD + 2)})
    rng = np.random.default_rng(frames)
    scattered = sorted(rng.choice(frames, min(8, frames), replace=False).tolist())
    middle = max(last // 2 - 4, 0)
    return {
        "single frames": [[position] for position in reversed(spread)],
        "consecutive": [list(range(middle, min(middle + 8, frames)))],
        "strided": [list(range(min(3, last), frames, max(frames // 8, 2)))],
        "scattered": [scattered],
        "repeated": [[last, *spread[::-2], 0, last, last]],
    }


def compare(path: str) -> Outcome:
    """What became of one file: ``outcome``, and ``detail`` where it is not the same."""
    if os.path.splitext(path)[1].lower() in IMAGE_SUFFIXES:
        return {"kind": "image"} | _compare_image(path)
    try:
        return {"kind": "video"} | _compare_video(path)
    except DecodeError as error:
        return {"kind": "video", "outcome": UNREADABLE, "detail": error.reason}


def _compare_video(path: str) -> Outcome:
    info, scanned = read_video_info(path), scan_check(path)
    if scanned["reason"] is not None:
        return {"outcome": DIFFERS, "detail": f"the scan cannot read it: {scanned['reason']}"}
    reads = patterns(scanned["frames"])
    wanted = {position for each in reads.values() for one in each for position in one}
    right: dict[int, np.ndarray] = {}
    count = 0
    for frame in decoded(path):
        if count in wanted:
            turn = orientation(frame)
            assert turn is not None  # else the file is refused above
            right[count] = turn.turn(frame.to_ndarray(format="rgb24"))
        count += 1
    index = video_index(path)
    others = [name for name, reader in READERS.items() if may_read(reader, index)]
    readers = sorted({info.reader, scanned["reader"], *others})
    found: Outcome = {"frames": count, "readers": readers}
    if scanned["note"]:
        found["note"] = scanned["note"]
    if count != scanned["frames"]:
        detail = f"the scan counts {scanned['frames']} frames, {count} decode"
        return found | {"outcome": DIFFERS, "detail": detail}
    size = scanned["height"], scanned["width"]
    ways: dict[str, Callable[[list[int]], np.ndarray]] = {
        info.reader: lambda positions: read_frames(path, positions),
        f"{scanned['reader']} by manifest": lambda positions: read_frames(
            path, positions, reader=scanned["reader"], size=size
        ),
    }
    ways |= {f"{name} in its place": partial(read_frames, path, reader=name) for name in others}
    for way, read in ways.items():
        for pattern, each in reads.items():
            for positions in each:
                wrong = _difference(read, positions, right)
                if wrong:
                    detail = f"{way}, {pattern}: {wrong}"
                    return found | {"outcome": DIFFERS, "detail": detail}
    return found | {"outcome": SAME}


def may_read(reader: Reader, index: VideoIndex) -> bool:
    """Whether a reader is there and reads such a file."""
    return reader.available() is None and reader.can_read(index)


def _difference(
    read: Callable[[list[int]], np.ndarray], positions: list[int], right: dict[int, np.ndarray]
) -> str | None:
    """How the frames at ``positions`` are not the right ones; None where they are."""
    try:
        frames = read(positions)
    except DecodeError as error:
        return f"frames {positions}: {error.reason}"
    for position, frame in zip(positions, frames, strict=True):
        if frame.shape != right[position].shape:
            return f"frame {position} is {frame.shape}, not {right[position].shape}"
        off = np.abs(frame.astype(int) - right[position])
        if off.any():
            share = (off.max(-1) > 0).mean()
            return f"frame {position} is off by up to {off.max()} in {share:.0%} of its pixels"
    return None


def _compare_image(path: str) -> Outcome:
    from PIL import Image, ImageOps

    try:
        found = read_image(path)
    except DecodeError as error:
        return {"outcome": UNREADABLE, "detail": error.reason}
    with open(path, "rb") as file, Image.open(file) as image:
        image.load()
        deep = image.mode.startswith(("I", "F"))
        try:
            image = ImageOps.exif_transpose(image)
        except Exception:  # whatever Pillow raises about damaged tags; the pixels are not damaged
            image = image.copy()
        if deep:  # scaled by a rule of our own: only the order of the brightness can be compared
            right = np.asarray(image).astype(np.int64)
            same = right.shape == found.shape[:2] and _same_order(right, found[..., 0])
        else:
            same = np.array_equal(np.asarray(image.convert("RGB")), found)
    return {"outcome": SAME} if same else {"outcome": DIFFERS, "detail": "not Pillow's pixels"}


def _same_order(deep: np.ndarray, scaled: np.ndarray) -> bool:
    """Whether brighter stays brighter (or darker, all of it, where white is 0)."""
    order = np.argsort(deep, axis=None, kind="stable")
    steps = np.diff(scaled.ravel()[order].astype(int))
    return bool((steps >= 0).all() or (steps <= 0).all())


def files_of(places: list[str]) -> list[str]:
    """All videos and images in the folders, and the files themselves."""
    found: list[str] = []
    for place in places:
        if os.path.isdir(place):
            inside = [os.path.join(place, name) for name in walk(Path(place))]
            media = VIDEO_SUFFIXES | IMAGE_SUFFIXES
            found += [one for one in inside if os.path.splitext(one)[1].lower() in media]
        else:
            found.append(place)
    return found


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("places", nargs="+", help="folders, searched recursively, or files")
    parser.add_argument("--json", type=Path, help="file for what became of every file")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--seconds", type=float, default=300.0, help="longest time for a file")
    parser.add_argument("--memory", type=float, default=4.0, help="GB that a file may take")
    given = parser.parse_args(arguments)
    sys.stdout.reconfigure(errors="backslashreplace")  # pyright: ignore[reportAttributeAccessIssue]
    paths = files_of(given.places)
    results: dict[str, Outcome] = {}
    limits = {"seconds": given.seconds, "memory": given.memory}
    for position, result in run_killable(compare, paths, jobs=given.workers, **limits):
        if isinstance(result, Failed):
            result = {"outcome": UNREADABLE, "detail": result.reason}
        results[paths[position]] = result
        if result["outcome"] != SAME:
            print(f"{printable(paths[position])}: {result['outcome']}: {result['detail']}")
    counts = Counter(result["outcome"] for result in results.values())
    if given.json is not None:
        rows = [{"path": path, **results[path]} for path in paths]
        text = json.dumps({"counts": counts, "files": rows}, indent=2)
        given.json.write_text(text + "\n")
    kinds = (SAME, DIFFERS, UNREADABLE)
    print(f"{len(paths)} files: " + ", ".join(f"{counts[kind]} {kind}" for kind in kinds))
    return int(counts[DIFFERS] > 0)


if __name__ == "__main__":
    raise SystemExit(main())
