"""Augmentation for training with labels: RandAugment, random erasing, mixup and cutmix.

The operations are timm's; here is what makes them serve clips. One draw is used for all frames of
a clip, and every random number comes from the generator of the sample, or from (seed, step): timm
draws from the global generators of Python, NumPy and torch, which :func:`temporary_seed` sets for a
moment and puts back.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from PIL import Image
from timm.data.auto_augment import posterize, rand_augment_transform
from timm.data.mixup import Mixup, mixup_target
from timm.data.random_erasing import RandomErasing
from torch import Tensor

from videohpm.config import AugmentConfig
from videohpm.data.transforms import IMAGENET_MEAN, IMAGENET_STD, Compose
from videohpm.errors import ConfigError

NO_LABEL = -1
GREY = (128 / 255,) * 3


@contextmanager
def temporary_seed(seed: int) -> Iterator[None]:
    """Seed the global generators of Python, NumPy and torch (CPU), and put them back after.

    Those of GPUs, which drop-path draws from, go on undisturbed.
    """
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.default_generator.manual_seed(seed)  # torch.manual_seed seeds GPUs too
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


def check_policy(policy: str) -> None:
    """ConfigError where timm knows no RandAugment policy of that name; empty is none, and fine."""
    if not policy:
        return
    try:
        rand_augment_transform(policy, {})
    except (AssertionError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"augment.rand_augment: {policy!r} is no policy of timm's ({error}); give one like "
            "rand-m7-n4-mstd0.5-inc1, or nothing"
        ) from None


class RandAugment:
    """timm's RandAugment on clips uint8 (T, 3, H, W): every frame gets the same operations.

    The generators are set to the same state before each frame. That gives the same operations in
    the same strength, because none of timm's draws depends on what is in the picture.

    Args:
        mean: colour of what shifts and rotations uncover, in 0..1.
    """

    def __init__(
        self,
        policy: str,
        mean: tuple[float, ...] = IMAGENET_MEAN,
        interpolation: str = "bilinear",
    ):
        self.policy, self.mean, self.interpolation = policy, mean, interpolation

    def __call__(self, clip: Tensor, rng: np.random.Generator) -> Tensor:
        seed, frames = int(rng.integers(2**32)), []
        augment = rand_augment_transform(self.policy, self._settings(min(clip.shape[-2:])))
        for operation in augment.ops:
            if operation.aug_fn is posterize:
                operation.aug_fn = _posterize
        for frame in clip.permute(0, 2, 3, 1).numpy():
            with temporary_seed(seed):
                frames.append(np.asarray(augment(Image.fromarray(np.ascontiguousarray(frame)))))
        return torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2)

    def _settings(self, side: int) -> dict:
        return {
            # Shifts by up to .45 of the side, and what they uncover in the mean colour (timm).
            "translate_const": int(side * 0.45),
            "img_mean": tuple(min(255, round(255 * value)) for value in self.mean),
            "interpolation": getattr(Image.Resampling, self.interpolation.upper()),
        }


def _posterize(image: Image.Image, bits: int, **settings: Any) -> Image.Image:
    """timm's, where no bit is kept too: a black image, as PIL gave until version 13 refused it."""
    if bits < 1:
        return Image.new(image.mode, image.size)
    return posterize(image, bits, **settings)


class Erase:
    """timm's random erasing on clips uint8 (T, 3, H, W): one box of noise, on all frames.

    Args:
        probability: of erasing at all.
        mean, std: the noise is standard normal where pixels are normalised by them, but for what
            lies outside 0..255 (some 3 % of it), which is clipped.
        per_frame: new noise in each frame (VideoMAE) instead of the same in all.
    """

    def __init__(
        self,
        probability: float,
        mean: tuple[float, ...] = IMAGENET_MEAN,
        std: tuple[float, ...] = IMAGENET_STD,
        per_frame: bool = False,
    ):
        self.probability, self.mean, self.std = probability, mean, std
        self.per_frame = per_frame

    def __call__(self, clip: Tensor, rng: np.random.Generator) -> Tensor:
        # timm draws one box on an empty canvas, whatever its number of channels; it is laid over
        # the frames, or is as many frames deep.
        canvas = torch.full((len(clip) if self.per_frame else 1, *clip.shape[1:]), math.nan)
        with temporary_seed(int(rng.integers(2**32))):
            RandomErasing(self.probability, mode="pixel", device="cpu")(canvas.flatten(0, 1))
        drawn = ~canvas.isnan()
        if not drawn.any():
            return clip
        colours = canvas * torch.tensor(self.std)[:, None, None]
        colours += torch.tensor(self.mean)[:, None, None]
        return torch.where(drawn, colours.mul(255).round().clamp(0, 255).byte(), clip)


def augmented(
    crop,
    config: AugmentConfig,
    mean,
    std,
    interpolation: str = "bilinear",
) -> Compose:
    """``crop`` (and flip) with RandAugment and erasing as ``config`` says: a clip transform."""
    steps, policy = [crop], config.rand_augment
    if policy and config.rand_augment_input == "frame":
        steps.insert(0, RandAugment(policy, GREY, "bicubic"))
    elif policy:
        steps.append(RandAugment(policy, tuple(mean), interpolation))
    if config.random_erasing:
        per_frame = config.erasing_noise == "frame"
        steps.append(Erase(config.random_erasing, tuple(mean), tuple(std), per_frame))
    return Compose(tuple(steps))


def mix(
    clips: Tensor,
    labels: Tensor,
    config: AugmentConfig,
    *,
    classes: int,
    smoothing: float,
    repeats: int,
    seed: int,
    step: int,
) -> tuple[Tensor, Tensor]:
    """Mixup or cutmix by timm, and soft targets; without mixing, the smoothed labels alone.

    Neighbouring samples of the global batch are mixed with each other, all of a step in the same
    way, which (seed, step) decides: so the result does not depend on how the batch was divided
    over ranks and accumulation steps.

    Args:
        clips: (B, 3, T, H, W), normalised; B is an even number of samples times ``repeats``.
        labels: (B,) class numbers.

    Returns:
        Clips and targets (B, classes), each row summing to 1, in an order of their own.
    """
    if not config.mixes:
        return clips, mixup_target(labels, classes, 1.0, smoothing)
    order = pair_order(len(clips), repeats, clips.device)
    mixer = Mixup(
        config.mixup,
        config.cutmix,
        prob=config.mix_probability,
        label_smoothing=smoothing,
        num_classes=classes,
    )
    with temporary_seed(int(np.random.SeedSequence([seed, step, 2]).generate_state(1)[0])):
        # timm takes pictures: time goes into the channels, so all frames are mixed alike.
        mixed, targets = mixer(clips[order].flatten(1, 2), labels[order])
    return mixed.unflatten(1, (3, -1)), targets


def pair_order(count: int, repeats: int, device: torch.device | str = "cpu") -> Tensor:
    """An order in which the i-th clip from the front and the i-th from the back are partners.

    Partners are the same repeat of samples 2j and 2j + 1.

    >>> pair_order(4, 1).tolist()
    [0, 2, 3, 1]
    """
    if count % (2 * repeats):
        raise ValueError(f"{count} clips with {repeats} of each sample are no even number")
    pairs = torch.arange(count, device=device).view(-1, 2, repeats)
    return torch.cat([pairs[:, 0].flatten(), pairs[:, 1].flatten().flip(0)])
