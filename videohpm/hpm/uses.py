"""What scores are used for: which units are hidden, which are reconstructed, what they weigh.

A use gets scores in the order that ``mask.choice`` gives them, and makes the mask of a step. How
far it follows them is the hard share α, which rises from easy to hard; at 0 all masks are random.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from videohpm.config.mask import MaskConfig
from videohpm.grid import Mask, TokenGrid
from videohpm.hpm.masking import (
    CHOICES,
    flags,
    hard_count,
    hard_mask,
    masked_count,
    random_mask,
    subsample_decoded,
    unit_count,
    unit_scores,
)
from videohpm.hpm.scorers import Scorer


def draw_mask(
    scorer: Scorer | None,
    clips: Tensor,
    shuffle_ids: Tensor,
    grid: TokenGrid,
    config: MaskConfig,
    hard_ratio: float,
    *,
    decode_all: bool = False,
) -> Mask:
    """The mask of a step: hides the units of the highest scores, or whatever ``config.use`` says.

    Without a scorer, or where the hard share is less than one unit (then it is not called), all is
    random: VideoMAE's masks. (HPM, section 3.3; the decoded part: VideoMAEv2.)

    Args:
        clips: (B, 3, T, H, W), normalised.
        shuffle_ids: (B, units) permutations, the random part; see
            :func:`videohpm.hpm.random_shuffle_ids`.
        config: how much is hidden, how it is chosen, and how much of it is reconstructed.
        hard_ratio: α, the share that the scorer chooses.
        decode_all: reconstruct all that is masked, whatever ``decode_ratio``: for pictures.
    """
    shuffle_ids = shuffle_ids.to(clips.device, non_blocking=True)
    masked = masked_count(unit_count(grid, config.unit), config.ratio)
    scores = ranked = None
    if scorer is not None and hard_count(masked, hard_ratio):
        with torch.no_grad():
            scores = unit_scores(scorer(clips, shuffle_ids), grid, config.unit)
            ranked = CHOICES[config.choice](scores, shuffle_ids)
    mask = USES[config.use](ranked, shuffle_ids, grid, config, hard_ratio)
    mask = replace(mask, scores=scores)
    if not decode_all:
        return mask
    # Of the first time step; tokens have the numbers of their tubes there.
    first_step = mask.masked[:, : mask.masked.shape[1] // grid.t]
    tubes = None if mask.tubes is None else first_step
    return replace(mask, tubes=tubes, decoded_subset=None, weights=None)


def _hide(
    ranked: Tensor | None, shuffle_ids: Tensor, grid: TokenGrid, config: MaskConfig, share: float
) -> Mask:
    """The highest are hidden, α of all that is (HPM)."""
    if ranked is None:
        mask = random_mask(grid, config.ratio, shuffle_ids, config.unit)
    else:
        mask = hard_mask(ranked, grid, config.ratio, share, shuffle_ids, config.unit)
    return subsample_decoded(mask, grid, config.decode_ratio, shuffle_ids)


def _decode(
    ranked: Tensor | None, shuffle_ids: Tensor, grid: TokenGrid, config: MaskConfig, share: float
) -> Mask:
    """What is hidden is random; of that the highest are reconstructed, α of all that is.

    A tube is reconstructed at all its time steps or at none, so that the decoder and the loss
    predictor get fewer queries. (The adaptive decoder mask of LVMAE.)
    """
    mask = random_mask(grid, config.ratio, shuffle_ids, config.unit)
    hidden = mask.masked if mask.tubes is None else mask.tubes
    count = max(1, round(config.decode_ratio * hidden.shape[1]))
    order, chosen = shuffle_ids.gather(1, hidden), None
    if ranked is not None:
        highest = ranked.gather(1, hidden).topk(hard_count(count, share), dim=1).indices
        order = order.scatter(1, highest, shuffle_ids.shape[1])
        chosen = flags(hidden.gather(1, highest), shuffle_ids.shape[1])
    decoded = hidden.gather(1, order.topk(count, dim=1).indices.sort(dim=1).values)
    if mask.tubes is None:
        return replace(mask, decoded_subset=decoded, chosen=chosen)
    tokens = grid.tokens_of_tubes(decoded)
    return replace(mask, tubes=decoded, decoded_subset=tokens, chosen=chosen)


def _weight(
    ranked: Tensor | None, shuffle_ids: Tensor, grid: TokenGrid, config: MaskConfig, share: float
) -> Mask:
    """What is hidden is random; the loss of the lowest weighs 1 − α, that of the highest 1 + α.

    In between weights rise evenly with the rank, whatever the scale of the scores; their mean is 1.
    """
    mask = random_mask(grid, config.ratio, shuffle_ids, config.unit)
    mask = subsample_decoded(mask, grid, config.decode_ratio, shuffle_ids)
    if ranked is None:
        return mask
    hidden = mask.decoded if mask.tubes is None else mask.tubes
    count = hidden.shape[1]
    rank = ranked.gather(1, hidden).argsort(1).argsort(1).float()
    weights = 1 + share * (2 * rank - (count - 1)) / max(1, count - 1)
    above = rank >= count - hard_count(count, share)
    chosen = torch.zeros_like(ranked, dtype=torch.bool).scatter(1, hidden, above)
    steps = mask.decoded.shape[1] // count  # decoded ones of a tube, step by step
    return replace(mask, weights=weights.repeat(1, steps), chosen=chosen)


def _sample(
    ranked: Tensor | None, shuffle_ids: Tensor, grid: TokenGrid, config: MaskConfig, share: float
) -> Mask:
    """What is hidden is random: clips are chosen, see :class:`videohpm.hpm.ClipSampling`."""
    return _hide(None, shuffle_ids, grid, config, share)


Use = Callable[[Tensor | None, Tensor, TokenGrid, MaskConfig, float], Mask]
USES: dict[str, Use] = {"hide": _hide, "decode": _decode, "weight": _weight, "sample": _sample}
"""By ``mask.use``: from scores (B, units) in the order of choice (None: all is random), the
shuffle_ids, the grid, the configuration and α, the mask."""
