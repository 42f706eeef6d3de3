"""Sizes by name: encoder and decoder of each, as VideoMAE and VideoMAEv2 publish them."""

from __future__ import annotations

from dataclasses import dataclass

from videohpm.errors import ConfigError


@dataclass(frozen=True)
class ViTSize:
    """Width, depth and heads of the encoder and of the pixel decoder."""

    dim: int
    depth: int
    heads: int
    decoder_dim: int
    decoder_depth: int
    decoder_heads: int
    mlp_ratio: float = 4.0


SIZES = {
    "vit_tiny": ViTSize(192, 12, 3, 96, 4, 3),
    "vit_small": ViTSize(384, 12, 6, 192, 4, 3),
    "vit_base": ViTSize(768, 12, 12, 384, 4, 6),
    "vit_large": ViTSize(1024, 24, 16, 512, 12, 8),
    "vit_huge": ViTSize(1280, 32, 16, 640, 12, 8),
    "vit_giant": ViTSize(1408, 40, 16, 512, 4, 8, mlp_ratio=48 / 11),
}


def size_of(name: str) -> ViTSize:
    """The size called ``name``; ConfigError when there is none."""
    if name not in SIZES:
        raise ConfigError(f"model.arch: {name!r} is not one of {', '.join(SIZES)}")
    return SIZES[name]
