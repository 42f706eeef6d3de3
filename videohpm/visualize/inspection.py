"""What the model says of a few clips, as plain arrays that anything can draw."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from videohpm import hpm
from videohpm.grid import Mask, TokenGrid
from videohpm.hpm import LossTeacher
from videohpm.models import MaskedAutoencoder

HIDDEN, UNSAID = 0.5, 1.0
"""Grey for what the encoder does not see, white where the decoder says nothing; in [0, 1]."""


@dataclass(frozen=True)
class Inspection:
    """k clips as the model sees them. Scores of a tube have one time step, s = 1; of a token s = t.

    Only the order of scores counts (they are trained by ranking), so pictures show their ranks.
    """

    grid: TokenGrid
    input: np.ndarray
    """(k, T, H, W, 3) uint8."""
    masked: np.ndarray
    """(k, T, H, W, 3) uint8: what is visible; the rest is grey."""
    reconstruction: np.ndarray
    """(k, T, H, W, 3) uint8: the decoder's output; white where it says nothing (visible tokens)."""
    reconstruction_with_visible: np.ndarray
    """(k, T, H, W, 3) uint8: the same with the visible tokens pasted in."""
    mask: np.ndarray
    """(k, t, h, w) bool, True = masked."""
    loss: np.ndarray
    """(k, t, h, w) float: the true loss of each token, nan where it is visible."""
    scores: np.ndarray | None
    """(k, s, h, w) float: the student's predicted hardness, nan where visible; None without it."""
    hardness: np.ndarray | None
    """(k, s, h, w) float: the teacher's hardness of everything; None without a teacher."""
    hard: np.ndarray | None
    """(k, s, h, w) bool: what the teacher chooses to hide; None without a teacher."""
    uses_true_statistics: bool
    """Whether mean and deviation of the true pixels went into the reconstruction's colours."""

    def first(self, count: int) -> Inspection:
        """The same of the first ``count`` clips only."""
        arrays = {k: v[:count] for k, v in vars(self).items() if isinstance(v, np.ndarray)}
        return replace(self, **arrays)


@torch.no_grad()
def inspect(
    model: MaskedAutoencoder,
    clips: Tensor,
    mask: Mask,
    teacher: LossTeacher | None = None,
    *,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    hard_ratio: float = 1.0,
) -> Inspection:
    """Run the model (and its teacher) on clips and keep all that is worth looking at.

    Args:
        clips: (k, 3, T, H, W), normalised by ``mean`` and ``std``, on the model's device.
        mask: which tokens are hidden.
        hard_ratio: ``hard`` marks the int(hard_ratio·masked) units of the highest score. At 1 it
            marks what the teacher would hide if all the choice were its own.
    """
    grid, training = model.grid, model.training
    out = model.eval()(clips, mask)
    model.train(training)
    losses = hpm.reconstruction_loss(out.pixels, clips, mask, grid, model.target, std)
    colours = predicted_pixels(out.pixels, clips, mask, grid, model.target, mean, std)
    truth = _pixels(clips, mean, std)
    hidden = mask.is_masked.view(-1, grid.t, grid.h, grid.w)
    hidden_pixels = _spread(hidden, grid)
    reconstruction = _unpatchify(colours, mask, grid)
    hardness = hard = None
    if teacher is not None:
        units = mask.masked if mask.tubes is None else mask.tubes
        hardness = _by_unit(teacher(clips), mask, grid)
        hard = _array(_highest(hardness, hpm.hard_count(units.shape[1], hard_ratio)), grid)
        hardness = _array(hardness.float(), grid)
    return Inspection(
        grid=grid,
        input=_uint8(truth),
        masked=_uint8(truth.where(~hidden_pixels, truth.new_tensor(HIDDEN))),
        reconstruction=_uint8(reconstruction),
        reconstruction_with_visible=_uint8(reconstruction.where(hidden_pixels, truth)),
        mask=hidden.cpu().numpy(),
        loss=_place(losses, mask.masked, grid.num_tokens, grid),
        scores=_place_scores(out.scores, mask, grid),
        hardness=hardness,
        hard=hard,
        uses_true_statistics=model.target != "raw",
    )


def predicted_pixels(
    predicted: Tensor,
    clips: Tensor,
    mask: Mask,
    grid: TokenGrid,
    target: str,
    mean: tuple[float, ...],
    std: tuple[float, ...],
) -> Tensor:
    """The inverse of :func:`videohpm.hpm.pixel_targets`, as colours in [0, 1]: (B, M, P) fp32.

    Standardised targets have lost each token's brightness and contrast: the true token's own are
    put back, so such a picture shows more than the model has said.
    """
    predicted = predicted.float().unflatten(-1, (-1, 3))
    scale, shift = predicted.new_tensor(std), predicted.new_tensor(mean)
    if target == "raw":
        return (predicted * scale + shift).flatten(-2)
    truth = grid.patchify(clips, mask.masked).float().unflatten(-1, (-1, 3))
    if target == "per_channel":
        variance, average = torch.var_mean(truth * scale + shift, dim=-2, keepdim=True)
        return (predicted * (variance.sqrt() + 1e-6) + average).flatten(-2)
    if target != "joint":
        raise ValueError(f"target: {target!r} cannot be turned back into pixels")
    variance, average = torch.var_mean(truth, dim=(-2, -1), keepdim=True)
    normalised = predicted * (variance + 1e-6).sqrt() + average
    return (normalised * scale + shift).flatten(-2)


def _pixels(clips: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """(B, 3, T, H, W) normalised → colours in [0, 1]."""
    shape = (1, 3, 1, 1, 1)
    clips = clips.float()
    return clips * clips.new_tensor(std).view(shape) + clips.new_tensor(mean).view(shape)


def _uint8(colours: Tensor) -> np.ndarray:
    """(B, 3, T, H, W) in [0, 1] → (B, T, H, W, 3) uint8."""
    colours = (colours * 255).round().clamp(0, 255).byte()
    return colours.permute(0, 2, 3, 4, 1).contiguous().cpu().numpy()


def _spread(values: Tensor, grid: TokenGrid) -> Tensor:
    """(B, t, h, w) of tokens → (B, 1, T, H, W) of pixels."""
    values = values.repeat_interleave(grid.tubelet, 1)
    return values.repeat_interleave(grid.patch, 2).repeat_interleave(grid.patch, 3)[:, None]


def _unpatchify(pixels: Tensor, mask: Mask, grid: TokenGrid) -> Tensor:
    """(B, M, P) of masked tokens → (B, 3, T, H, W), white at the others."""
    every = pixels.new_full((len(pixels), grid.num_tokens, grid.patch_dim), UNSAID)
    index = mask.masked[:, :, None].expand(-1, -1, grid.patch_dim)
    return grid.unpatchify(every.scatter(1, index, pixels))


def _by_unit(scores: Tensor, mask: Mask, grid: TokenGrid) -> Tensor:
    """Scores of the unit that the mask is made of, as :func:`videohpm.hpm.hard_mask` takes them."""
    if mask.tubes is not None and scores.shape[1] != grid.num_tubes:
        return scores.view(-1, grid.t, grid.num_tubes).mean(1)
    return scores


def _highest(scores: Tensor, count: int) -> Tensor:
    chosen = torch.zeros_like(scores, dtype=torch.bool)
    return chosen.scatter(1, scores.topk(count, dim=1).indices, True)


def _place_scores(scores: Tensor | None, mask: Mask, grid: TokenGrid) -> np.ndarray | None:
    if scores is None:
        return None
    if scores.shape[1] == mask.masked.shape[1]:
        return _place(scores, mask.masked, grid.num_tokens, grid)
    return _place(scores, mask.tubes, grid.num_tubes, grid)


def _place(values: Tensor, index: Tensor, count: int, grid: TokenGrid) -> np.ndarray:
    """(B, K) values at ``index`` of ``count`` units, nan elsewhere: (B, count/(h·w), h, w)."""
    every = values.new_full((len(values), count), float("nan"), dtype=torch.float32)
    return _array(every.scatter(1, index, values.float()), grid)


def _array(values: Tensor, grid: TokenGrid) -> np.ndarray:
    return values.view(len(values), -1, grid.h, grid.w).cpu().numpy()
