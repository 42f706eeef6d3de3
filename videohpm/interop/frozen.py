"""Frozen encoders as targets: weights of any layout known here, or an image model of timm."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from videohpm.config import PretrainConfig
from videohpm.config.data import IMAGENET_MEAN, IMAGENET_STD
from videohpm.errors import ConfigError, UserError
from videohpm.grid import TokenGrid
from videohpm.hpm import Encoders, FrozenEncoder, LossTeacher
from videohpm.interop.convert import read_weights
from videohpm.models import VideoViT
from videohpm.models.bounds import empty_model

FIELD, TIMM = "model.target_encoder", "timm:"


def encoders_of(
    teacher: Callable[[], LossTeacher | None] = lambda: None, *, weights: bool = True
) -> Encoders:
    """The networks that a run's target may ask for.

    Args:
        teacher: gives the run's teacher, where it has one.
        weights: False for networks without memory for their weights, to be counted.
    """

    def frozen(grid: TokenGrid, config: PretrainConfig) -> FrozenEncoder:
        return load_frozen_encoder(grid, config, weights=weights)

    return Encoders(frozen, teacher)


def load_frozen_encoder(
    grid: TokenGrid, config: PretrainConfig, *, weights: bool = True
) -> FrozenEncoder:
    """What ``model.target_encoder`` names, for the clips of a run.

    Raises UserError, one line, where it cannot be read, or where its tokens are not the run's.

    Args:
        weights: False for a network without memory for its weights.
    """
    source = config.model.target_encoder or ""
    if source.startswith(TIMM):
        network, dim, found, own = _of_timm(source.removeprefix(TIMM), grid, weights)
    else:
        network, dim, found, own = _of_file(source, weights)
    per_frame = (found.t, found.tubelet) == (1, 1)
    wanted = TokenGrid(1, grid.h, grid.w, 1, grid.patch) if per_frame else grid
    if found != wanted:
        raise ConfigError(
            f"{FIELD}: {source} has {_described(found)}, this model {_described(wanted)}; they "
            "must be the same: give another encoder, or change model.frames, model.image_size, "
            "model.tubelet or model.patch"
        )
    data = config.data
    return FrozenEncoder(network, dim, grid, data.mean, data.std, *own, per_frame=per_frame)


class EncoderTokens(nn.Module):
    """The tokens that one of our encoders makes, without its class token."""

    def __init__(self, encoder: VideoViT):
        super().__init__()
        self.encoder = encoder

    def forward(self, clips: Tensor) -> Tensor:
        """(B, 3, T, H, W), or (B, 3, H, W) for one of images → (B, N, D)."""
        clips = clips[:, :, None] if clips.ndim == 4 else clips
        return self.encoder(clips)[:, self.encoder.num_prefix_tokens :]


class TimmTokens(nn.Module):
    """The tokens, or the last feature map as tokens, of an image model of timm.

    Args:
        prefix: tokens before those of the image.
        channels_last: of a feature map: (B, h, w, D) and not (B, D, h, w).
    """

    def __init__(self, model: nn.Module, prefix: int, channels_last: bool):
        super().__init__()
        self.model, self.prefix, self.channels_last = model, prefix, channels_last

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) → (B, h·w, D)."""
        features = self.model.forward_features(images)  # pyright: ignore[reportCallIssue]
        if features.ndim == 3:
            return features[:, self.prefix :]
        return features.flatten(1, 2) if self.channels_last else features.flatten(2).transpose(1, 2)


Found = tuple[nn.Module, int, TokenGrid, tuple]
"""A network, the width of its features, its grid, and the mean and std of its pixels."""


def _of_file(source: str, weights: bool) -> Found:
    try:
        whole, report = read_weights(source)
        mine = whole.encoder(report)
    except UserError as error:
        raise UserError(f"{FIELD}: {error}") from error
    encoder = mine.build() if weights else empty_model(mine.config)
    assert isinstance(encoder, VideoViT)
    own = mine.extra.get("mean", IMAGENET_MEAN), mine.extra.get("std", IMAGENET_STD)
    return EncoderTokens(encoder), encoder.config.dim, encoder.grid, own


def _of_timm(name: str, grid: TokenGrid, weights: bool) -> Found:
    from timm.data.config import resolve_data_config

    size = grid.height, grid.width
    try:
        model = _timm_model(name, size, weights)
        device = next(model.parameters()).device
        with torch.no_grad():
            shape = model.forward_features(torch.zeros(1, 3, *size, device=device)).shape
    except (RuntimeError, ValueError, AssertionError, OSError, LookupError) as error:
        raise UserError(
            f"{FIELD}: timm cannot give {name} ({' '.join(str(error).split())})"
        ) from error
    own = resolve_data_config(model=model)
    prefix, channels_last = getattr(model, "num_prefix_tokens", 0), shape[-1] == model.num_features
    if len(shape) == 4:
        h, w = shape[1:3] if channels_last else shape[2:]
        patch = size[0] // h
    else:
        embed = getattr(model, "patch_embed", None)
        h, w = getattr(embed, "grid_size", None) or (1, 1)
        patch = (getattr(embed, "patch_size", None) or size)[0]
        if shape[1] - prefix != h * w:
            raise ConfigError(f"{FIELD}: {name} keeps no token for each patch of an image")
    tokens = TimmTokens(model, prefix, channels_last)
    return tokens, model.num_features, TokenGrid(1, h, w, 1, patch), (own["mean"], own["std"])


def _timm_model(name: str, size: tuple[int, int], weights: bool) -> Any:
    import timm

    options = {"pretrained": weights, "num_classes": 0}
    with torch.device("cpu" if weights else "meta"):
        try:
            return timm.create_model(name, img_size=size, **options).eval()
        except TypeError:  # it takes images of any size
            return timm.create_model(name, **options).eval()


def _described(grid: TokenGrid) -> str:
    if (grid.t, grid.tubelet) == (1, 1):
        return f"{grid.h}x{grid.w} tokens of {grid.patch}x{grid.patch} pixels a frame"
    return f"{grid.t}x{grid.h}x{grid.w} tokens of {grid.tubelet}x{grid.patch}x{grid.patch} pixels"
