"""Sizes by name: encoder and decoder of each, as VideoMAE and VideoMAEv2 publish them."""

from __future__ import annotations

from dataclasses import dataclass

from videohpm.errors import UserError


@dataclass(frozen=True)
class Size:
    """Width, depth and heads of the encoder and of the pixel decoder."""

    dim: int
    depth: int
    heads: int
    decoder_dim: int
    decoder_depth: int
    decoder_heads: int
    mlp_ratio: float = 4.0


SIZES = {
    "vit_tiny": Size(192, 12, 3, 96, 4, 3),
    "vit_small": Size(384, 12, 6, 192, 4, 3),
    "vit_base": Size(768, 12, 12, 384, 4, 6),
    "vit_large": Size(1024, 24, 16, 512, 12, 8),
    "vit_huge": Size(1280, 32, 16, 640, 12, 8),
    "vit_giant": Size(1408, 40, 16, 512, 4, 8, mlp_ratio=48 / 11),
}


def size(name: str) -> Size:
    """The size called ``name``; UserError when there is none."""
    if name not in SIZES:
        raise UserError(f"model.size: there is no {name!r}; choose from {', '.join(SIZES)}")
    return SIZES[name]
