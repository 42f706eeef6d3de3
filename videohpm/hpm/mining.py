"""Does the teacher mine, or does it hide the same positions in every clip?

A teacher whose ranking depends on the position alone does no better than a fixed map: whatever is
in the clip, the same tubes are hidden. :class:`PositionStatistics` measures how much of a ranking
is such a map. It keeps only sums for each position, on the device, so that it costs little at every
step, and sums of several ranks add up to those of one process.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from videohpm.grid import Mask
from videohpm.hpm.clip_sampling import ClipSampling

HARD_FRACTION = 0.25
"""The hardest quarter of a clip's units is its hard set, whatever the share that is hidden."""


class PositionStatistics:
    """Sums over clips, for each position, of ranks and of membership in the hardest units.

    The clips of an update may show different units, as long as each shows the same number: a
    teacher scores all of them, the true loss is known of the masked ones only.

    Args:
        units: how many tubes (or tokens) a clip has.
        hard_fraction: share of the shown units that counts as the hard set of a clip.

    Attributes:
        sums: (4, units + 1) float64: for each position the clips that showed it, the sum and the
            sum of squares of its ranks, and the clips in whose hard set it was. The last column
            holds the number of clips.
    """

    def __init__(self, units: int, hard_fraction: float, device: torch.device | str = "cpu"):
        self.units, self.hard_fraction = units, hard_fraction
        self.sums = torch.zeros(4, units + 1, dtype=torch.float64, device=device)

    @torch.no_grad()
    def update(self, hardness: Tensor, positions: Tensor | None = None) -> None:
        """Add the clips of a batch.

        Args:
            hardness: (B, K), larger = harder; only the order within a clip counts.
            positions: (B, K) numbers of the units; None where all of them are shown, in order.
        """
        batch, shown = hardness.shape
        if positions is None:
            positions = torch.arange(self.units, device=hardness.device).expand(batch, -1)
        order = hardness.argsort(1).argsort(1)
        ranks = order.double() / max(1, shown - 1)
        hard = (order >= shown - self.hard_count(shown)).double()
        values = torch.stack([torch.ones_like(ranks), ranks, ranks.square(), hard])
        index = positions.reshape(1, -1).expand(4, -1)
        self.sums[:, : self.units].scatter_add_(1, index, values.flatten(1))
        self.sums[0, self.units] += batch

    def hard_count(self, shown: int) -> int:
        """Size of the hard set of a clip that shows so many units: at least one."""
        return max(1, int(self.hard_fraction * shown))

    def reset(self) -> None:
        """Forget all clips."""
        self.sums.zero_()


class MiningStatistics:
    """What the masks and losses of a run say about its mining, between two lines of the log.

    Args:
        units: how many tubes (or tokens) a mask chooses from.
        hard_fraction: share of the units that counts as hard; of the masked ones, for true losses.
        clips: is told how hard each clip was, too.
    """

    def __init__(
        self,
        units: int,
        hard_fraction: float = HARD_FRACTION,
        device: torch.device | str = "cpu",
        clips: ClipSampling | None = None,
    ):
        self.clips = clips
        self.chosen = PositionStatistics(units, hard_fraction, device)
        self.true = PositionStatistics(units, hard_fraction, device)
        # At each position, of clips that hid it: count, sums of x, y, x², y², xy of two rankings.
        self.pairs = torch.zeros(6, units + 1, dtype=torch.float64, device=device)

    def update(self, mask: Mask, losses: Tensor, index: Tensor | None = None) -> None:
        """Add a batch.

        Args:
            mask: with its scores, where it was drawn by any.
            losses: (B, M) true losses of the masked units: of tubes, where tubes are masked.
            index: (B,) the samples that the clips were cut from, where that matters.
        """
        if self.clips is not None and index is not None:
            self.clips.add(index, losses)
        positions = mask.decoded if mask.tubes is None else mask.tubes
        self.true.update(losses, positions)
        if mask.scores is not None:
            self.chosen.update(mask.scores)
            self._update_pairs(mask.scores.gather(1, positions), losses, positions)

    def _update_pairs(self, scores: Tensor, losses: Tensor, positions: Tensor) -> None:
        x, y = (v.argsort(1).argsort(1).double() / max(1, v.shape[1] - 1) for v in (scores, losses))
        values = torch.stack([torch.ones_like(x), x, y, x * x, y * y, x * y])
        self.pairs.scatter_add_(1, positions.reshape(1, -1).expand(6, -1), values.flatten(1))

    def sums(self) -> Tensor:
        """What adds up over processes: (14, units + 1)."""
        return torch.cat([self.chosen.sums, self.true.sums, self.pairs])

    def reset(self) -> None:
        """Forget all batches."""
        self.chosen.reset()
        self.true.reset()
        self.pairs.zero_()


def mining_metrics(sums: Tensor) -> dict[str, float | None]:
    """The numbers for the log; None where there was nothing to measure, or too little.

    Args:
        sums: of :class:`MiningStatistics`, added over processes.

    Returns:
        ``position_share`` and ``choice_overlap`` of the teacher's scores, ``true_position_share``
        and ``true_choice_overlap`` of the true losses, which say how much there is to find, and
        ``beyond_position``: how well scores and losses agree on what the position does not explain.
    """
    chosen, true, pairs = sums.cpu().split([4, 4, 6])
    metrics = {
        "position_share": float(position_share(chosen)),
        "choice_overlap": float(choice_overlap(chosen)),
        "beyond_position": float(beyond_position(pairs)),
        "true_position_share": float(position_share(true)),
        "true_choice_overlap": float(choice_overlap(true)),
    }
    return {name: value if math.isfinite(value) else None for name, value in metrics.items()}


def position_share(sums: Tensor) -> Tensor:
    """Share of the variance of ranks that the position explains: a scalar, nan when unknown.

    1 where every clip is ranked alike, 0 where the position says nothing. Sampling noise is taken
    off (the ε² of a one-way analysis of variance), so that few clips do not look like a map; it may
    therefore come out slightly below 0.

    Args:
        sums: of :class:`PositionStatistics`, of one process or added over several.
    """
    count, total, squares = sums[:3, :-1]
    shown = count > 0
    clips, groups = count.sum(), shown.sum()
    mean = total.sum() / clips
    everything = squares.sum() - clips * mean.square()
    between = (total.square() / count.clamp(min=1)).sum() - clips * mean.square()
    within = (everything - between) / (clips - groups)
    return (between - (groups - 1) * within) / everything


def choice_overlap(sums: Tensor) -> Tensor:
    """How much the hard sets of two clips share, beyond chance: a scalar, nan when unknown.

    1 where all clips have the same hard set, 0 where two of them share what two random sets of
    their sizes share. Where clips do not show all units, a position counts in those that show it.

    Args:
        sums: as for :func:`position_share`.
    """
    count, hard = sums[0, :-1], sums[3, :-1]
    paired = count > 1
    count, hard = count[paired], hard[paired]
    # Of two different clips that show a position: the chance that it is hard in both, unbiased.
    both = (hard * (hard - 1) / (count * (count - 1))).mean()
    one = (hard / count).mean()
    return (both - one.square()) / (one - one.square())


def beyond_position(pairs: Tensor) -> Tensor:
    """Correlation of two rankings within positions: a scalar, nan when unknown.

    Over all clips together, of ranks less the mean rank that their position has in each ranking: 0
    for a fixed map, whatever it is.

    Args:
        pairs: (6, units + 1), at each position count and sums of x, y, x², y² and xy.
    """
    count, x, y, xx, yy, xy = pairs
    count = count.clamp(min=1)
    covariance = (xy - x * y / count).sum()
    variances = (xx - x.square() / count).sum() * (yy - y.square() / count).sum()
    return covariance / variances.sqrt()
