"""What is reconstructed: the targets of the masked tokens, and the way back to pixels for pictures.

A target that is not here yet: CONTRIBUTING.md, "How to add a target".
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from videohpm.config import PretrainConfig
from videohpm.config.data import IMAGENET_MEAN, IMAGENET_STD
from videohpm.config.hpm import HARDNESS
from videohpm.grid import Mask, TokenGrid
from videohpm.hpm.features import Encoders, frozen_features, teacher_features
from videohpm.hpm.losses import token_losses

NORMALISATIONS = ("raw", "per_channel", "joint")


class Target(Protocol):
    """What the decoder is trained to predict for each masked token.

    A class that derives from this one needs ``dim`` and ``__call__`` only.
    """

    dim: int
    """Values of a token: the width of the decoder's output."""
    uses_true_statistics: bool = False
    """Whether :meth:`to_pixels` takes anything from the true pixels; pictures say so."""

    def __call__(self, clips: Tensor, mask: Mask) -> Tensor:
        """The targets of the tokens ``mask.decoded``, and of no others: (B, K, dim) fp32.

        Args:
            clips: (B, 3, T, H, W), normalised: (pixels in [0, 1] − mean) / std.
        """
        ...

    def hardness(
        self, losses: Tensor, predicted: Tensor, targets: Tensor, clips: Tensor, mask: Mask
    ) -> Tensor:
        """How hard each decoded token was: what the loss predictor learns to rank. (B, K) fp32.

        Args:
            losses: (B, K), without gradient, of this prediction; also what is returned unless a
                target knows better.
            predicted: (B, K, dim), the decoder's output.
            targets: (B, K, dim), what this target gave for the same mask.
            clips: as they were given to the model.
        """
        return losses

    def to_pixels(self, predicted: Tensor, clips: Tensor, mask: Mask) -> Tensor | None:
        """The inverse, for pictures: colours in [0, 1], (B, K, P) fp32 in (t, h, w, c) order.

        None where there is no way back; pictures then show no reconstruction.

        Args:
            predicted: (B, K, dim), the decoder's output.
            clips: as they were given to the model.
        """
        return None


class PixelTarget(Target):
    """The pixels of a token, as they are or standardised.

    Standardised targets have lost each token's brightness and contrast: :meth:`to_pixels` puts the
    true token's own back, so such a picture shows more than the model has predicted.

    Args:
        normalisation: ``raw``: the normalised pixels (HPM as published). ``per_channel``: pixels in
            [0, 1], standardised over each channel of the token with unbiased deviation + 1e-6
            (VideoMAE). ``joint``: normalised pixels, standardised over all values of the token
            with 1e-6 added to the unbiased variance (MAE with ``norm_pix_loss``).
        mean, std: of each channel, by which the clips were normalised.
        hardness: ``loss``: a token is as hard as its loss says. ``pixels``: as the error that the
            same prediction makes in normalised pixels. Standardised, a flat token becomes noise
            that nothing can predict, and its loss the largest of all; its error in pixels is small.
    """

    def __init__(
        self,
        grid: TokenGrid,
        normalisation: str = "per_channel",
        mean: tuple[float, ...] = IMAGENET_MEAN,
        std: tuple[float, ...] = IMAGENET_STD,
        hardness: str = "loss",
    ):
        if normalisation not in NORMALISATIONS:
            raise ValueError(f"target: {normalisation!r} is not one of {', '.join(NORMALISATIONS)}")
        if hardness not in HARDNESS:
            raise ValueError(f"hardness: {hardness!r} is not one of {', '.join(HARDNESS)}")
        self.grid, self.normalisation, self.mean, self.std = grid, normalisation, mean, std
        self.dim, self._hardness = grid.patch_dim, hardness
        self.uses_true_statistics = normalisation != "raw"

    def __call__(self, clips: Tensor, mask: Mask) -> Tensor:
        # (B, K, 3, values of a channel): a copy, so it can be changed in place.
        pixels = self.grid.gather_patches(clips, mask.decoded).float().flatten(3)
        if self.normalisation == "per_channel":
            pixels -= pixels[..., :1].clone()  # then what is flat becomes exactly 0
            pixels -= pixels.mean(-1, keepdim=True)
            pixels /= self._scale(pixels)
        elif self.normalisation == "joint":
            pixels -= pixels[:, :, :1, :1].clone()
            pixels -= pixels.mean((-2, -1), keepdim=True)
            pixels /= self._scale(pixels)
        return pixels.transpose(2, 3).flatten(2)

    def _scale(self, centred: Tensor) -> Tensor:
        """What (B, K, 3, values of a channel) of mean 0 are divided by."""
        if self.normalisation == "joint":
            return (_deviation(centred, dim=(-2, -1)).square_() + 1e-6).sqrt_()
        deviation = _deviation(centred, dim=-1)
        # In [0, 1] a channel's deviation is std times ours, so the same 1e-6 is 1e-6/std here.
        for channel, scale in enumerate(self.std):
            deviation[:, :, channel] += 1e-6 / scale
        return deviation

    def hardness(
        self, losses: Tensor, predicted: Tensor, targets: Tensor, clips: Tensor, mask: Mask
    ) -> Tensor:
        if self._hardness == "loss" or self.normalisation == "raw":
            return losses
        # Clip by clip: at once it would need more memory than the loss itself.
        each = zip(predicted, targets, clips, mask.decoded, strict=True)
        return torch.stack([self._pixel_error(*(x[None] for x in parts)) for parts in each])

    def _pixel_error(
        self, predicted: Tensor, targets: Tensor, clips: Tensor, decoded: Tensor
    ) -> Tensor:
        """(K,) for one clip."""
        pixels = self.grid.gather_patches(clips, decoded).float().flatten(3)
        pixels -= pixels.mean(-1 if self.normalisation == "per_channel" else (-2, -1), keepdim=True)
        errors = (predicted.float() - targets).unflatten(-1, (-1, 3)).square_().mean(-2)
        return (errors * self._scale(pixels).flatten(2).square()).mean(-1)[0]

    def to_pixels(self, predicted: Tensor, clips: Tensor, mask: Mask) -> Tensor:
        predicted = predicted.float().unflatten(-1, (-1, 3))
        scale, shift = predicted.new_tensor(self.std), predicted.new_tensor(self.mean)
        if self.normalisation == "raw":
            return (predicted * scale + shift).flatten(-2)
        truth = self.grid.patchify(clips, mask.decoded).float().unflatten(-1, (-1, 3))
        if self.normalisation == "per_channel":
            variance, average = torch.var_mean(truth * scale + shift, dim=-2, keepdim=True)
            return (predicted * (variance.sqrt() + 1e-6) + average).flatten(-2)
        variance, average = torch.var_mean(truth, dim=(-2, -1), keepdim=True)
        normalised = predicted * (variance + 1e-6).sqrt() + average
        return (normalised * scale + shift).flatten(-2)


def pixel_targets(
    clips: Tensor,
    mask: Mask,
    grid: TokenGrid,
    target: str = "per_channel",
    std: tuple[float, ...] = IMAGENET_STD,
) -> Tensor:
    """The targets of :class:`PixelTarget` in one call: (B, K, P) fp32.

    Args:
        clips: (B, 3, T, H, W), normalised.
        target, std: ``normalisation`` and ``std`` there.
    """
    return PixelTarget(grid, target, std=std)(clips, mask)


def reconstruction_loss(
    predicted: Tensor,
    clips: Tensor,
    mask: Mask,
    grid: TokenGrid,
    target: str = "per_channel",
    std: tuple[float, ...] = IMAGENET_STD,
) -> Tensor:
    """The :func:`token_losses` of pixels: (B, K) fp32, in the order of ``mask.decoded``.

    Args:
        predicted: (B, K, P), the pixel decoder's output.
        clips, target, std: see :func:`pixel_targets`.
    """
    return token_losses(predicted, pixel_targets(clips, mask, grid, target, std))


def _deviation(centred: Tensor, dim: int | tuple[int, ...]) -> Tensor:
    """Unbiased standard deviation of values whose mean is 0. Faster than torch's one-pass one."""
    dims = (dim,) if isinstance(dim, int) else dim
    count = math.prod(centred.shape[d] for d in dims)
    return torch.linalg.vector_norm(centred, dim=dim, keepdim=True) / math.sqrt(count - 1)


def _pixels(
    grid: TokenGrid, config: PretrainConfig, encoders: Encoders | None = None
) -> PixelTarget:
    data = config.data
    hardness = config.hpm.hardness or ("pixels" if config.hpm.enabled else "loss")
    return PixelTarget(grid, config.model.target, data.mean, data.std, hardness)


TARGETS: dict[str, Callable[..., Target]] = {
    "raw": _pixels,
    "per_channel": _pixels,
    "joint": _pixels,
    "frozen_encoder": lambda grid, config, encoders=None: frozen_features(encoders, grid, config),
    "ema_encoder": lambda grid, config, encoders=None: teacher_features(encoders, config),
}
"""By ``model.target``: from the grid, the run's configuration and, for features, the
:class:`Encoders`, the target."""
