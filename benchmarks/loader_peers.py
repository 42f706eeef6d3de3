"""How others cut a clip from a video, each as its documentation or its published training has it.

A peer takes a path, the positions of the frames, the side of the square to crop and that of the
clip, and returns the clip as (T, 3, side, side).
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec

import numpy as np
import torch
from PIL import Image
from torchvision.transforms.v2 import functional as F


def decord_loop(path: str, positions: list[int], crop: int, side: int) -> torch.Tensor:
    """VideoMAE's data set: decord, then crop and resize frame by frame with PIL, then a tensor."""
    import decord

    reader = decord.VideoReader(path, num_threads=1, ctx=decord.cpu(0))
    frames = reader.get_batch(positions).asnumpy()
    pictures = [Image.fromarray(frame).convert("RGB") for frame in frames]
    left, top = (pictures[0].width - crop) // 2, (pictures[0].height - crop) // 2
    box = (left, top, left + crop, top + crop)
    cut = [one.crop(box).resize((side, side), Image.Resampling.BILINEAR) for one in pictures]
    stacked = np.concatenate([np.asarray(one) for one in cut], axis=2)
    clip = torch.from_numpy(stacked).permute(2, 0, 1).contiguous().float().div(255)
    return clip.view(len(positions), 3, side, side)


def torchcodec_sampler(path: str, positions: list[int], crop: int, side: int) -> torch.Tensor:
    """torchcodec's own sampler (one clip), then torchvision."""
    from torchcodec.decoders import VideoDecoder
    from torchcodec.samplers import clips_at_random_indices

    decoder = VideoDecoder(path, num_ffmpeg_threads=1)
    stride = positions[1] - positions[0] if len(positions) > 1 else 1
    clips = clips_at_random_indices(
        decoder,
        num_clips=1,
        num_frames_per_clip=len(positions),
        num_indices_between_frames=stride,
        sampling_range_start=positions[0],  # the one place that the others read, too
        sampling_range_end=positions[0] + 1,
    )
    return _crop(clips.data[0], crop, side)


def torchcodec_transforms(path: str, positions: list[int], crop: int, side: int) -> torch.Tensor:
    """torchcodec with the crop and the resize inside its decoder."""
    from torchcodec.decoders import VideoDecoder
    from torchcodec.transforms import CenterCrop, Resize

    steps = [CenterCrop((crop, crop)), Resize((side, side))]
    decoder = VideoDecoder(path, num_ffmpeg_threads=1, transforms=steps)
    return decoder.get_frames_at(positions).data


def pyav_loop(path: str, positions: list[int], crop: int, side: int) -> torch.Tensor:
    """PyAV as in its examples: every frame up to the last is decoded, then torchvision."""
    import av

    wanted, frames = set(positions), []
    with av.open(path) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        for number, frame in enumerate(container.decode(stream)):
            if number in wanted:
                frames.append(frame.to_ndarray(format="rgb24"))
            if number == positions[-1]:
                break
    return _crop(torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2), crop, side)


def _crop(frames: torch.Tensor, crop: int, side: int) -> torch.Tensor:
    cut = F.center_crop(frames, [crop, crop])
    return cut if side == crop else F.resize(cut, [side, side], antialias=True)


PEERS: dict[str, tuple[str, Callable]] = {
    "decord, VideoMAE's loop": ("decord", decord_loop),
    "torchcodec, its sampler": ("torchcodec", torchcodec_sampler),
    "torchcodec, its transforms": ("torchcodec", torchcodec_transforms),
    "PyAV, decoding from the start": ("av", pyav_loop),
}


def peers() -> dict[str, Callable]:
    """Those whose package is here."""
    return {name: run for name, (package, run) in PEERS.items() if find_spec(package)}
