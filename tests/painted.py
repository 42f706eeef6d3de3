"""Small videos whose frames carry their own number, and the number read back.

The number is painted as ten black or white blocks (two rows of five), each 16 pixels wide, so it
survives every codec here. Behind the blocks a slope drifts, which makes encoders use B-frames.
"""

import contextlib
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

HEIGHT, WIDTH, BLOCK = 48, 96, 16


def painted_frame(number: int) -> np.ndarray:
    """(H, W, 3) uint8 frame that shows ``number`` (0..1023)."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    frame = np.stack([x + 2 * number, y + number, x + y], -1) % 96 + 80
    for bit in range(10):
        top, left = BLOCK * (bit // 5), BLOCK * (bit % 5)
        frame[top : top + BLOCK, left : left + BLOCK] = 235 if number >> bit & 1 else 20
    return frame.astype(np.uint8)


def read_number(frame: np.ndarray) -> int:
    """The number a frame shows, or -1 where a block is neither black nor white."""
    number = 0
    for bit in range(10):
        top, left = BLOCK * (bit // 5), BLOCK * (bit % 5)
        level = frame[top + 4 : top + BLOCK - 4, left + 4 : left + BLOCK - 4].mean()
        if 90 < level < 165:
            return -1
        number |= int(level > 127) << bit
    return number


def numbers(frames: np.ndarray) -> list[int]:
    return [read_number(frame) for frame in frames]


def encode(
    path: Path,
    codec: str,
    count: int = 40,
    *,
    options: dict[str, str] | None = None,
    pix_fmt: str = "yuv420p",
    ticks: list[int] | None = None,
    b_frames: int | None = None,
    rotation: int | None = None,
    streams: int = 1,
    audio: bool = False,
) -> Path:
    """Writes painted frames 0, 1, ...; ``ticks`` are their display times in 1/30 s.

    A second video stream is twice as wide and counts from 500. Key frames come every 12 frames.
    Skips the test where the machine has no such encoder.
    """
    import av

    try:
        av.codec.Codec(codec, "w")
    except av.codec.codec.UnknownCodecError:
        pytest.skip(f"no {codec} encoder on this machine")
    with av.open(str(path), "w") as container:
        videos = []
        for place in range(streams):
            stream = container.add_stream(codec, rate=30, options=dict(options or {}))
            stream.width, stream.height, stream.pix_fmt = WIDTH * (1 + place), HEIGHT, pix_fmt
            stream.codec_context.gop_size = 12
            stream.codec_context.time_base = Fraction(1, 30)
            if b_frames is not None:
                stream.codec_context.max_b_frames = b_frames
            if rotation is not None:
                stream.set_display_rotation(rotation)
            videos.append(stream)
        sound = container.add_stream("mp2", rate=44100) if audio else None
        for i in range(count):
            for place, stream in enumerate(videos):
                picture = np.concatenate([painted_frame(i + 500 * place)] * (1 + place), 1)
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                frame.pts, frame.time_base = (ticks[i] if ticks else i), Fraction(1, 30)
                container.mux(stream.encode(frame))
        for stream in videos:
            container.mux(stream.encode(None))
        if sound is not None:
            silence = np.zeros((1, 1152 * 20), np.int16)
            frame = av.AudioFrame.from_ndarray(silence, format="s16", layout="mono")
            frame.sample_rate, frame.pts = 44100, 0
            for piece in av.AudioResampler("s16", "stereo", 44100, 1152).resample(frame):
                container.mux(sound.encode(piece))
            container.mux(sound.encode(None))
    return path


def copy_packets(source: Path, target: Path, *, skip: int = 0, options: dict | None = None) -> Path:
    """The stored packets of ``source`` in a new container, without the first ``skip``."""
    import av

    with av.open(str(source)) as old, av.open(str(target), "w", options=options or {}) as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        packets = [packet for packet in old.demux(old.streams.video[0]) if packet.size]
        for packet in packets[skip:]:
            packet.stream = stream
            new.mux(packet)
    return target


def decode_all(path: Path, *, best: bool = True) -> list[np.ndarray]:
    """The reference: every frame of a sequential PyAV decode, up to the first error."""
    import av

    frames = []
    with av.open(str(path)) as container:
        stream = container.streams.best("video") if best else container.streams.video[0]
        with contextlib.suppress(av.FFmpegError):
            for frame in container.decode(stream):
                frames.append(frame.to_ndarray(format="rgb24"))
    return frames
