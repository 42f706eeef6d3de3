"""Where masks come from: how hard is each tube, and the mask that follows from it.

A scorer that is not here yet: CONTRIBUTING.md, "How to add a scorer".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor, nn

from videohpm.config import MaskConfig, PretrainConfig
from videohpm.grid import Mask, TokenGrid
from videohpm.hpm.masking import (
    hard_count,
    hard_mask,
    masked_count,
    random_mask,
    subsample_decoded,
    unit_count,
)
from videohpm.hpm.teacher import LossTeacher
from videohpm.models import MaskedAutoencoder


class Scorer(Protocol):
    """How hard each tube is: what training hides first.

    A class that derives from this one needs ``__call__`` only. One that is a
    :class:`torch.nn.Module` is moved to the device of the model.
    """

    def __call__(self, clips: Tensor) -> Tensor:
        """Hardness, larger = harder, of which only the order counts. Called without gradient.

        Args:
            clips: (B, 3, T, H, W), normalised.

        Returns:
            (B, L) by tube, or (B, N) by token: then tubes are ranked by their mean over time.
        """
        ...

    def after_step(self, student: nn.Module, momentum: float) -> None:
        """Called after each optimiser step that moved the weights.

        Args:
            student: the model in training.
            momentum: of moving averages, at this step of the run.
        """


class CenteredScorer(nn.Module):
    """Hardness beyond position: scores less their running mean at each unit's position.

    Centering as DINO's teacher does it, for each unit instead of each output: what is hard at a
    position in all clips no longer says where to mask, what is hard in this clip does.

    Args:
        scorer: whose scores are centered.
        momentum: of the running mean; it begins at the first batch's.
        all_reduce: adds a tensor up over the processes of the run, in place; None in one process.

    Attributes:
        center: (units,) the running mean, None before the first step with scores.
    """

    def __init__(
        self,
        scorer: Scorer,
        momentum: float = 0.9,
        all_reduce: Callable[[Tensor], Tensor] | None = None,
    ):
        super().__init__()
        self.scorer, self.momentum, self.all_reduce = scorer, momentum, all_reduce
        self.center: Tensor | None = None
        self._sums: Tensor | None = None  # of the step's scores; the last one counts the clips

    def forward(self, clips: Tensor) -> Tensor:
        """Scores less their center; within a step all batches have the same.

        In evaluation mode, as for pictures, the scores do not enter the running mean.
        """
        scores = self.scorer(clips).float()
        if self.training:
            sums = torch.cat([scores.sum(0), scores.new_full((1,), len(scores))])
            self._sums = sums if self._sums is None else self._sums + sums
        return scores if self.center is None else scores - self.center.to(scores.device)

    def after_step(self, student: nn.Module, momentum: float) -> None:
        """Move the center by the mean over the global batch, and let the scorer follow."""
        self.scorer.after_step(student, momentum)
        if self._sums is None:
            return
        sums = self._sums if self.all_reduce is None else self.all_reduce(self._sums)
        mean = sums[:-1] / sums[-1]
        before = mean if self.center is None else self.center.to(mean.device)
        self.center, self._sums = before.lerp(mean, 1 - self.momentum), None


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
    """Hide the ``hard_ratio`` of masked units that the scorer finds hardest, and random ones.

    Without a scorer, or where the hard share is less than one unit (then it is not called), all
    are random: VideoMAE's masks. (HPM, section 3.3; the decoded part: VideoMAEv2.)

    Args:
        clips: (B, 3, T, H, W), normalised.
        shuffle_ids: (B, units) permutations, the random part; see :func:`random_shuffle_ids`.
        config: how much is hidden, and of that reconstructed.
        hard_ratio: α, the share of the masked units that the scorer chooses.
        decode_all: reconstruct all that is masked, whatever ``decode_ratio``: for pictures.
    """
    ratio, unit = config.ratio, config.unit
    shuffle_ids = shuffle_ids.to(clips.device, non_blocking=True)
    hard = hard_count(masked_count(unit_count(grid, unit), ratio), hard_ratio)
    if scorer is None or hard == 0:
        mask = random_mask(grid, ratio, shuffle_ids, unit)
    else:
        with torch.no_grad():
            scores = scorer(clips)
        mask = hard_mask(scores, grid, ratio, hard_ratio, shuffle_ids, unit)
    if decode_all:
        return mask
    return subsample_decoded(mask, grid, config.decode_ratio, shuffle_ids)


def _loss_teacher(student: MaskedAutoencoder, config: PretrainConfig) -> LossTeacher:
    return LossTeacher(
        student, config.hpm.teacher_samples_per_tube or None, config.hpm.score_readout
    )


def _no_scorer(student: MaskedAutoencoder, config: PretrainConfig) -> None:
    return None


SCORERS: dict[str, Callable[[MaskedAutoencoder, PretrainConfig], Scorer | None]] = {
    "loss_teacher": _loss_teacher,
    "none": _no_scorer,
}
"""By ``mask.scorer``: from the student and the run's configuration, the scorer; None: random."""
