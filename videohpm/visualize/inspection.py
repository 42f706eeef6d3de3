"""What a model predicts for a few clips, as plain arrays that anything can draw."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from videohpm import hpm
from videohpm.grid import Mask, TokenGrid
from videohpm.hpm import PixelTarget, Scorer, Target
from videohpm.models import MaskedAutoencoder

HIDDEN, NOT_DECODED = 0.5, 1.0
"""Grey for what the encoder does not see, white where the decoder predicts nothing; in [0, 1]."""


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
    reconstruction: np.ndarray | None
    """(k, T, H, W, 3) uint8: the decoder's output; white at tokens that it does not predict (the
    visible ones). None where the target is no picture."""
    reconstruction_with_visible: np.ndarray | None
    """(k, T, H, W, 3) uint8: the same with the visible tokens filled in."""
    mask: np.ndarray
    """(k, t, h, w) bool, True = masked."""
    loss: np.ndarray
    """(k, t, h, w) float: how hard each token truly was (its loss, unless the target measures
    otherwise), nan where none is predicted."""
    scores: np.ndarray | None
    """(k, s, h, w) float: the student's predicted hardness, nan where visible; None without it."""
    hardness: np.ndarray | None
    """(k, s, h, w) float: the scorer's hardness of everything; None without a scorer."""
    hard: np.ndarray | None
    """(k, s, h, w) bool: what the scorer chooses to hide; None without a scorer."""
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
    scorer: Scorer | None = None,
    target: Target | None = None,
    shuffle_ids: Tensor | None = None,
    *,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    hard_ratio: float = 1.0,
    loss: str = "mse",
) -> Inspection:
    """Run the model (and what scores its clips) and keep all that is worth drawing.

    Args:
        clips: (k, 3, T, H, W), normalised by ``mean`` and ``std``, on the model's device.
        mask: which tokens are hidden.
        scorer: what chose the hard units, for example the teacher.
        target: what the decoder was trained to predict; None for the pixels that the model names.
        shuffle_ids: (k, units) permutations that the mask was drawn with, for scorers that draw.
        hard_ratio: where no scores chose the mask, ``hard`` marks the int(hard_ratio·masked) units
            of the highest score: at 1 what the scorer would hide if it chose all of it.
        loss: of a token, a name of :data:`videohpm.hpm.TOKEN_LOSSES`.
    """
    grid, training = model.grid, model.training
    target = target or PixelTarget(grid, model.target, mean, std)
    out = model.eval()(clips, mask)
    model.train(training)
    targets = target(clips, mask)
    losses = hpm.TOKEN_LOSSES[loss](out.pixels, targets)
    losses = target.hardness(losses, out.pixels, targets, clips, mask)
    truth = _pixels(clips, mean, std)
    hidden = mask.is_masked.view(-1, grid.t, grid.h, grid.w)
    hidden_pixels = _spread(hidden, grid)
    reconstruction = completed = None
    colours = target.to_pixels(out.pixels, clips, mask)
    if colours is not None:
        picture = _unpatchify(colours, mask, grid)
        reconstruction = _uint8(picture)
        completed = _uint8(picture.where(hidden_pixels, truth))
    hardness = hard = None
    if scorer is not None:
        unit, units = ("token", mask.masked) if mask.tubes is None else ("tube", mask.tubes)
        if shuffle_ids is None:
            shuffle_ids = hpm.random_shuffle_ids(len(clips), hpm.unit_count(grid, unit))
        ranked = hpm.unit_scores(scorer(clips, shuffle_ids), grid, unit)
        if mask.chosen is None:
            hard = _array(_highest(ranked, hpm.hard_count(units.shape[1], hard_ratio)), grid)
        else:
            hard = _array(mask.chosen, grid)
        hardness = _array(ranked.float(), grid)
    return Inspection(
        grid=grid,
        input=_uint8(truth),
        masked=_uint8(truth.where(~hidden_pixels, truth.new_tensor(HIDDEN))),
        reconstruction=reconstruction,
        reconstruction_with_visible=completed,
        mask=hidden.cpu().numpy(),
        loss=_scattered(losses, mask.decoded, grid.num_tokens, grid),
        scores=_scattered_scores(out.scores, mask, grid),
        hardness=hardness,
        hard=hard,
        uses_true_statistics=colours is not None and target.uses_true_statistics,
    )


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
    """(B, K, P) of decoded tokens → (B, 3, T, H, W), white at the others."""
    tokens = pixels.new_full((len(pixels), grid.num_tokens, grid.patch_dim), NOT_DECODED)
    index = mask.decoded[:, :, None].expand(-1, -1, grid.patch_dim)
    return grid.unpatchify(tokens.scatter(1, index, pixels))


def _highest(scores: Tensor, count: int) -> Tensor:
    chosen = torch.zeros_like(scores, dtype=torch.bool)
    return chosen.scatter(1, scores.topk(count, dim=1).indices, True)


def _scattered_scores(scores: Tensor | None, mask: Mask, grid: TokenGrid) -> np.ndarray | None:
    if scores is None:
        return None
    if mask.tubes is not None and scores.shape[1] == mask.tubes.shape[1]:
        return _scattered(scores, mask.tubes, grid.num_tubes, grid)
    return _scattered(scores, mask.decoded, grid.num_tokens, grid)


def _scattered(values: Tensor, index: Tensor, count: int, grid: TokenGrid) -> np.ndarray:
    """(B, K) values at ``index`` of ``count`` units, nan elsewhere: (B, count/(h·w), h, w)."""
    units = values.new_full((len(values), count), float("nan"), dtype=torch.float32)
    return _array(units.scatter(1, index, values.float()), grid)


def _array(values: Tensor, grid: TokenGrid) -> np.ndarray:
    return values.view(len(values), -1, grid.h, grid.w).cpu().numpy()
