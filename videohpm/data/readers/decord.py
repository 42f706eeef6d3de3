"""decord: closed groups of H.264, HEVC, VP8 and VP9 in MP4 and Matroska.

Fast where it is right, and only used there. It counts frames in the order they are stored and
trusts that a key frame starts a closed group; elsewhere it returns other frames without an error.
It must be imported after torch and in the
process that reads: imported before torch, or carried through a fork, it is known to crash.
"""

from __future__ import annotations

from functools import lru_cache
from importlib.util import find_spec

import numpy as np

from videohpm.data.container import as_file
from videohpm.data.geometry import UPRIGHT
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
    return (
        index.closed_groups
        and index.codec in CODECS
        and index.container in CONTAINERS
        and index.video_streams == 1
        and index.orientation == UPRIGHT
        and not index.interlaced
        and index.width % 2 == 0
        and index.height % 2 == 0
        and index.bits == 8
    )


def read(path: str, positions: list[int], target: tuple[int, int] | None) -> np.ndarray | None:
    """Frames as uint8 (n, H, W, 3), or None where PyAV should read instead.

    That is where they are to be scaled (decord scales to some widths only, and is no faster at it),
    after any error, and where two different positions hold the very same picture: decord repeats a
    frame for one that it cannot decode. (A still scene is then read twice, that is all.)
    """
    if target is not None:
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
