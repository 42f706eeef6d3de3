"""Targets that are features of a network: one that is frozen, or the teacher's encoder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from videohpm.config import PretrainConfig
from videohpm.errors import ConfigError, UserError
from videohpm.grid import Mask, TokenGrid
from videohpm.hpm.teacher import LossTeacher
from videohpm.models.hooked import call_hooked


class FrozenEncoder(nn.Module):
    """A network that is not trained, as features of the tokens of our clips.

    Args:
        network: from clips (B, 3, T, H, W) to (B, N, dim); where ``per_frame``, from images
            (B, 3, H, W) to (B, h·w, dim).
        grid: of our clips.
        mean, std: of each channel, by which our clips are normalised.
        own_mean, own_std: by which the network wants its pixels normalised.
        per_frame: the network sees the first frame of each time step, as an image.
    """

    scale: Tensor
    shift: Tensor

    def __init__(
        self,
        network: nn.Module,
        dim: int,
        grid: TokenGrid,
        mean: Sequence[float],
        std: Sequence[float],
        own_mean: Sequence[float],
        own_std: Sequence[float],
        *,
        per_frame: bool,
    ):
        super().__init__()
        self.network, self.dim, self.grid, self.per_frame = network, dim, grid, per_frame
        ours, own = torch.tensor([mean, std]), torch.tensor([own_mean, own_std])
        shape = (3, 1, 1, 1)
        # From our normalisation to the network's: (x·std + mean − own mean) / own std.
        self.register_buffer("scale", (ours[1] / own[1]).view(shape), persistent=False)
        self.register_buffer("shift", ((ours[0] - own[0]) / own[1]).view(shape), persistent=False)
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> FrozenEncoder:
        """It is never in training mode."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, clips: Tensor) -> Tensor:
        """(B, 3, T, H, W), normalised as ours → (B, N, dim)."""
        if self.per_frame:
            clips = clips[:, :, :: self.grid.tubelet]
        clips = clips * self.scale + self.shift
        if not self.per_frame:
            return self.network(clips)
        images = clips.transpose(1, 2).flatten(0, 1)  # (B·t, 3, H, W)
        return self.network(images).reshape(len(clips), self.grid.num_tokens, self.dim)


class FeatureTarget(nn.Module):
    """Features of a network that sees the whole clip, standardised over the values of each token.

    That is LayerNorm without weights, as MVD and EVA have it: no feature of large scale drowns the
    others. There is no way back to pixels, so pictures show no reconstruction.

    Args:
        features: from clips (B, 3, T, H, W), normalised, to (B, N, dim), without gradient. A module
            becomes a part of this one.
        dim: values of a token.
    """

    uses_true_statistics = False

    def __init__(self, features: Callable[[Tensor], Tensor], dim: int):
        super().__init__()
        self.features, self.dim = features, dim

    @torch.no_grad()
    def forward(self, clips: Tensor, mask: Mask) -> Tensor:
        """See :meth:`videohpm.hpm.Target.__call__`."""
        index = mask.decoded[:, :, None].expand(-1, -1, self.dim)
        return F.layer_norm(self.features(clips).gather(1, index).float(), (self.dim,))

    def hardness(
        self, losses: Tensor, predicted: Tensor, targets: Tensor, clips: Tensor, mask: Mask
    ) -> Tensor:
        """A token is as hard as its loss says."""
        return losses

    def to_pixels(self, predicted: Tensor, clips: Tensor, mask: Mask) -> None:
        """Features are no picture."""


class Encoders(NamedTuple):
    """The networks whose features may be asked for, each made when it is."""

    frozen: Callable[[TokenGrid, PretrainConfig], FrozenEncoder]
    """What ``model.target_encoder`` names, for clips of a grid."""
    teacher: Callable[[], LossTeacher | None]
    """The teacher of the run; asked at each step, because it is made after the target."""


def frozen_features(
    encoders: Encoders | None, grid: TokenGrid, config: PretrainConfig
) -> FeatureTarget:
    """The target ``frozen_encoder``."""
    _no_pixels(config)
    if encoders is None:
        raise ValueError("encoders: the features of a frozen encoder need one")
    encoder = encoders.frozen(grid, config)
    return FeatureTarget(encoder, encoder.dim)


def teacher_features(encoders: Encoders | None, config: PretrainConfig) -> FeatureTarget:
    """The target ``ema_encoder``: bootstrapped, as BootMAE and data2vec are."""
    _no_pixels(config)
    if config.scorer != "loss_teacher":
        raise ConfigError(
            "model.target: ema_encoder is the teacher's encoder; set hpm.enabled true and "
            "mask.scorer loss_teacher (with hpm.hard_ratio_end 0 for random masks)"
        )

    def features(clips: Tensor) -> Tensor:
        teacher = None if encoders is None else encoders.teacher()
        if teacher is None:
            raise UserError(
                "model.target: ema_encoder predicts the features of the teacher, which an export "
                "does not hold; give the run"
            )
        return call_hooked(teacher, teacher.features, clips)

    return FeatureTarget(features, config.model_config().encoder.dim)


def _no_pixels(config: PretrainConfig) -> None:
    if config.hpm.hardness == "pixels":
        raise ConfigError(
            f"hpm.hardness: pixels is no measure of features; with model.target "
            f"{config.model.target} give loss"
        )
