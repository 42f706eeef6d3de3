"""Frames of a file by index: the only importer of decord and PyAV.

What holds for every file: the frames are those of a sequential PyAV decode of the chosen stream,
in the same order and number, turned upright where the file says so (rotation metadata in steps of
90 degrees is applied, as players do; both readers agree because decord never gets such a file).

The chosen stream is the one FFmpeg calls best (``_best_stream``), not the first.

decord returns other frames than those, without an error, for several kinds of file: it counts
frames in the order they are stored and trusts that a key frame starts a closed group. So a file is
demuxed once (no pixels but the first frame's; a few milliseconds, remembered for recent files) and
decord reads it only where everything is known to agree: see ``_decord_is_right``. The rest is read
by PyAV, which seeks by time stamp where the stamps name every frame, and else decodes from the
start.

Readers are imported at the first use, after torch and in the process that reads: decord imported
before torch, or carried through a fork, is known to crash.
"""

import os
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec

import numpy as np

READERS = ("decord", "pyav")

# Containers whose seek lands where it was asked to and whose time stamps belong to one packet each.
_SEEKABLE = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "avi", "flv")
# One packet is one frame for these.
_WHOLE_PACKETS = ("h264", "hevc", "vp8", "vp9", "av1", "mjpeg", "ffv1", "prores") + (
    ("mpeg4", "msmpeg4v2", "msmpeg4v3", "h263", "flv1", "mpeg2video", "png", "rawvideo")
)
# Bit-exact by their standard: the FFmpeg inside decord is years older than PyAV's, and codecs whose
# inverse transform may round (MPEG-4, MPEG-2, MJPEG) differ by a few levels between the two.
_DECORD_CODECS = ("h264", "hevc", "vp8", "vp9")
_DECORD_CONTAINERS = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm")


class DecodeError(Exception):
    """A file, or one of its frames, cannot be read. ``path`` and a one-line ``reason``."""

    def __init__(self, path: str, reason: str):
        super().__init__(path, reason)  # both, so that it pickles between processes
        self.path = str(path)
        self.reason = " ".join(str(reason).split())

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


class _Unusable(Exception):
    """Time stamps did not lead to the frames they promised."""


@dataclass(frozen=True)
class VideoInfo:
    """What a file holds. ``frames`` is the number that decodes; height and width as displayed."""

    frames: int
    height: int
    width: int
    fps: float
    codec: str
    reader: str


@dataclass(frozen=True)
class _Index:
    """One demux pass. ``pts`` (frames,) ascending, or None where stamps do not name the frames."""

    pts: np.ndarray | None
    keys: np.ndarray
    height: int
    width: int
    fps: float
    codec: str
    reader: str


def read_frames(
    path: str | os.PathLike, indices: Sequence[int], *, reader: str | None = None
) -> np.ndarray:
    """Frames ``indices`` of a video, uint8 (T, H, W, 3) RGB, in the order asked for.

    Indices count from 0 in display order and may repeat. ``reader`` forces "decord" (which is then
    trusted, without the demux pass: a manifest's column says so after a scan) or "pyav"; by default
    the file decides. Raises DecodeError for a file or an index that does not decode.
    """
    path, wanted = os.fspath(path), [int(i) for i in indices]
    if not wanted:
        raise ValueError("indices: empty; ask for at least one frame")
    if min(wanted) < 0:
        raise DecodeError(path, f"frame {min(wanted)} asked for; frames count from 0")
    if reader not in (None, *READERS):
        raise ValueError(f"reader: {reader!r} is not one of {', '.join(READERS)}")
    unique = sorted(set(wanted))
    index = _index(path) if reader is None else None
    if (reader or index.reader) == "decord" and find_spec("decord"):
        frames = _read_decord(path, unique)
        if frames is not None:
            return frames[np.searchsorted(unique, wanted)]
    frames = _read_pyav(path, _index(path), unique)
    return frames[np.searchsorted(unique, wanted)]


def probe(path: str | os.PathLike) -> VideoInfo:
    """What a video holds, without decoding it where its time stamps can be trusted.

    Raises DecodeError where nothing decodes.
    """
    path = os.fspath(path)
    index = _index(path)
    frames = len(index.pts) if index.pts is not None else _count(path, *_identity(path))
    if frames == 0:
        raise DecodeError(path, "no frame decodes")
    return VideoInfo(frames, index.height, index.width, index.fps, index.codec, index.reader)


def read_image(path: str | os.PathLike) -> np.ndarray:
    """An image file as uint8 (1, H, W, 3) RGB: a clip of one frame. Raises DecodeError."""
    from PIL import Image

    path = os.fspath(path)
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))[None]
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DecodeError(path, f"not readable as an image ({error})") from None


# --- the demux pass ------------------------------------------------------------------------------


def _identity(path: str) -> tuple[int, int]:
    """Size and change time, so that a replaced file is not read by the old file's index."""
    try:
        status = os.stat(path)
    except OSError as error:
        raise DecodeError(path, error.strerror or "cannot be opened") from None
    return status.st_size, status.st_mtime_ns


def _index(path: str) -> _Index:
    return _demux(path, *_identity(path))


@lru_cache(maxsize=64)
def _demux(path: str, size: int, changed: int) -> _Index:
    av = _av()
    rows: list[tuple] = []  # pts, key, discarded, closed
    whole, first = True, None
    with _open(path) as container:
        stream = _best_stream(path, container)
        codec, kind = stream.codec_context, stream.codec_context.codec.canonical_name
        nal_length = _nal_length(codec.extradata)
        try:
            for packet in container.demux(stream):
                if not packet.size:
                    continue
                whole &= not packet.is_corrupt and not _shows_nothing(kind, packet)
                closed = kind != "h264" or not packet.is_keyframe or _is_idr(packet, nal_length)
                rows.append((packet.pts, packet.is_keyframe, packet.is_discard, closed))
                if first is None:
                    first = next(iter(packet.decode()), None)
            if first is None:
                first = next(iter(codec.decode(None)), None)
        except av.FFmpegError:
            whole = False
        name, videos = container.format.name, len(container.streams.video)
        # AVI stores no display times: with B-frames they are guesses.
        whole &= name in _SEEKABLE and kind in _WHOLE_PACKETS
        whole &= not (name == "avi" and codec.has_b_frames)
        rate = stream.average_rate or stream.guessed_rate or 0
        size = (first.height, first.width) if first else (codec.height, codec.width)
    turned = first is not None and first.rotation % 360 != 0
    if turned and first.rotation % 180:
        size = size[::-1]
    pts, keys = _frame_times(rows) if whole and first is not None else (None, None)
    eight_bit = first is not None and all(c.bits == 8 for c in first.format.components)
    even = size[0] % 2 == 0 and size[1] % 2 == 0
    plain = pts is not None and videos == 1 and not turned and eight_bit and even
    known = kind in _DECORD_CODECS and name in _DECORD_CONTAINERS
    reader = "pyav"
    if plain and known and find_spec("decord") and _decord_is_right(rows):
        reader = "decord"
    return _Index(pts, keys, *size, float(rate), kind, reader)


def _frame_times(rows: list[tuple]) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Display times of the frames and of the key frames; None where they do not name the frames."""
    times = [row[0] for row in rows]
    if not rows or None in times or len(set(times)) != len(times):
        return None, None
    if not rows[0][1] or min(times) != times[0]:  # cut inside a group: the decoder drops frames
        return None, None
    shown = np.array(sorted(row[0] for row in rows if not row[2]), dtype=np.int64)
    return shown, np.array(sorted(row[0] for row in rows if row[1]), dtype=np.int64)


def _decord_is_right(rows: list[tuple]) -> bool:
    """Whether storage order and display order part nowhere that decord would notice.

    decord seeks to the n-th stored packet that is a key frame and calls its picture frame n. That
    holds where every key frame is displayed after all packets stored before it and before all
    stored after it (a closed group), starts afresh (for H.264 an IDR picture; a recovery point of
    intra refresh is flagged as a key frame as well), and nothing is dropped by an edit list.
    """
    if any(discarded or not closed for _, _, discarded, closed in rows):
        return False
    times = np.array([row[0] for row in rows])
    before = np.maximum.accumulate(times)
    after = np.minimum.accumulate(times[::-1])[::-1]
    keys = np.flatnonzero([row[1] for row in rows])
    return bool((before[keys] == times[keys]).all() and (after[keys] == times[keys]).all())


def _shows_nothing(codec: str, packet) -> bool:
    """Packets that give no frame of their own, so that counting packets would miscount frames.

    MPEG-4 in AVI with packed B-frames fills up with pictures marked "not coded", a few bytes long;
    VP8 stores its hidden reference pictures as packets of their own (bit 4 of the first byte).
    """
    if codec == "mpeg4":
        return packet.size < 16
    return codec == "vp8" and not bytes(packet)[0] & 0x10


def _nal_length(extradata: bytes | None) -> int:
    """Bytes of a NAL unit's length field in H.264 of MP4 and Matroska; 0 for start codes."""
    return (extradata[4] & 3) + 1 if extradata and len(extradata) > 4 and extradata[0] == 1 else 0


def _is_idr(packet, nal_length: int) -> bool:
    """Whether an H.264 packet holds a slice of an IDR picture (NAL unit type 5)."""
    data, at = bytes(packet), 0
    if not nal_length:
        return any(unit and unit[0] & 31 == 5 for unit in data.split(b"\0\0\1")[1:])
    while at + nal_length < len(data):
        length = int.from_bytes(data[at : at + nal_length], "big")
        at += nal_length
        if data[at] & 31 == 5:
            return True
        at += length
    return False


# --- PyAV ----------------------------------------------------------------------------------------


def _av():
    import av

    av.logging.set_level(None)
    return av


def _open(path: str):
    av = _av()
    try:
        return av.open(path, metadata_errors="ignore")
    except (av.FFmpegError, OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise DecodeError(path, f"cannot be opened as a video ({reason})") from None


def _best_stream(path: str, container):
    """The video stream that is read, for both readers: FFmpeg's choice among several."""
    stream = container.streams.best("video")
    if stream is None or stream.codec_context is None:
        raise DecodeError(path, "no video stream that can be decoded")
    # Frame threads can hang when reading stops early; the workers are the parallelism here.
    stream.thread_type = "SLICE"
    stream.codec_context.thread_count = 1
    return stream


def _read_pyav(path: str, index: _Index, unique: list[int]) -> np.ndarray:
    if index.pts is not None:
        if unique[-1] >= len(index.pts):
            raise DecodeError(path, f"frame {unique[-1]} asked for of {len(index.pts)}")
        try:
            return _stack(path, _seek_frames(path, index, index.pts[unique].tolist()))
        except _Unusable:
            pass
    return _stack(path, _first_frames(path, unique))


def _seek_frames(path: str, index: _Index, times: list[int]) -> Iterator[np.ndarray]:
    """Frames at ascending display ``times``, starting from the last key frame before each."""
    keys = index.keys.tolist()
    with _open(path) as container:
        stream = _best_stream(path, container)
        at = 0
        while at < len(times):
            group = bisect_right(keys, times[at]) - 1
            end = at + 1
            while end < len(times) and (group + 1 == len(keys) or times[end] < keys[group + 1]):
                end += 1
            yield from _one_group(container, stream, keys[group], times[at:end])
            at = end


def _one_group(container, stream, key: int, times: list[int]) -> Iterator[np.ndarray]:
    """Decodes from the key frame at time ``key`` until the last of ``times``."""
    av, started = _av(), False
    remaining = iter(times)
    target = next(remaining)
    try:
        container.seek(key, stream=stream, backward=True)
        for frame in container.decode(stream):
            if frame.pts is None:
                raise _Unusable
            if frame.pts < key:
                continue
            if not started:
                intra = frame.pict_type == av.video.frame.PictureType.I
                if frame.pts != key or not frame.key_frame or not intra:
                    raise _Unusable
                started = True
            if frame.pts > target:
                raise _Unusable
            if frame.pts == target:
                yield _rgb(frame)
                target = next(remaining, None)
                if target is None:
                    return
    except av.FFmpegError:
        raise _Unusable from None
    raise _Unusable


def _first_frames(path: str, unique: list[int]) -> Iterator[np.ndarray]:
    """Frames at ascending positions ``unique``, decoding from the start of the file."""
    wanted, position = set(unique), -1
    for position, frame in enumerate(_decode(path)):
        if position in wanted:
            yield _rgb(frame)
            if position == unique[-1]:
                return
    raise DecodeError(path, f"frame {unique[-1]} asked for; decoding ends after {position + 1}")


def _decode(path: str) -> Iterator:
    """Every frame that decodes before the end or the first error."""
    av = _av()
    with _open(path) as container:
        stream = _best_stream(path, container)
        try:
            yield from container.decode(stream)
        except av.FFmpegError:
            return


@lru_cache(maxsize=4096)
def _count(path: str, size: int, changed: int) -> int:
    return sum(1 for _ in _decode(path))


def _rgb(frame) -> np.ndarray:
    """(H, W, 3), upright. FFmpeg's rotation is the anticlockwise turn that displays the frame."""
    return np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90))


def _stack(path: str, frames: Iterable[np.ndarray]) -> np.ndarray:
    frames = list(frames)
    if any(frame.shape != frames[0].shape for frame in frames):
        raise DecodeError(path, "the frame size changes within the video")
    return np.stack(frames)


# --- decord --------------------------------------------------------------------------------------


def _read_decord(path: str, unique: list[int]) -> np.ndarray | None:
    """Frames at ascending positions, or None where PyAV should read instead.

    That is after any error, and where two different positions hold the very same picture: decord
    repeats a frame for one that it cannot decode. (A still scene is then read twice, that is all.)
    """
    import torch  # noqa: F401, I001  decord before torch can crash
    import decord

    decord.logging.set_level(decord.logging.QUIET)
    try:
        reader = decord.VideoReader(path, num_threads=1)
        if unique[-1] >= len(reader):
            return None
        frames = reader.get_batch(unique).asnumpy()
    except Exception:  # decord raises its own error, RuntimeError or IndexError
        return None
    if any(np.array_equal(frames[i], frames[i + 1]) for i in range(len(frames) - 1)):
        return None
    return frames
