"""MP4 files of key frames alone, such as data transcode --group 1 makes, with PyAV.

Where every frame can be decoded by itself, the container's own table leads to the packets that are
asked for: nothing else is read, and the file need not be demuxed before.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, cast

import numpy as np

from videohpm.data.container import best_stream, demuxing, import_av, open_video
from videohpm.data.geometry import geometry
from videohpm.data.index import VideoIndex
from videohpm.data.packets import MP4
from videohpm.data.readers.pyav import rgb

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

CODECS = ("h264", "hevc", "mjpeg")


def available() -> str | None:
    """None: the package requires PyAV."""
    return None


def can_read(index: VideoIndex) -> bool:
    """Whether every frame is a key frame that the table of an MP4 file names.

    Other containers have no such table before their packets were read.
    """
    return (
        index.closed_groups
        and index.keys is not None
        and index.pts is not None
        and len(index.keys) == len(index.pts)
        and index.container == MP4
        and index.codec in CODECS
        and not index.interlaced
    )


def read(path: str, positions: list[int], target: tuple[int, int] | None) -> np.ndarray | None:
    """Frames as uint8 (n, H, W, 3), upright, or None where PyAV should read instead.

    That is wherever a packet is not the one that the table names, or does not give its frame.
    """
    av = import_av()
    pixels: list[np.ndarray] = []
    first = None
    with open_video(path) as container:
        stream = best_stream(path, container)
        try:
            for frame in _frames(container, stream, positions):
                found = geometry(frame)
                first = first or found
                height, width, turn = first
                if found != first or frame.is_corrupt or turn is None:
                    return None
                upright = (width, height) if turn.transpose else (height, width)
                pixels.append(rgb(frame, target or upright, turn))
        except av.FFmpegError:
            return None
    return np.stack(pixels) if len(pixels) == len(positions) else None


def _frames(
    container: InputContainer, stream: VideoStream, positions: list[int]
) -> Iterator[VideoFrame]:
    """The frames at ascending ``positions``; ends early where one is not to be had."""
    entries = stream.index_entries
    if positions[-1] >= len(entries):
        return
    following = -1
    with demuxing(container, stream) as packets:
        for position in positions:
            time = entries[position].timestamp
            if position != following:
                container.seek(time, stream=stream)
            packet = next(packets, None)
            if packet is None or packet.dts != time:
                return
            frames, following = packet.decode(), position + 1
            if not frames:  # the decoder waits for what might be displayed before
                frames, following = stream.codec_context.decode(None), -1
            if len(frames) != 1:
                return
            yield cast("VideoFrame", frames[0])
