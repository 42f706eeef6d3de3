"""Frames of a file by index: the only importer of decord and PyAV.

For every undamaged file the frames are those of a sequential PyAV decode of the chosen stream, in
the same order and number, turned upright where the file says so (rotation metadata in steps of
90 degrees is applied, as players do; both readers agree because decord never gets such a file).

The chosen stream is the one FFmpeg calls best (``_best_stream``), not the first.

decord returns other frames than those, without an error, for several kinds of file: it counts
frames in the order they are stored and trusts that a key frame starts a closed group. So a file is
demuxed once (no picture but the first is decoded; a few milliseconds, remembered for recent files)
and decord reads it only where everything is known to agree (``packets.py``). PyAV reads the rest:
it seeks by time stamp where stamps name every frame, and else decodes from the start.

Damage inside the pictures shows in no packet; ``verify`` finds it by decoding the whole file.

Readers are imported at the first use, after torch and in the process that reads: decord imported
before torch, or carried through a fork, is known to crash.
"""

import math
import os
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec

import numpy as np

from videohpm.data import packets
from videohpm.data.sampling import reduced_size

READERS = ("decord", "pyav")
# Bounds on what one file may cost: a picture of 8K, and the frames of one read together.
MAX_PIXELS = 2**25
MAX_CLIP_BYTES = 2**32


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
    broken: bool  # packets are marked corrupt, or reading them ended with an error


def read_frames(
    path: str | os.PathLike,
    indices: Sequence[int],
    *,
    reader: str | None = None,
    size: tuple[int, int] | None = None,
    min_side: int | None = None,
) -> np.ndarray:
    """Frames ``indices`` of a video, uint8 (T, H, W, 3) RGB, in the order asked for.

    Indices count from 0 in display order and may repeat. ``reader`` forces "decord" (which is then
    trusted, without the demux pass: a manifest's column says so after a scan) or "pyav"; by default
    the file decides. ``size`` is the (height, width) of the frames where that is known already.

    With ``min_side`` frames that are much larger come scaled down, their shorter side no less than
    that: see ``sampling.reduced_size``. Raises DecodeError for a file or an index that does not
    decode.
    """
    path, wanted = os.fspath(path), [int(i) for i in indices]
    if not wanted:
        raise ValueError("indices: empty; ask for at least one frame")
    if min(wanted) < 0:
        raise DecodeError(path, f"frame {min(wanted)} asked for; frames count from 0")
    if reader not in (None, *READERS):
        raise ValueError(f"reader: {reader!r} is not one of {', '.join(READERS)}")
    unique = sorted(set(wanted))
    trusted = reader == "decord" and _has_decord() and (size is not None or min_side is None)
    index = None if trusted else _index(path)
    size = (index.height, index.width) if index else size
    target = reduced_size(*size, min_side) if size and min_side else None
    if size and len(unique) * math.prod(target or size) * 3 > MAX_CLIP_BYTES:
        raise DecodeError(path, f"{len(unique)} frames of {size[1]}x{size[0]} are too much memory")
    # decord scales to some widths only, and is no faster at it.
    if (reader or index.reader) == "decord" and target is None and _has_decord():
        frames = _read_decord(path, unique)
        if frames is not None:
            return frames[np.searchsorted(unique, wanted)]
    frames = _read_pyav(path, index or _index(path), unique, target)
    return frames[np.searchsorted(unique, wanted)]


def read_video_info(path: str | os.PathLike) -> VideoInfo:
    """What a video holds, without decoding it where its time stamps can be trusted.

    Raises DecodeError where nothing decodes.
    """
    path = os.fspath(path)
    index = _index(path)
    frames = len(index.pts) if index.pts is not None else _count(path, *_identity(path))
    if frames == 0:
        raise DecodeError(path, "no frame decodes")
    return VideoInfo(frames, index.height, index.width, index.fps, index.codec, index.reader)


def verify(path: str | os.PathLike) -> tuple[VideoInfo, str | None]:
    """What a video holds and how it is damaged (one line, or None), by decoding all of it.

    For a scan, once, before training: damage inside the pictures shows in no time stamp. Of a
    damaged file ``frames`` is where decoding ends and ``reader`` is "pyav", because decord hides
    damage by shifting or repeating frames. Raises DecodeError where nothing decodes.
    """
    path = os.fspath(path)
    index, frames, corrupt = _index(path), 0, 0
    for frame in decoded(path):
        frames += 1
        corrupt += frame.is_corrupt
    if frames == 0:
        raise DecodeError(path, "no frame decodes")
    damage = None
    if corrupt:
        damage = f"{corrupt} of {frames} frames are corrupt"
    elif index.pts is not None and len(index.pts) != frames:
        damage = f"decoding ends after {frames} of {len(index.pts)} frames"
    elif index.broken:
        damage = f"the file breaks off after {frames} frames"
    reader = "pyav" if damage else index.reader
    info = VideoInfo(frames, index.height, index.width, index.fps, index.codec, reader)
    return info, damage


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
    rows: list[packets.Row] = []
    whole, broken, first = True, False, None
    with _open(path) as container:
        stream = _best_stream(path, container)
        context, codec = stream.codec_context, stream.codec_context.codec.canonical_name
        nal_length = packets.nal_length(context.extradata)
        try:
            for packet in container.demux(stream):
                if not packet.size:
                    continue
                broken |= packet.is_corrupt
                whole &= packets.shows_frame(codec, packet)
                rows.append(packets.row(codec, packet, nal_length))
                if first is None:
                    first = next(iter(packet.decode()), None)
            if first is None:
                first = next(iter(context.decode(None)), None)
        except av.FFmpegError:
            broken = True
        name, videos = container.format.name, len(container.streams.video)
        whole &= packets.stamps_name_frames(name, codec, context.has_b_frames)
        fps = float(stream.average_rate or stream.guessed_rate or 0)
        width, height = (first or context).width, (first or context).height
    pts, keys = packets.frame_times(rows) if whole and not broken and first else (None, None)
    # decord reads one upright 8-bit stream as PyAV does; the rest it turns, dithers or confuses.
    plain = pts is not None and videos == 1 and first.rotation == 0
    plain = plain and width % 2 == 0 and height % 2 == 0
    plain = plain and all(part.bits == 8 for part in first.format.components)
    decord = plain and _has_decord() and packets.decord_is_right(name, codec, rows)
    if first is not None and first.rotation % 180:
        width, height = height, width
    return _Index(pts, keys, height, width, fps, codec, "decord" if decord else "pyav", broken)


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
    context = stream.codec_context
    context.thread_count = 1
    # A picture may be larger than its container says; the decoder then refuses it.
    context.options = {"max_pixels": str(MAX_PIXELS)}
    if context.width * context.height > MAX_PIXELS:
        raise DecodeError(path, f"pictures of {context.width}x{context.height} are too large")
    return stream


def _read_pyav(
    path: str, index: _Index, unique: list[int], target: tuple[int, int] | None
) -> np.ndarray:
    if index.pts is not None:
        if unique[-1] >= len(index.pts):
            raise DecodeError(path, f"frame {unique[-1]} asked for of {len(index.pts)}")
        try:
            times = index.pts[unique].tolist()
            return _stack(path, target, _seek_frames(path, index, times))
        except _Unusable:
            pass
    return _stack(path, target, _first_frames(path, unique))


def _seek_frames(path: str, index: _Index, times: list[int]) -> Iterator:
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


def _one_group(container, stream, key: int, times: list[int]) -> Iterator:
    """Decodes from the key frame at time ``key`` until the last of ``times``."""
    av, started = _av(), False
    remaining = iter(times)
    target = next(remaining)
    try:
        container.seek(key, stream=stream, backward=True)
        for frame in container.decode(stream):
            if frame.pts is None or frame.is_corrupt:
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
                yield frame
                target = next(remaining, None)
                if target is None:
                    return
    except av.FFmpegError:
        raise _Unusable from None
    raise _Unusable


def _first_frames(path: str, unique: list[int]) -> Iterator:
    """Frames at ascending positions ``unique``, decoding from the start of the file."""
    wanted, position = set(unique), -1
    for position, frame in enumerate(decoded(path)):
        if position in wanted:
            yield frame
            if position == unique[-1]:
                return
    raise DecodeError(path, f"frame {unique[-1]} asked for; decoding ends after {position + 1}")


def decoded(path: str) -> Iterator:
    """Every frame, as PyAV gives them, that decodes before the end or the first error.

    Not turned upright. Raises DecodeError where the file cannot be opened.
    """
    av = _av()
    with _open(path) as container:
        stream = _best_stream(path, container)
        try:
            yield from container.decode(stream)
        except av.FFmpegError:
            return


@lru_cache(maxsize=4096)
def _count(path: str, size: int, changed: int) -> int:
    return sum(1 for _ in decoded(path))


def _rgb(frame, target: tuple[int, int] | None) -> np.ndarray:
    """(H, W, 3), upright. FFmpeg's rotation is the anticlockwise turn that displays the frame."""
    height, width = target or (None, None)
    if frame.rotation % 180:
        height, width = width, height
    pixels = frame.to_ndarray(format="rgb24", width=width, height=height)
    return np.rot90(pixels, round(frame.rotation / 90))


def _stack(path: str, target: tuple[int, int] | None, frames: Iterable) -> np.ndarray:
    """Decoded frames as one array, scaled to ``target``."""
    pixels, shape = [], None
    for frame in frames:
        shape = shape or (frame.height, frame.width)
        if (frame.height, frame.width) != shape:
            raise DecodeError(path, "the frame size changes within the video")
        pixels.append(_rgb(frame, target))
    return np.stack(pixels)


# --- decord --------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def _has_decord() -> bool:
    return find_spec("decord") is not None


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
