"""Damaged copies of a good MP4 file, of every kind that large data sets have among them."""

from pathlib import Path

import numpy as np
from painted import encode

KINDS = ("empty", "truncated_10", "truncated_50", "truncated_90", "text", "zeros", "flipped")
KINDS += ("hole", "sound", "one_frame", "bomb")


def damage(good: Path, path: Path, kind: str, seed: int) -> Path:
    """Writes a file of ``kind`` to ``path``; those that start from a good one take ``good``."""
    data, rng = bytearray(good.read_bytes()), np.random.default_rng(seed)
    if kind == "empty":
        data = b""
    elif kind.startswith("truncated"):
        data = data[: len(data) * int(kind.split("_")[1]) // 100]
    elif kind == "text":
        data = b"This is no video. " * (50 + seed)
    elif kind == "zeros":
        data = bytes(len(data))
    elif kind == "flipped":
        for at in rng.integers(len(data), size=2000):
            data[at] ^= 1 << rng.integers(8)
    elif kind == "hole":
        start = len(data) // 3 + int(rng.integers(len(data) // 4))
        data[start : start + len(data) // 5] = bytes(len(data) // 5)
    elif kind == "one_frame":
        return encode(path, "libx264", 1)
    elif kind == "sound":
        data = _sound(path.with_suffix(".sound.mp4"))
    elif kind == "bomb":
        data = _bomb(path.with_suffix(".bomb.avi"))
    path.write_bytes(data)
    return path


def _sound(path: Path) -> bytes:
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("mp2", rate=44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 2304), np.int16), "s16", "stereo")
        frame.sample_rate, frame.pts = 44100, 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    data = path.read_bytes()
    path.unlink()
    return data


def _bomb(path: Path) -> bytes:
    """100 pictures of 30,000 x 30,000 pixels, as they say, in a few kilobytes."""
    data = bytearray(encode(path, "mjpeg", 100, pix_fmt="yuvj420p").read_bytes())
    path.unlink()
    at = data.find(b"\xff\xc0")
    while at >= 0:
        data[at + 5 : at + 9] = (30000).to_bytes(2, "big") * 2
        at = data.find(b"\xff\xc0", at + 9)
    return bytes(data)
