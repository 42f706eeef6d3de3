"""Frames of a video by position, what a video holds, and whether all of it decodes.

For every undamaged file the frames are those of a sequential PyAV decode of the chosen stream, in
the same order and number, turned upright, in stored pixels: a pixel aspect ratio is not applied
(``geometry.py``). A video ends where decoding fails, and where the size or orientation of its
pictures changes.

Several readers could return them, at different speeds, and some return other frames for some files
without an error. So a file is demuxed once (``index.py``), and the first reader reads it that may
(``readers/``). What that one cannot read PyAV does.

A folder of extracted frames is a video, too (``frame_folders.py``).

Damage inside the pictures shows in no packet; ``verify`` finds it by decoding the whole file, and
the video ends there. Without a scan, frames behind the damage are still found by their time stamps,
under the same numbers; the damaged ones raise DecodeError.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from videohpm.data.container import (
    DecodeError,
    decoded_of_any_size,
    errors_as_decode_error,
)
from videohpm.data.frame_folders import first_frame, frame_files, read_frame_folder
from videohpm.data.geometry import geometry
from videohpm.data.index import VideoIndex, decoded_count, video_index
from videohpm.data.readers import FALLBACK, READERS, choose_reader
from videohpm.data.sampling import reduced_size

MAX_CLIP_BYTES = 2**32
"""Bound on the frames of one read together."""


@dataclass(frozen=True)
class VideoInfo:
    """What a file holds. ``frames`` is the number that decodes; height and width are those of the
    frames as they are read, upright and in stored pixels of the shape ``pixel_aspect`` (width over
    height)."""

    frames: int
    height: int
    width: int
    fps: float
    codec: str
    reader: str
    pixel_aspect: float = 1.0


def read_frames(
    path: str | os.PathLike[str],
    indices: Sequence[int],
    *,
    reader: str | None = None,
    size: tuple[int, int] | None = None,
    min_side: int | None = None,
) -> np.ndarray:
    """Frames ``indices`` of a video, uint8 (T, H, W, 3) RGB, in the order asked for.

    Indices count from 0 in display order and may repeat. ``reader`` forces one of ``READERS``
    (which is then trusted, without the demux pass: a manifest's column says so after a scan); by
    default the file decides. A forced reader may leave a file to PyAV that is not of its kind.
    ``size`` is the (height, width) of the frames where that is known
    already.

    With ``min_side`` frames that are much larger come scaled down, their shorter side no less than
    that: see ``sampling.reduced_size``. Raises DecodeError for a file or an index that does not
    decode.
    """
    path, wanted = os.fspath(path), [int(i) for i in indices]
    if not wanted:
        raise ValueError("indices: empty; ask for at least one frame")
    if min(wanted) < 0:
        raise DecodeError(path, f"frame {min(wanted)} asked for; frames count from 0")
    if reader is not None and reader not in READERS:
        raise ValueError(f"reader: {reader!r} is not one of {', '.join(READERS)}")
    with errors_as_decode_error(path):
        return _read(path, wanted, reader, size, min_side)


def _read(
    path: str,
    wanted: list[int],
    reader: str | None,
    size: tuple[int, int] | None,
    min_side: int | None,
) -> np.ndarray:
    """``read_frames`` of checked arguments."""
    positions = sorted(set(wanted))
    if os.path.isdir(path):
        frames = read_frame_folder(path, positions)
        return frames[np.searchsorted(positions, wanted)]
    if reader is not None and READERS[reader].available() is not None:
        reader = FALLBACK
    if reader in (None, FALLBACK) or (size is None and min_side is not None):
        index = video_index(path)
        size = index.height, index.width
        reader = reader or choose_reader(index)
    target = reduced_size(*size, min_side) if size and min_side else None
    if size and len(positions) * math.prod(target or size) * 3 > MAX_CLIP_BYTES:
        raise DecodeError(
            path, f"{len(positions)} frames of {size[1]}x{size[0]} are too much memory"
        )
    for name in (reader, FALLBACK):
        frames = READERS[name].read(path, positions, target)
        if frames is not None:
            return frames if wanted == positions else frames[np.searchsorted(positions, wanted)]
    raise DecodeError(path, "no reader could read it")


def read_video_info(path: str | os.PathLike[str]) -> VideoInfo:
    """What a video holds, without decoding it where its time stamps can be trusted.

    Raises DecodeError where nothing decodes.
    """
    path = os.fspath(path)
    with errors_as_decode_error(path):
        if os.path.isdir(path):
            return _folder_info(path)
        index = video_index(path)
        frames = len(index.pts) if index.pts is not None else decoded_count(path)
        if frames == 0:
            raise DecodeError(path, "no frame decodes")
        return _info(index, frames, choose_reader(index))


def verify(path: str | os.PathLike[str]) -> tuple[VideoInfo, str | None]:
    """What a video holds and how it is damaged (one line, or None), by decoding all of it.

    For a scan, once, before training: damage inside the pictures shows in no time stamp. Of a
    damaged file ``frames`` is where decoding ends and ``reader`` is "pyav", because other readers
    hide damage by shifting or repeating frames. Raises DecodeError where nothing decodes.
    """
    with errors_as_decode_error(os.fspath(path)):
        return _verify(os.fspath(path))


def _folder_info(path: str) -> VideoInfo:
    """Of a folder of frames, whose rate nothing tells."""
    height, width, codec = first_frame(path)
    return VideoInfo(len(frame_files(path)), height, width, 0.0, codec, FALLBACK)


def _verify(path: str) -> tuple[VideoInfo, str | None]:
    if os.path.isdir(path):
        info = _folder_info(path)
        for position in range(1, info.frames):
            read_frame_folder(path, [0, position])
        return info, None
    index, frames, corrupt = video_index(path), 0, 0
    first, changes = None, False
    errors: list[Exception] = []
    for frame in decoded_of_any_size(path, errors):
        found = geometry(frame)
        first = first or found
        if found != first:
            changes = True
            break
        frames += 1
        corrupt += frame.is_corrupt
    if frames == 0:
        raise DecodeError(path, "no frame decodes")
    damage = None
    if changes:
        damage = f"the picture's size or orientation changes after {frames} frames"
    elif corrupt:
        damage = f"{corrupt} of {frames} frames are corrupt"
    elif index.pts is not None and len(index.pts) != frames:
        damage = f"decoding ends after {frames} of {len(index.pts)} frames"
    elif errors and not index.broken:
        damage = f"decoding ends after {frames} frames"
    elif index.broken:
        damage = f"the file breaks off after {frames} frames"
    return _info(index, frames, FALLBACK if damage else choose_reader(index)), damage


def _info(index: VideoIndex, frames: int, reader: str) -> VideoInfo:
    size = index.height, index.width
    return VideoInfo(frames, *size, index.fps, index.codec, reader, index.pixel_aspect)
