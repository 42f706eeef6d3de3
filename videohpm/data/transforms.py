"""Clip transforms on torchvision v2: one draw for all frames of a clip.

A clip here is uint8 (T, 3, H, W); a transform is called as ``transform(clip, rng)`` and takes every
random number from ``rng``, so that it is a function of the sample and not of a worker's state.
Resizing is bilinear and antialiased by default, as with PIL (pre-training of VideoMAE, MAE and HPM;
everything on images). VideoMAE's fine-tuning and test are not antialiased: ``antialias=False``.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from videohpm.config.data import IMAGENET_MEAN, IMAGENET_STD

ImageSize = tuple[int, int]  # height, width


@dataclass(frozen=True)
class MultiScaleCrop:
    """VideoMAE's pre-training crop: one of few sizes, at one of thirteen positions.

    Height and width are each the frame's shorter side times one of ``scales``, the two at most one
    step apart in that list; the position is a corner, the centre, the middle of a side or of a
    quadrant. A crop within 3 pixels of the output's side takes exactly that side. Resized to
    ``size`` (height, width).
    """

    size: ImageSize
    scales: tuple[float, ...] = (1.0, 0.875, 0.75, 0.66)
    interpolation: str = "bilinear"
    antialias: bool = True

    def __call__(self, clip: Tensor, rng: np.random.Generator) -> Tensor:
        top, left, height, width = self.box(clip.shape[-2], clip.shape[-1], rng)
        clip = clip[..., top : top + height, left : left + width]
        return _resize(clip, self.size, self.interpolation, self.antialias)

    def box(self, height: int, width: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
        """(top, left, height, width) of the crop."""
        sides = [int(min(height, width) * scale) for scale in self.scales]
        tall = [_snap(side, self.size[0], height) for side in sides]
        wide = [_snap(side, self.size[1], width) for side in sides]
        pairs = [
            (tall[i], wide[j])
            for i in range(len(sides))
            for j in range(len(sides))
            if abs(i - j) <= 1
        ]
        crop_height, crop_width = pairs[rng.integers(len(pairs))]
        down, right = (height - crop_height) // 4, (width - crop_width) // 4
        row, column = _POSITIONS[rng.integers(len(_POSITIONS))]
        return row * down, column * right, crop_height, crop_width


# In quarters of the free room: corners, centre, side middles, quadrant middles.
_POSITIONS = (
    *((0, 0), (0, 4), (4, 0), (4, 4), (2, 2)),
    *((2, 0), (2, 4), (4, 2), (0, 2)),
    *((1, 1), (1, 3), (3, 1), (3, 3)),
)


@dataclass(frozen=True)
class RandomResizedCrop:
    """A crop of random area (fraction of the frame) and aspect ratio, resized to ``size``.

    Ten draws, then the centre crop of the nearest allowed ratio, like torchvision's.
    """

    size: ImageSize
    area: tuple[float, float] = (0.2, 1.0)
    aspect: tuple[float, float] = (3 / 4, 4 / 3)
    interpolation: str = "bilinear"
    antialias: bool = True

    def __call__(self, clip: Tensor, rng: np.random.Generator) -> Tensor:
        top, left, height, width = self.box(clip.shape[-2], clip.shape[-1], rng)
        clip = clip[..., top : top + height, left : left + width]
        return _resize(clip, self.size, self.interpolation, self.antialias)

    def box(self, height: int, width: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
        """(top, left, height, width) of the crop."""
        for _ in range(10):
            area = height * width * rng.uniform(*self.area)
            ratio = math.exp(rng.uniform(math.log(self.aspect[0]), math.log(self.aspect[1])))
            crop_width = round(math.sqrt(area * ratio))
            crop_height = round(math.sqrt(area / ratio))
            if 0 < crop_width <= width and 0 < crop_height <= height:
                top = int(rng.integers(height - crop_height + 1))
                left = int(rng.integers(width - crop_width + 1))
                return top, left, crop_height, crop_width
        ratio = min(max(width / height, self.aspect[0]), self.aspect[1])
        crop_width = max(min(width, round(height * ratio)), 1)
        crop_height = max(min(height, round(width / ratio)), 1)
        top, left = (height - crop_height) // 2, (width - crop_width) // 2
        return top, left, crop_height, crop_width


@dataclass(frozen=True)
class CentreCrop:
    """The frame resized until it covers ``size``, then its centre."""

    size: ImageSize
    interpolation: str = "bilinear"
    antialias: bool = True

    def __call__(self, clip: Tensor, rng: np.random.Generator | None = None) -> Tensor:
        clip = resize_to_cover(clip, self.size, self.interpolation, self.antialias)
        return F.center_crop(clip, list(self.size))


@dataclass(frozen=True)
class Flip:
    """Mirrors left and right with probability one half. Wrong where labels name a side."""

    def __call__(self, clip: Tensor, rng: np.random.Generator) -> Tensor:
        return clip.flip(-1) if rng.random() < 0.5 else clip


@dataclass(frozen=True)
class Compose:
    """Transforms one after the other, on one stream of random numbers."""

    steps: tuple

    def __call__(self, clip: Tensor, rng: np.random.Generator) -> Tensor:
        for step in self.steps:
            clip = step(clip, rng)
        return clip


def resize_short_side(
    clip: Tensor, side: int, interpolation: str = "bilinear", antialias: bool = True
) -> Tensor:
    """(T, 3, H, W) with its shorter side ``side`` pixels long and the same aspect ratio."""
    return F.resize(clip, [side], InterpolationMode(interpolation), antialias=antialias)


def resize_to_cover(
    clip: Tensor, size: ImageSize, interpolation: str = "bilinear", antialias: bool = True
) -> Tensor:
    """(T, 3, H', W') with the same aspect ratio, H' and W' no smaller than ``size``, one equal.

    For a square ``size`` that is the shorter side resized to it.
    """
    height, width = clip.shape[-2:]
    if size[0] * width >= size[1] * height:
        new = (size[0], max(size[1], size[0] * width // height))
    else:
        new = (max(size[0], size[1] * height // width), size[1])
    return _resize(clip, new, interpolation, antialias)


def normalise(
    clips: Tensor,
    mean: tuple[float, ...] = IMAGENET_MEAN,
    std: tuple[float, ...] = IMAGENET_STD,
) -> Tensor:
    """uint8 (B, 3, T, H, W) to float32 ``(clips / 255 - mean) / std``, on whatever device.

    Mean and std are those of pixels in 0..1. They stay Python numbers: a tensor of them would be
    copied to the device, and waited for, at every step.
    """
    if clips.device.type == "cuda":
        return _normalise_at_once(clips, mean, std)
    clips = clips.to(torch.float32, memory_format=torch.contiguous_format).div_(255)
    for channel, (centre, spread) in enumerate(zip(mean, std, strict=True)):
        clips[:, channel].sub_(centre).div_(spread)
    return clips


def _normalise_at_once(clips: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """The same, but for rounding, with memory read and written once; on a CPU it is slower."""
    out = torch.empty(clips.shape, dtype=torch.float32, device=clips.device)
    for channel, (centre, spread) in enumerate(zip(mean, std, strict=True)):
        # A scalar on the CPU is an argument of the kernel, and no copy.
        shift = torch.tensor(-centre / spread)
        torch.add(shift, clips[:, channel], alpha=1 / (255 * spread), out=out[:, channel])
    return out


def _snap(side: int, output: int, limit: int) -> int:
    """``output`` where it is within 3 pixels of ``side`` and fits; a side of at least 1."""
    return output if abs(side - output) < 3 and output <= limit else max(side, 1)


def _resize(clip: Tensor, size: ImageSize, interpolation: str, antialias: bool) -> Tensor:
    if clip.shape[-2:] == tuple(size):
        return clip
    return F.resize(clip, list(size), InterpolationMode(interpolation), antialias=antialias)
