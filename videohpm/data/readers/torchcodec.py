"""Closed groups of H.264, HEVC, VP8, VP9 and AV1 in MP4 and Matroska.

In exact mode. Its wheels bring no FFmpeg: they load the system's libraries (versions 4 to 9), and
they go with one release of torch each. Measured on painted files with FFmpeg 5.1: right, to the
bit, wherever groups are closed in MP4 and Matroska; elsewhere it can return other frames without an
error (H.264 with intra refresh, MPEG-TS, AVI and MPEG-PS with B-frames) or miss the last ones (open
groups of H.264).

Crop and resize inside its decoder (its ``transforms``) were measured on copies of key frames alone
and take longer than whole frames and torch's resize of bytes (benchmarks/README.md), so that they
are not used.
"""

from __future__ import annotations

from functools import lru_cache
from importlib.util import find_spec

import numpy as np

from videohpm.data import container
from videohpm.data.container import (
    as_file,
    begins_as_mp4_or_matroska,
    check_first_bytes,
)
from videohpm.data.index import VideoIndex
from videohpm.data.packets import MATROSKA, MP4

# Bit-exact by their standards: the FFmpeg that is found may be years older than PyAV's.
CODECS = ("h264", "hevc", "vp8", "vp9", "av1")
CONTAINERS = (MP4, MATROSKA)
_NO_FFMPEG = "libtorchcodec"
"""What its error names where FFmpeg's libraries are not found, or are not those of this torch."""


@lru_cache(maxsize=1)
def available() -> str | None:
    """None where torchcodec and FFmpeg's libraries can be loaded, else what is missing."""
    if find_spec("torchcodec") is None:
        return "torchcodec is not installed (pip install 'videohpm[torchcodec]')"
    try:
        from torchcodec.decoders import VideoDecoder  # pyright: ignore[reportMissingImports]

        VideoDecoder(b"no video")
    except Exception as error:  # of many kinds: libraries are loaded
        text = str(error)
        if isinstance(error, ImportError) or _NO_FFMPEG in text:
            import torch

            return (
                "torchcodec cannot load FFmpeg's libraries: install them (apt-get install ffmpeg) "
                f"and the torchcodec that goes with torch {torch.__version__}"
            )
    return None


def can_read(index: VideoIndex) -> bool:
    """Whether torchcodec returns the frames of a sequential decode.

    Deep pixels it dithers and uneven sizes of VP9 it converts otherwise than PyAV; turned,
    interlaced and several streams were not measured on enough files.
    """
    return index.is_plain and index.codec in CODECS and index.container in CONTAINERS


def read(path: str, positions: list[int], target: tuple[int, int] | None) -> np.ndarray | None:
    """Frames as uint8 (n, H, W, 3), or None where PyAV should read instead.

    That is where they are to be scaled (its filter is another one), where the file is not of the
    kind that it may read (a manifest that says so may be of another file), and after any error.
    """
    if target is not None or not begins_as_mp4_or_matroska(check_first_bytes(path)):
        return None
    from torchcodec.decoders import VideoDecoder  # pyright: ignore[reportMissingImports]

    try:
        # On the CPU, whatever the default device is: a worker has no other.
        how = {"dimension_order": "NHWC", "num_ffmpeg_threads": 1, "device": "cpu"}
        decoder = VideoDecoder(as_file(path), seek_mode="exact", **how)
        found = decoder.metadata
        if (
            found.codec not in CODECS
            or (found.width or 0) * (found.height or 0) > container.MAX_PIXELS
        ):
            return None
        if positions[-1] >= len(decoder):
            return None
        return decoder.get_frames_at(positions).data.numpy()
    except (RuntimeError, IndexError, ValueError):  # as torchcodec raises them
        return None
