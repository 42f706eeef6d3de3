"""Is the predictor right, and where are the tubes that are chosen as hard? For the report."""

from __future__ import annotations

import numpy as np

from videohpm.visualize.inspection import Inspection
from videohpm.visualize.pictures import rank_order


def diagnostics(seen: Inspection, bins: int = 10) -> dict:
    """What a run keeps of an inspection: plain numbers, as JSON holds them.

    The more clips the steadier: 8 or more. Written as ``diagnostics/step_00000100.json``.

    Returns:
        ``clips``: how many there are. ``calibration``: see :func:`calibration`, None without a
        predictor. ``maps``: (h, w) lists over the frame, each mean over clips and time: ``loss``
        (None at a position that was never hidden), ``masked`` (share of the time), and with a
        scorer ``hardness`` (rank, 0 easiest to 1 hardest) and ``hard`` (share of the time it was
        chosen).
    """
    maps = {"loss": _mean_over(seen.loss), "masked": _mean_over(seen.mask)}
    if seen.hardness is not None and seen.hard is not None:
        maps |= {"hardness": _mean_over(rank_order(seen.hardness)), "hard": _mean_over(seen.hard)}
    return {
        "clips": len(seen.mask),
        "calibration": calibration(seen, bins),
        "maps": {name: _plain(values) for name, values in maps.items()},
    }


def calibration(seen: Inspection, bins: int = 10) -> dict | None:
    """True loss of the hidden units, sorted by what was predicted: None without a predictor.

    Each clip's hidden units (tubes, or tokens, as the predictor scores them) are ranked by
    predicted loss and put into ``bins`` of equal width, the lowest ranks first.

    Returns:
        Lists with one number a bin: ``loss`` (mean true loss of its units), ``best`` (what the
        mean would be if the predictor ordered them rightly), ``count``. A bin without units has
        None for a mean.
    """
    if seen.scores is None:
        return None
    hidden = ~np.isnan(seen.scores)
    losses = seen.loss
    if seen.scores.shape[1] == 1:  # a tube is hidden at every time step or at none
        losses = losses.mean(1, keepdims=True)
    predicted = np.minimum((rank_order(seen.scores)[hidden] * bins).astype(int), bins - 1)
    ideal = np.minimum((rank_order(losses)[hidden] * bins).astype(int), bins - 1)
    return {
        "loss": _plain(_means(losses[hidden], predicted, bins)),
        "best": _plain(_means(losses[hidden], ideal, bins)),
        "count": np.bincount(predicted, minlength=bins).tolist(),
    }


def _means(values: np.ndarray, groups: np.ndarray, count: int) -> np.ndarray:
    sizes = np.bincount(groups, minlength=count)
    totals = np.bincount(groups, weights=values, minlength=count)
    return np.where(sizes > 0, totals / np.maximum(sizes, 1), np.nan)


def _mean_over(values: np.ndarray) -> np.ndarray:
    """(k, s, h, w) → (h, w), over what is not nan; nan where nothing else is."""
    known = ~np.isnan(values.astype(float))
    total = np.where(known, values, 0).sum((0, 1))
    return np.where(known.any((0, 1)), total / np.maximum(known.sum((0, 1)), 1), np.nan)


def _plain(values: np.ndarray) -> list:
    """Nested lists of rounded numbers; None for what is not finite, since JSON has no nan."""
    if values.ndim > 1:
        return [_plain(row) for row in values]
    return [round(float(v), 5) if np.isfinite(v) else None for v in values]
