"""Videos to measure reading with, where there are none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def make_videos(folder: Path, count: int, height: int, width: int, frames: int) -> None:
    """H.264 as an encoder makes it by default (long groups, B-frames) but for closed groups."""
    import av

    # Detail at all scales, the coarser the stronger, as in photographs, and a little noise: a copy
    # of key frames alone then takes 4 to 6 kB a picture, as of real videos of this size.
    rng = np.random.default_rng(0)
    tall, wide = height + 240, width + 240
    large = np.full((tall, wide, 3), 128.0)
    for step in (128, 64, 32, 16, 8, 4):
        small = Image.fromarray(rng.integers(0, 256, (tall // step + 2, wide // step + 2, 3), "u1"))
        detail = np.asarray(small.resize((wide, tall), Image.Resampling.BICUBIC), float)
        large += (detail - 127.5) * (step / 128) ** 0.75 * 0.6
    large = (large + rng.normal(0, 1, large.shape)).clip(0, 255).astype(np.uint8)
    path = folder / "0.mp4"
    with av.open(str(path), "w") as file:
        options = {"preset": "veryfast", "crf": "23", "x264-params": "open-gop=0"}
        stream = file.add_stream("libx264", rate=30, options=options)
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        for i in range(frames):
            down, right = int(120 + 110 * np.sin(i / 23)), int(120 + 110 * np.cos(i / 17))
            picture = np.ascontiguousarray(large[down : down + height, right : right + width])
            file.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        file.mux(stream.encode(None))
    for i in range(1, count):  # copies: what is measured is not the disk
        (folder / f"{i}.mp4").write_bytes(path.read_bytes())
