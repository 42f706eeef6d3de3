"""Masks of tubes (or tokens): at random, or of those that are hard (HPM, section 3.3)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from videohpm.config.mask import masked_count, unit_count
from videohpm.grid import Mask, TokenGrid

# --- which units, of all that are ranked -----------------------------------------------------

CHOICE, DECODED, NOISE = 2, 3, 4
"""What is drawn beside a random mask, each from another power of the same permutation."""


def _hardest(scores: Tensor, shuffle_ids: Tensor) -> Tensor:
    return scores


def _easiest(scores: Tensor, shuffle_ids: Tensor) -> Tensor:
    return -scores


def _drawn(scores: Tensor, shuffle_ids: Tensor) -> Tensor:
    """Standardised scores plus Gumbel noise: the highest k of these are k draws without
    replacement with chances as exp(score), so that one deviation more is taken e times as often."""
    scores = scores.float()
    scores = (scores - scores.mean(1, keepdim=True)) / scores.std(1, keepdim=True).clamp(min=1e-12)
    uniform = (drawn_again(shuffle_ids, CHOICE) + 0.5) / shuffle_ids.shape[1]
    return scores - (-uniform.log()).log()


def _skip_hardest(scores: Tensor, shuffle_ids: Tensor) -> Tensor:
    """The hardest eighth comes last: what is hardest of all may be what cannot be inferred."""
    hardest = scores.topk(scores.shape[1] // 8, dim=1).indices
    return scores.scatter(1, hardest, float("-inf"))


CHOICES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "hardest": _hardest,
    "easiest": _easiest,
    "drawn": _drawn,
    "skip_hardest": _skip_hardest,
}
"""By ``mask.choice``: from scores (B, units) and shuffle_ids (B, units), what the highest are
taken of."""


# --- masks -----------------------------------------------------------------------------------


def random_shuffle_ids(batch: int, units: int, generator: torch.Generator | None = None) -> Tensor:
    """The random part of a mask: a permutation of the units for each sample, (B, units)."""
    return torch.rand(batch, units, generator=generator).argsort(1)


def drawn_again(shuffle_ids: Tensor, purpose: int) -> Tensor:
    """Permutations that ``shuffle_ids`` fixes and that say nothing of its order: a power of each.

    What is drawn beside a random mask must not come from the same ids: those masked are the high
    ones.

    Args:
        purpose: the power: ``CHOICE``, ``DECODED`` or ``NOISE``.
    """
    power = shuffle_ids
    for _ in range(purpose - 1):
        power = shuffle_ids.gather(1, power)
    return power


def random_mask(grid: TokenGrid, ratio: float, shuffle_ids: Tensor, unit: str = "tube") -> Mask:
    """Hide the ``ratio`` of units that ``shuffle_ids`` ranks highest: VideoMAE's tube masking.

    Args:
        shuffle_ids: (B, units) permutations, see :func:`random_shuffle_ids`.
    """
    count = masked_count(unit_count(grid, unit), ratio)
    return Mask.from_units(shuffle_ids.topk(count, dim=1).indices, grid, unit)


def hard_mask(
    scores: Tensor,
    grid: TokenGrid,
    ratio: float,
    hard_ratio: float,
    shuffle_ids: Tensor | None = None,
    unit: str = "tube",
) -> Mask:
    """Hide the units of the highest scores, and random ones among the rest.

    Of the int(ratio·units) masked units, int(hard_ratio·masked) are those of the highest score;
    ``shuffle_ids`` chooses the others uniformly from what is left. At share 0 this is
    :func:`random_mask`, bit for bit. (HPM, section 3.3, "easy-to-hard mask generation".)

    Args:
        scores: (B, L) by tube or (B, N) by token; for tubes, token scores are averaged over time.
        shuffle_ids: (B, units) permutations; drawn here when None.
    """
    units = unit_count(grid, unit)
    scores = unit_scores(scores, grid, unit)
    if shuffle_ids is None:
        shuffle_ids = random_shuffle_ids(len(scores), units).to(scores.device)
    hard = hard_count(masked_count(units, ratio), hard_ratio)
    hardest = scores.topk(hard, dim=1).indices
    mask = random_mask(grid, ratio, shuffle_ids.scatter(1, hardest, units), unit)
    return replace(mask, scores=scores, chosen=flags(hardest, units)) if hard else mask


def flags(index: Tensor, units: int) -> Tensor:
    """(B, K) numbers of units → (B, units) bool."""
    none = torch.zeros(len(index), units, dtype=torch.bool, device=index.device)
    return none.scatter(1, index, True)


def unit_scores(scores: Tensor, grid: TokenGrid, unit: str = "tube") -> Tensor:
    """Scores (B, units) of what a mask is made of: those of tokens are averaged over a tube's time.

    Raises ValueError where there is none for each unit.
    """
    units = unit_count(grid, unit)
    if unit == "tube" and scores.shape[1] != units and scores.shape[1] == grid.num_tokens:
        scores = scores.view(-1, grid.t, grid.num_tubes).mean(1)
    if scores.shape[1] != units:
        raise ValueError(f"scores: {scores.shape[1]} of a sample, where there are {units} {unit}s")
    return scores


def subsample_decoded(mask: Mask, grid: TokenGrid, share: float, shuffle_ids: Tensor) -> Mask:
    """Have only a share of the masked tokens reconstructed (VideoMAEv2's dual masking).

    Of each masked tube the same number of time steps, round(share·t) but at least one, evenly
    spread; at which step a tube begins is drawn. Of masked tokens that are no tubes, a random part.

    Args:
        shuffle_ids: (B, units) permutations, see :func:`random_shuffle_ids`: the random part of
            this too.
    """
    if share == 1:
        return mask
    if mask.tubes is None:
        count = max(1, round(share * mask.masked.shape[1]))
        again = drawn_again(shuffle_ids, DECODED).gather(1, mask.masked)
        chosen = again.topk(count, dim=1).indices.sort(dim=1).values
        return replace(mask, decoded_subset=mask.masked.gather(1, chosen))
    count = max(1, round(share * grid.t))
    apart = torch.arange(count, device=shuffle_ids.device)[:, None] * grid.t // count
    step = (shuffle_ids.gather(1, mask.tubes)[:, None] + apart) % grid.t
    return replace(mask, decoded_subset=(step * grid.num_tubes + mask.tubes[:, None]).flatten(1))


def hard_count(masked: int, hard_ratio: float) -> int:
    """int(hard_ratio·masked): how many of the masked units are chosen by their scores."""
    return int(hard_ratio * masked)
