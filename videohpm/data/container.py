"""Opening video files with FFmpeg through PyAV: the error, the stream that is read, the bounds.

PyAV is imported at the first use and in the process that reads.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

from videohpm.data.geometry import geometry

if TYPE_CHECKING:
    from collections.abc import Generator

    from av.container import InputContainer
    from av.packet import Packet
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

MAX_PIXELS = 2**25
"""Of one picture of a video, an 8K one: a larger one is refused before memory is taken for it."""
FORMATS = (
    "mov,matroska,webm,avi,mpeg,mpegts,mpegvideo,flv,asf,ogg,ivf,mxf,nut,wtv,rm,dv,gxf,lxf,nsv,"
    "h264,hevc,vvc,obu,av1,m4v,h263,h261,vc1,dirac,dnxhd,cavsvideo,avs2,avs3,mjpeg,mjpeg_2000,"
    "yuv4mpegpipe,gif,apng,webp_anim,flic,swf,roq,bink,smk"
)
"""FFmpeg's names of the formats that are read: those that hold pictures. Not playlists, scripts and
patterns, which name other files (hls, dash, concat, sdp, image2), and not devices."""
NAMES_OTHERS = {
    b"#EXTM3U": "an HLS playlist",
    b"ffconcat": "a script that puts files together",
    b"<?xml": "XML",
    b"<MPD": "a DASH manifest",
    b"v=0": "a session description",
    b"[playlist]": "a playlist",
    b"[Reference]": "a playlist",
}
"""How texts begin that lead a reader to other files or to the network."""

EBML = b"\x1a\x45\xdf\xa3"
"""The first bytes of a Matroska file."""
BOXES = (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot", b"styp")
"""The first box of an MP4 file, behind its size."""

ONE_THREAD: dict[str, Any] = {"threads": 1}
"""For every conversion of a frame. PyAV would start a thread for each core, for each frame: the
workers are the parallelism here, and where memory is bounded threads fail to start."""


class DecodeError(Exception):
    """A file, or one of its frames, cannot be read. ``path`` and a one-line ``reason``."""

    def __init__(self, path: str, reason: str):
        super().__init__(path, reason)  # both, so that it pickles between processes
        self.path = str(path)
        self.reason = " ".join(str(reason).split())

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


@contextmanager
def errors_as_decode_error(path: str) -> Iterator[None]:
    """Whatever is raised inside, while one file is read, becomes a DecodeError of that file.

    Decoders and converters raise errors of many kinds about what a file holds; a run must lose the
    file and nothing else.
    """
    try:
        yield
    except DecodeError:
        raise
    except MemoryError:
        raise DecodeError(path, "reading it takes more memory than there is") from None
    except Exception as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise DecodeError(path, f"cannot be read ({type(error).__name__}: {reason})") from error


def import_av() -> Any:
    """The module ``av``, with FFmpeg's messages turned off."""
    import av
    import av.logging

    av.logging.set_level(None)
    return av


def as_file(path: str | os.PathLike[str]) -> str:
    """The path, written so that FFmpeg does not take cam1:2024.mp4 for an address."""
    path = os.fspath(path)
    return path if os.path.isabs(path) else os.path.join(os.curdir, path)


def check_first_bytes(path: str) -> bytes:
    """The first bytes of a file, whatever its name. DecodeError for what names other files.

    FFmpeg goes by what a file holds, not by its suffix: a playlist called a.mp4 would have it read
    other files of this machine.
    """
    try:
        with open(path, "rb") as file:
            first = file.read(64)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise DecodeError(path, f"cannot be opened as a video ({reason})") from None
    text = first.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    for begin, what in NAMES_OTHERS.items():
        if text.startswith(begin.lower()):
            raise DecodeError(path, f"not a video but {what}, which may name other files: refused")
    return first


def begins_as_mp4_or_matroska(first: bytes) -> bool:
    """What the first bytes of a file say of its container."""
    return first.startswith(EBML) or first[4:8] in BOXES


def open_video(path: str) -> InputContainer:
    """The opened file, of one of ``FORMATS``, its first bytes checked. Raises DecodeError."""
    check_first_bytes(path)
    return open_checked(path)


def open_checked(path: str) -> InputContainer:
    """As ``open_video``, of a file whose first bytes were checked."""
    av = import_av()
    options = {"format_whitelist": FORMATS, "protocol_whitelist": "file"}
    try:
        return av.open(as_file(path), options=options, metadata_errors="ignore")
    except (av.FFmpegError, OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise DecodeError(path, f"cannot be opened as a video ({reason})") from None


def best_stream(path: str, container: InputContainer) -> VideoStream:
    """The video stream that every reader reads: FFmpeg's choice among several, not the first.

    Raises DecodeError where there is none, or its pictures are too large.
    """
    stream = cast("VideoStream | None", container.streams.best("video"))
    if stream is not None and _is_cover(stream):
        # A still picture that goes with sound; a moving one beside it is the video.
        others = [other for other in container.streams.video if not _is_cover(other)]
        if not others:
            raise DecodeError(path, "no video stream but a cover picture")
        stream = others[0]
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


def _is_cover(stream: VideoStream) -> bool:
    # By its bit: before Python 3.11 a flag of several bits has no name.
    return bool(stream.disposition & type(stream.disposition).attached_pic)


def decoded(path: str) -> Iterator[VideoFrame]:
    """Every frame, as PyAV gives them, before the end, an error or a change of geometry.

    That is the rule for damage: a video ends at its first packet that does not decode. Not turned
    upright. Raises DecodeError where the file cannot be opened.
    """
    first = None
    for frame in decoded_of_any_size(path):
        found = geometry(frame)
        first = first or found
        if found != first:
            return
        yield frame


def decoded_of_any_size(path: str, errors: list[Exception] | None = None) -> Iterator[VideoFrame]:
    """As ``decoded``, also after a change of picture size or orientation.

    ``errors`` takes what ended decoding before the end of the file.
    """
    av = import_av()
    with open_video(path) as container:
        stream = best_stream(path, container)
        try:
            yield from decoding(container, stream)
        except av.FFmpegError as error:
            if errors is not None:
                errors.append(error)


@contextmanager
def demuxing(container: InputContainer, stream: VideoStream) -> Iterator[Iterator[Packet]]:
    """The packets of a stream, from where the file was sought to; seeking goes on with them.

    To be left by the end of a ``with``: PyAV frees the memory of such a reading where it is closed
    or comes to its end, and not where it is just dropped. ``container.decode`` cannot be closed.
    """
    packets = cast("Generator[Packet]", container.demux(stream))
    try:
        yield packets
    finally:
        packets.close()


def decoding(container: InputContainer, stream: VideoStream) -> Iterator[VideoFrame]:
    """The frames of a stream, as ``container.decode`` has them."""
    with demuxing(container, stream) as packets:
        for packet in packets:
            yield from cast("list[VideoFrame]", packet.decode())


def file_identity(path: str) -> tuple[int, int]:
    """Size in bytes and change time in ns: a replaced file is not read by the old file's index.

    Raises DecodeError where there is no such file.
    """
    try:
        status = os.stat(path)
    except OSError as error:
        raise DecodeError(path, error.strerror or "cannot be opened") from None
    return status.st_size, status.st_mtime_ns
