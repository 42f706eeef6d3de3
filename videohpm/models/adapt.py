"""The same encoder for clips of another length or size, and between videos and images."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor

from videohpm.grid import TokenGrid
from videohpm.models.vit import VideoViT, position_table


def adapt_encoder(
    encoder: VideoViT,
    *,
    frames: int | None = None,
    image_size: int | tuple[int, int] | None = None,
    tubelet: int | None = None,
    position: str | None = None,
    **changes: Any,
) -> VideoViT:
    """A copy of ``encoder`` made for other clips; what is None stays.

    Fixed position embeddings are computed for the new grid. A video encoder's tubelet embedding is
    summed over time to see images, an image encoder's repeated over the tubelet and divided by its
    length to see videos: either way a repeated frame is embedded as the image is.

    Args:
        position: ``learned`` makes a fixed position embedding a parameter that starts as it was.
        changes: other fields of :class:`ViTConfig` that leave the weights as they are, such as
            drop_path.

    Raises ValueError, one line naming the field, where the weights do not fit the new clips.
    """
    wanted = {"frames": frames, "image_size": image_size, "tubelet": tubelet}
    wanted["position"] = position
    wanted = {name: value for name, value in wanted.items() if value is not None}
    new = VideoViT(replace(encoder.config, **wanted, **changes))
    weights = encoder.state_dict()
    # A final norm that only one of the two has is dropped, or keeps its initial value.
    weights = {k: v for k, v in weights.items() if not k.startswith("norm.")} | {
        k: weights.get(k, v) for k, v in new.state_dict().items() if k.startswith("norm.")
    }
    key = "patch_embed.proj.weight"
    weights[key] = adapt_patch_embed(weights[key], encoder.grid, new.grid)
    if "positions" not in weights and new.config.position == "learned":
        dim = new.config.dim
        weights["positions"] = position_table(encoder.config.position, new.grid, dim)
    elif "positions" in weights:
        weights["positions"] = adapt_positions(weights["positions"], encoder.grid, new.grid)
    new.load_state_dict(weights)
    return new.train(encoder.training)


def adapt_tensor(name: str, tensor: Tensor, old: TokenGrid, new: TokenGrid) -> Tensor:
    """A tensor of any model, by its name there, for other clips; itself where they change nothing.

    Raises ValueError, one line naming the field, where it does not fit them.
    """
    if name.endswith("patch_embed.proj.weight"):
        return adapt_patch_embed(tensor, old, new)
    if name.startswith("decoder.head."):
        return adapt_pixel_head(tensor, old, new)
    if name.endswith("positions"):
        return adapt_positions(tensor, old, new)
    return tensor


def adapt_patch_embed(weight: Tensor, old: TokenGrid, new: TokenGrid) -> Tensor:
    """The embedding [D, 3·τ·p·p] for another tubelet τ, of which one of the two is 1."""
    if old.tubelet == new.tubelet:
        return weight
    planes = weight.unflatten(1, (3, old.tubelet, -1))
    if new.tubelet == 1:
        return planes.sum(2).flatten(1)
    if old.tubelet == 1:
        return (planes.expand(-1, -1, new.tubelet, -1) / new.tubelet).flatten(1)
    raise ValueError(
        f"tubelet: the weights are for {old.tubelet} frames and cannot become {new.tubelet}; keep "
        f"{old.tubelet}, or 1 for images"
    )


def adapt_pixel_head(tensor: Tensor, old: TokenGrid, new: TokenGrid) -> Tensor:
    """Weight [P, d] or bias [P] of a head that predicts pixels, for another tubelet, of which one
    of the two is 1: each frame is predicted as the image was, an image as the mean of the frames.
    """
    if old.tubelet == new.tubelet:
        return tensor
    if new.tubelet == 1:
        return tensor.unflatten(0, (old.tubelet, -1)).mean(0)
    return tensor.repeat(new.tubelet, *[1] * (tensor.ndim - 1))


def adapt_positions(table: Tensor, old: TokenGrid, new: TokenGrid) -> Tensor:
    """A learned table [N, D] for more or fewer time steps, of the same height and width."""
    if (old.h, old.w) != (new.h, new.w):
        raise ValueError(
            f"image_size: the weights have learned positions for {old.height}x{old.width} pixels; "
            f"keep that size"
        )
    if old.t == new.t:
        return table
    if old.t == 1:
        return table.repeat(new.t, 1)
    if new.t == 1:
        return table.view(old.t, -1, table.shape[1]).mean(0)
    raise ValueError(
        f"frames: the weights have learned positions for {old.t} time steps; keep {old.frames} "
        "frames"
    )
