"""The demux pass: what the packets of a file say, from which readers decide whether to read it.

No picture but the first is decoded: it takes a few milliseconds and is remembered for recent files.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from videohpm.data import packets
from videohpm.data.container import best_stream, decoded, file_identity, import_av, open_video


@dataclass(frozen=True)
class VideoIndex:
    """What one demux pass found."""

    pts: np.ndarray | None
    """(frames,) display times, ascending, in units of the stream's time base; None where time
    stamps do not name the frames."""
    keys: np.ndarray | None
    """Display times of the key frames, ascending; None where ``pts`` is."""
    closed_groups: bool
    """Whether frames are stored so that every key frame starts afresh: see
    :func:`videohpm.data.packets.groups_are_closed`."""
    container: str
    """FFmpeg's name of the format, such as "mov,mp4,m4a,3gp,3g2,mj2"."""
    codec: str
    video_streams: int
    height: int
    """As displayed, like ``width``."""
    width: int
    rotation: int
    """Anticlockwise degrees that display the first frame upright."""
    bits: int
    """Of every channel of the first frame; 0 where they differ, or no frame decodes."""
    fps: float
    broken: bool
    """Packets are marked corrupt, or reading them ended with an error."""


def video_index(path: str) -> VideoIndex:
    """The index of the file as it is now. Raises DecodeError."""
    return _demux(path, *file_identity(path))


def decoded_count(path: str) -> int:
    """Frames that decode, counted by decoding them all (once). Raises DecodeError."""
    return _count(path, *file_identity(path))


@lru_cache(maxsize=64)
def _demux(path: str, size: int, changed: int) -> VideoIndex:
    av = import_av()
    rows: list[packets.Row] = []
    nameable, broken, first = True, False, None
    with open_video(path) as container:
        stream = best_stream(path, container)
        context, codec = stream.codec_context, stream.codec_context.codec.canonical_name
        nal_length = packets.nal_length(context.extradata)
        try:
            for packet in container.demux(stream):
                if not packet.size:
                    continue
                broken |= packet.is_corrupt
                nameable &= packets.shows_frame(codec, packet)
                rows.append(packets.row(codec, packet, nal_length))
                if first is None:
                    first = next(iter(packet.decode()), None)
            if first is None:
                first = next(iter(context.decode(None)), None)
        except av.FFmpegError:
            broken = True
        name, streams = container.format.name, len(container.streams.video)
        nameable &= packets.stamps_name_frames(name, codec, context.has_b_frames)
        fps = float(stream.average_rate or stream.guessed_rate or 0)
        width, height = (first or context).width, (first or context).height
    pts, keys = packets.frame_times(rows) if nameable and not broken and first else (None, None)
    rotation = first.rotation if first is not None else 0
    depths = {part.bits for part in first.format.components} if first is not None else set()
    if rotation % 180:
        width, height = height, width
    return VideoIndex(
        pts=pts,
        keys=keys,
        closed_groups=pts is not None and packets.groups_are_closed(rows),
        container=name,
        codec=codec,
        video_streams=streams,
        height=height,
        width=width,
        rotation=rotation,
        bits=depths.pop() if len(depths) == 1 else 0,
        fps=fps,
        broken=broken,
    )


@lru_cache(maxsize=4096)
def _count(path: str, size: int, changed: int) -> int:
    return sum(1 for _ in decoded(path))
