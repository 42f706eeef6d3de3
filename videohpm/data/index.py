"""The demux pass: what the packets of a file say, from which readers decide whether to read it.

No picture but the first is decoded: it takes a few milliseconds and is remembered for recent files.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from videohpm.data import bitstream, packets
from videohpm.data.container import (
    ONE_THREAD,
    DecodeError,
    best_stream,
    decoded,
    demuxing,
    file_identity,
    import_av,
    open_video,
)
from videohpm.data.geometry import UPRIGHT, Orientation, orientation


@dataclass(frozen=True)
class VideoIndex:
    """What one demux pass found."""

    pts: np.ndarray | None
    """(frames,) display times, ascending, in units of the stream's time base; None where time
    stamps do not name the frames."""
    keys: np.ndarray | None
    """Display times of the key frames, ascending; None where ``pts`` is."""
    closed_groups: bool
    """Whether every key frame starts afresh, and the container's table names just these: see
    :func:`videohpm.data.packets.groups_are_closed` and ``table_names_key_frames``."""
    container: str
    """FFmpeg's name of the format, such as "mov,mp4,m4a,3gp,3g2,mj2"."""
    codec: str
    video_streams: int
    height: int
    """Upright, in stored pixels, like ``width``."""
    width: int
    stored: tuple[int, int]
    """Height and width of the first frame before it is displayed."""
    orientation: Orientation
    """How stored pictures are displayed."""
    pixel_aspect: float
    """Width over height of an upright pixel, as the file says; 1 where it does not."""
    interlaced: bool
    """Pictures may be of two fields."""
    bits: int
    """Of every channel of the first frame; 0 where they differ, or no frame decodes."""
    fps: float
    broken: bool
    """Packets are marked corrupt, or reading them ended with an error."""

    @property
    def is_plain(self) -> bool:
        """One upright, progressive 8-bit stream of even sides in closed groups.

        Readers with another build of FFmpeg than PyAV's turn, dither or convert what is not.
        """
        return (
            self.closed_groups
            and self.video_streams == 1
            and self.orientation == UPRIGHT
            and not self.interlaced
            and self.width % 2 == 0
            and self.height % 2 == 0
            and self.bits == 8
        )


def video_index(path: str) -> VideoIndex:
    """The index of the file as it is now. Raises DecodeError."""
    return _demux(path, *file_identity(path))


def forget_indexes() -> None:
    """The next index of every file is made anew."""
    _demux.cache_clear()


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
        name, streams = container.format.name, len(container.streams.video)
        nameable &= packets.stamps_name_frames(name, codec, context.has_b_frames)
        headers = Headers(codec, context.extradata)
        try:
            with demuxing(container, stream) as found:
                for packet in found:
                    if not packet.size:
                        continue
                    broken |= packet.is_corrupt
                    if nameable:  # else the packets decide nothing
                        nameable = packets.shows_frame(codec, packet)
                        rows.append(packets.row(codec, packet, headers.nal_length))
                        headers.add(packet)
                    if first is None:
                        first = next(iter(packet.decode()), None)
            if first is None:
                first = next(iter(context.decode(None)), None)
        except av.FFmpegError:
            broken = True
        closed = packets.table_names_key_frames(name, stream.index_entries, rows)
        aspect = float(stream.sample_aspect_ratio or 1)
        fps = float(stream.average_rate or stream.guessed_rate or 0)
        width, height = (first or context).width, (first or context).height
    # Where the pictures' size may change only decoding tells where.
    nameable &= not headers.changes and not broken and first is not None
    pts, keys = packets.frame_times(rows) if nameable else (None, None)
    turn, bits = _picture(path, first)
    stored = height, width
    if turn.transpose:
        width, height = height, width
    return VideoIndex(
        pts=pts,
        keys=keys,
        closed_groups=pts is not None and closed and packets.groups_are_closed(rows),
        container=name,
        codec=codec,
        video_streams=streams,
        height=height,
        width=width,
        stored=stored,
        orientation=turn,
        pixel_aspect=1 / aspect if turn.transpose else aspect,
        interlaced=headers.interlaced or (first is not None and first.interlaced_frame),
        bits=bits,
        fps=fps,
        broken=broken,
    )


class Headers:
    """What the headers inside the packets say: whether size or orientation change, and fields."""

    def __init__(self, codec: str, extradata: bytes | None):
        self.codec, self.extradata = codec, extradata or b""
        self.nal_length = bitstream.nal_length(extradata, codec)
        stored = bitstream.extradata_sps(extradata) if codec == "h264" else []
        self.interlaced = any(map(bitstream.may_be_interlaced, stored))
        self.changes = len(stored) > 1
        self._known: set[bytes] = set()

    def add(self, packet) -> None:
        data = bytes(packet)
        for found in bitstream.picture_parameters(self.codec, data, self.nal_length):
            if found in self._known:
                continue
            self._known.add(found)
            stored = self.codec in ("h264", "hevc") and self.extradata
            self.changes |= found not in self.extradata if stored else len(self._known) > 1
            self.interlaced |= self.codec == "h264" and bitstream.may_be_interlaced(found)
        self.changes |= bitstream.has_orientation(self.codec, data, self.nal_length)
        self.changes |= packet.has_sidedata("new_extradata")


def _picture(path: str, first: Any) -> tuple[Orientation, int]:
    """How the first frame is displayed, and its bits. DecodeError where no reader displays it."""
    if first is None:
        return UPRIGHT, 0
    turn = orientation(first)
    if turn is None:
        raise DecodeError(path, "turned by an angle that is no quarter turn")
    try:
        first.reformat(width=16, height=16, format="rgb24", **ONE_THREAD)
    except (ValueError, OSError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise DecodeError(path, f"its colours cannot be converted to RGB ({reason})") from None
    depths = {part.bits for part in first.format.components}
    return turn, depths.pop() if len(depths) == 1 else 0


@lru_cache(maxsize=4096)
def _count(path: str, size: int, changed: int) -> int:
    return sum(1 for _ in decoded(path))
