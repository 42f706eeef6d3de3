"""Pictures and animations written as PNG, GIF or MP4."""

from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image

from videohpm.config.options import picture_suffix
from videohpm.data.container import as_file
from videohpm.writing import complete


def gif_bytes(frames: np.ndarray, fps: float = 4.0) -> bytes:
    """An endless GIF of (T, H, W, 3) uint8; one palette for all frames, so colours do not flicker.

    Also what TensorBoard plays as an image.
    """
    sample = frames[:: max(1, len(frames) // 4)]
    strip = Image.fromarray(np.concatenate(list(sample)))
    palette = strip.quantize(255, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    pictures = [
        Image.fromarray(frame).quantize(palette=palette, dither=Image.Dither.NONE)
        for frame in frames
    ]
    out = io.BytesIO()
    pictures[0].save(
        out,
        "GIF",
        save_all=True,
        append_images=pictures[1:],
        duration=round(1000 / fps),
        loop=0,
        disposal=1,
    )
    return out.getvalue()


def write(path: str | Path, frames: np.ndarray, fps: float = 4.0) -> None:
    """Write (H, W, 3) uint8 as PNG, or (T, H, W, 3) uint8 as GIF or MP4, as the suffix says."""
    suffix = picture_suffix(path)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with complete(path) as partial:
        if suffix == ".png":
            Image.fromarray(frames).save(partial)
        elif suffix == ".gif":
            partial.write_bytes(gif_bytes(frames, fps))
        else:
            _write_mp4(partial, frames, fps)


def _write_mp4(path: Path, frames: np.ndarray, fps: float) -> None:
    import av  # not everywhere to be had: only where it is used

    tall, wide = frames.shape[1] % 2, frames.shape[2] % 2  # H.264 takes even sizes
    frames = np.pad(frames, ((0, 0), (0, tall), (0, wide), (0, 0)), mode="edge")
    with av.open(as_file(path), "w") as container:
        codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
        stream = container.add_stream(codec, rate=Fraction(fps).limit_denominator(1000))
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": "16"} if codec == "libx264" else {"qscale": "2"}
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
