"""Every file that decodes, also after another reader failed.

It seeks where time stamps name the frames; elsewhere it decodes from the start of the file.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from videohpm.data.container import (
    ONE_THREAD,
    DecodeError,
    best_stream,
    decoded,
    decoding,
    import_av,
    open_video,
)
from videohpm.data.geometry import Orientation, geometry
from videohpm.data.index import VideoIndex, video_index

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream


class _StampsLie(Exception):
    """Time stamps did not lead to the frames they promised."""


def available() -> str | None:
    """None: the package requires PyAV."""
    return None


def can_read(index: VideoIndex) -> bool:
    """True: what it cannot read is no video here."""
    return True


def read(path: str, positions: list[int], target: tuple[int, int] | None) -> np.ndarray:
    """Frames as uint8 (n, H, W, 3), upright, scaled to ``target``. Raises DecodeError."""
    index = video_index(path)
    size = target or (index.height, index.width)
    if index.pts is not None and index.keys is not None:
        if positions[-1] >= len(index.pts):
            raise DecodeError(path, f"frame {positions[-1]} asked for of {len(index.pts)}")
        times = index.pts[positions].tolist()
        try:
            return _stack(index, size, _seek_frames(path, index.keys.tolist(), times))
        except _StampsLie:
            pass
    return _stack(index, size, _first_frames(path, positions))


def _seek_frames(path: str, keys: list[int], times: list[int]) -> Iterator[VideoFrame]:
    """Frames at ascending display ``times``, starting from the last of ``keys`` before each."""
    with open_video(path) as container:
        stream = best_stream(path, container)
        at = 0
        while at < len(times):
            group = bisect_right(keys, times[at]) - 1
            end = at + 1
            while end < len(times) and (group + 1 == len(keys) or times[end] < keys[group + 1]):
                end += 1
            yield from _one_group(container, stream, keys[group], times[at:end])
            at = end


def _one_group(
    container: InputContainer, stream: VideoStream, key: int, times: list[int]
) -> Iterator[VideoFrame]:
    """Decodes from the key frame at time ``key`` until the last of ``times``."""
    av, started = import_av(), False
    remaining = iter(times)
    target = next(remaining)
    try:
        container.seek(key, stream=stream, backward=True)
        for frame in decoding(container, stream):
            if frame.pts is None or frame.is_corrupt:
                raise _StampsLie
            if frame.pts < key:
                continue
            if not started:
                intra = frame.pict_type == av.video.frame.PictureType.I
                if frame.pts != key or not frame.key_frame or not intra:
                    raise _StampsLie
                started = True
            if frame.pts > target:
                raise _StampsLie
            if frame.pts == target:
                yield frame
                target = next(remaining, None)
                if target is None:
                    return
    except av.FFmpegError:
        raise _StampsLie from None
    raise _StampsLie


def _first_frames(path: str, positions: list[int]) -> Iterator[VideoFrame]:
    """Frames at ascending ``positions``, decoding from the start of the file."""
    wanted, position = set(positions), -1
    for position, frame in enumerate(decoded(path)):
        if position in wanted:
            yield frame
            if position == positions[-1]:
                return
    raise DecodeError(path, f"frame {positions[-1]} asked for; decoding ends after {position + 1}")


def rgb(frame: VideoFrame, size: tuple[int, int], turn: Orientation) -> np.ndarray:
    """A frame as uint8 (H, W, 3) of ``size``, upright: a view of the converted one."""
    height, width = size[::-1] if turn.transpose else size
    plane = frame.reformat(width, height, "rgb24", **ONE_THREAD).planes[0]
    strides = plane.line_size, 3, 1
    return turn.turn(np.ndarray((height, width, 3), np.uint8, memoryview(plane), 0, strides))


def _stack(index: VideoIndex, size: tuple[int, int], frames: Iterable[VideoFrame]) -> np.ndarray:
    """Decoded frames as one array, scaled to ``size``. Raises _StampsLie where geometry changes."""
    pixels = []
    for frame in frames:
        if geometry(frame) != (*index.stored, index.orientation):
            raise _StampsLie
        pixels.append(rgb(frame, size, index.orientation))
    return np.stack(pixels)
