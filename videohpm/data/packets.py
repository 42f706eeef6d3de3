"""What a file's packets say, before any picture is decoded: logic on demuxed packets alone.

Two questions are answered: do the time stamps name the frames, one each, so that a frame can be
found by seeking; and are key frames stored where they are displayed, so that a frame can be found
by counting. Where a rule is not certain the result is no: that costs time, never a wrong frame.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from videohpm.data import bitstream

MP4, MATROSKA = "mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm"  # as FFmpeg names them
# Containers whose time stamps belong to one packet each and that seek exactly.
_SEEKABLE = (MP4, MATROSKA, "avi", "flv")
# Codecs of which one packet is one frame.
_ONE_FRAME_CODECS = ("h264", "hevc", "vp8", "vp9", "av1", "mpeg4", "mpeg2video", "h263", "flv1") + (
    ("msmpeg4v2", "msmpeg4v3", "mjpeg", "prores", "ffv1", "rawvideo")
)


class Row(NamedTuple):
    """One packet, in stored order."""

    pts: int | None  # display time
    key: bool
    discarded: bool  # an edit list leaves it out
    fresh: bool  # refers to nothing before it, as its own bytes say
    dts: int | None = None  # decoding time


def row(codec: str, packet, length_bytes: int) -> Row:
    key, fresh = (
        packet.is_keyframe,
        bitstream.starts_afresh(codec, bytes(packet), length_bytes),
    )
    if fresh is None:
        fresh = key
    elif codec != "h264":
        key = fresh  # H.264 has others: from a recovery point the pictures are right after a while
    return Row(packet.pts, key, packet.is_discard, fresh, packet.dts)


def shows_frame(codec: str, packet) -> bool:
    """Whether the packet gives a frame; where one does not, counting packets miscounts frames.

    MPEG-4 with packed B-frames (in AVI) fills up with pictures marked "not coded", a few bytes
    long; VP8 stores hidden reference pictures as packets of their own (bit 4 of the first byte).
    """
    if codec == "mpeg4":
        return packet.size >= 16
    if codec == "vp9":
        return bytes(packet)[0] >> 6 == 2  # else damage, for which decord repeats a frame
    return codec != "vp8" or bool(bytes(packet)[0] & 0x10)


def stamps_name_frames(container: str, codec: str, b_frames: bool) -> bool:
    """Whether such files have a display time for each frame. With B-frames AVI's are guessed."""
    guessed = container == "avi" and b_frames
    return container in _SEEKABLE and codec in _ONE_FRAME_CODECS and not guessed


def frame_times(rows: Sequence[Row]) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Display times of all frames and of the key frames, ascending; None where unreliable.

    That is where time stamps are missing or repeat, or where the file starts inside a group (a cut
    without re-encoding): the decoder then drops frames that have a time stamp.
    """
    stamped = [(packet.pts, packet) for packet in rows if packet.pts is not None]
    times = [pts for pts, _ in stamped]
    if not rows or len(times) != len(rows) or len(set(times)) != len(times):
        return None, None
    if not rows[0].key or min(times) != times[0]:
        return None, None
    shown = sorted(pts for pts, packet in stamped if not packet.discarded)
    keys = sorted(pts for pts, packet in stamped if packet.key)
    return np.array(shown, dtype=np.int64), np.array(keys, dtype=np.int64)


def table_names_key_frames(container: str, entries, rows: Sequence[Row]) -> bool:
    """Whether the container's own table of key frames is that of the packets.

    Readers seek by the table, but FFmpeg corrects the key flags of packets by parsing them: a
    table that is absent (all samples count as key frames) or wrong shows only here. ``entries`` are
    the stream's index entries after the demux pass, by decoding time in MP4 and else by display
    time.
    """
    by_dts = container == MP4
    named = {entry.timestamp for entry in entries if entry.is_keyframe}
    return named == {packet.dts if by_dts else packet.pts for packet in rows if packet.key}


def groups_are_closed(rows: Sequence[Row]) -> bool:
    """Whether storage order and display order agree at every key frame.

    A reader that counts stored packets seeks to the n-th one that is a key frame and calls its
    picture frame n. That holds where every key frame is displayed after all packets stored before
    it and before all stored after it (a closed group), refers to nothing before it (H.264 also
    flags the recovery points of intra refresh as key frames), and no edit list drops anything.

    ``rows`` have display times, as where :func:`frame_times` gives them.
    """
    if any(packet.discarded or packet.key != packet.fresh for packet in rows):
        return False
    times = np.array([packet.pts for packet in rows])
    latest_so_far = np.maximum.accumulate(times)
    earliest_from_here = np.minimum.accumulate(times[::-1])[::-1]
    keys = np.flatnonzero([packet.key for packet in rows])
    closed_before = latest_so_far[keys] == times[keys]
    return bool((closed_before & (earliest_from_here[keys] == times[keys])).all())
