"""Closed groups of H.264, HEVC, VP8 and VP9 in MP4 and Matroska.

Fast where it is right, and only used there. It counts frames in the order they are stored and
trusts that a key frame starts a closed group; elsewhere it returns other frames without an error.
It must be imported after torch and in the
process that reads: imported before torch, or carried through a fork, it is known to crash.
"""

from __future__ import annotations

from functools import lru_cache
from importlib.util import find_spec

import numpy as np

from videohpm.data.container import (
    as_file,
    begins_as_mp4_or_matroska,
    best_stream,
    check_first_bytes,
    open_checked,
)
from videohpm.data.index import VideoIndex
from videohpm.data.packets import MATROSKA, MP4

# Bit-exact by their standards. The FFmpeg inside decord is years older than PyAV's, and codecs
# whose inverse transform may round (MPEG-4, MPEG-2, MJPEG) differ by a few levels between the two.
CODECS = ("h264", "hevc", "vp8", "vp9")
# Not AVI, FLV, MPEG-TS or ASF: in each decord was seen to seek to other frames.
CONTAINERS = (MP4, MATROSKA)


@lru_cache(maxsize=1)
def available() -> str | None:
    """None where decord is installed, else that it is not."""
    return None if find_spec("decord") else "decord is not installed"


def can_read(index: VideoIndex) -> bool:
    """Whether decord returns the frames of a sequential decode.

    It reads one upright 8-bit stream as PyAV does; others it turns, dithers or confuses, and the
    chroma of interlaced pictures it converts as if they were not.
    """
    return index.is_plain and index.codec in CODECS and index.container in CONTAINERS


def read(path: str, positions: list[int], target: tuple[int, int] | None) -> np.ndarray | None:
    """Frames as uint8 (n, H, W, 3), or None where PyAV should read instead.

    That is where they are to be scaled (decord scales to some widths only, and is no faster at it),
    after any error, and where two different positions hold the very same picture: decord repeats a
    frame for one that it cannot decode. (A still scene is then read twice, that is all.)
    """
    if target is not None or not _may_hold(path):
        return None
    import torch  # noqa: F401, I001  decord before torch can crash
    import decord

    decord.logging.set_level(decord.logging.QUIET)
    try:
        reader = decord.VideoReader(as_file(path), num_threads=1)
        if positions[-1] >= len(reader):
            return None
        frames = reader.get_batch(positions).asnumpy()
    except Exception:  # decord raises its own error, RuntimeError or IndexError
        return None
    if any(np.array_equal(frames[i], frames[i + 1]) for i in range(len(frames) - 1)):
        return None
    return frames


def _may_hold(path: str) -> bool:
    """Whether the file begins as one of CONTAINERS, and its header names one of CODECS.

    Looked at although a manifest says that decord reads the file: that may be of another file, and
    decord, unlike PyAV, has no bound on the size of a picture and crashes on some other containers.
    Takes a few hundredths of the time of reading a clip. Raises DecodeError as ``best_stream``.
    """
    if not begins_as_mp4_or_matroska(check_first_bytes(path)):
        return False
    with open_checked(path) as container:
        codec = best_stream(path, container).codec_context.codec.canonical_name
        return container.format.name in CONTAINERS and codec in CODECS
