"""What would a codec's motion vectors cost, and which files have them?

    python benchmarks/vectors.py VIDEO... --json benchmarks/results/vectors.json

Each file's first frames are decoded by PyAV as they are, with vectors exported, and with the
vectors read as well, in turns, in processor time; the least of the rounds counts.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import av

FRAMES, ROUNDS = 240, 3
WAYS = {"plain": (False, False), "exported": (True, False), "read": (True, True)}


def decode(path: str, exported: bool, read: bool) -> tuple[float, int, int]:
    """Seconds of processor time, frames, and those of them that have vectors."""
    begun, frames, having = time.process_time(), 0, 0
    with av.open(path) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        stream.codec_context.options = {"flags2": "+export_mvs"} if exported else {}
        for frame in container.decode(stream):
            frames += 1
            vectors = frame.side_data.get("MOTION_VECTORS") if read else None
            having += vectors is not None and len(vectors.to_ndarray()) > 0
            if frames == FRAMES:
                break
    return time.process_time() - begun, frames, having


def measure(path: str) -> dict:
    """Times of a file over those of a plain decode, and the share of frames with vectors."""
    found = {name: [] for name in WAYS}
    for _ in range(ROUNDS):
        for name, way in WAYS.items():
            found[name].append(decode(path, *way))
    least = {name: min(seconds for seconds, *_ in rounds) for name, rounds in found.items()}
    _, frames, having = found["read"][0]
    with av.open(path) as container:
        codec = container.streams.video[0].codec_context.name
    return {
        "codec": codec,
        "frames": frames,
        "with_vectors": having / frames,
        "exported_over_plain": least["exported"] / least["plain"],
        "read_over_plain": least["read"] / least["plain"],
    }


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("videos", nargs="+")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(arguments)
    found = {Path(path).name: measure(path) for path in args.videos}
    for name, facts in found.items():
        print(f"{name}: " + ", ".join(
            f"{key} {value if isinstance(value, (str, int)) else round(value, 2)}"
            for key, value in facts.items()
        ))  # fmt: skip
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
