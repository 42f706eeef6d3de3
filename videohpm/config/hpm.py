"""Hard Patches Mining: the loss predictor, its teacher, and from easy to hard."""

from __future__ import annotations

from dataclasses import dataclass

from videohpm.config.checks import Section

PREDICTORS = ("tube", "token")
OBJECTIVES = ("relative", "absolute")
READOUTS = ("query", "visible")


@dataclass(frozen=True, kw_only=True)
class HPMConfig:
    """Hard Patches Mining: the loss predictor, its teacher, and from easy to hard.

    Args:
        enabled: false is VideoMAE (in image mode MAE): no predictor and no teacher.
        predictor_unit: one score a tube, or one a token (as published).
        predictor_depth: blocks of the predictor; empty for as many as the pixel decoder.
        predictor_detach: stop the predictor's gradient before the encoder (the paper does not).
        objective: relative (which of two is harder) or absolute (how hard).
        weight: of the predictor's loss beside the reconstruction loss.
        hard_ratio_start: share of the masked units that mask.scorer chooses, at the start.
        hard_ratio_end: the same at the end; linear in between.
        teacher_samples_per_tube: at how many of its time steps the teacher sees each tube; 0 for
            all of them (as published).
        score_readout: scores read at a mask query for each tube, or at its visible tokens (as
            published).
        momentum_start: of the teacher's moving average, at the start.
        momentum_end: the same once the ramp is over.
        momentum_epochs: length of the ramp in epochs.
        momentum_steps: the same in optimiser steps; wins over momentum_epochs where given.
    """

    enabled: bool = True
    predictor_unit: str = "tube"
    predictor_depth: int | None = None
    predictor_detach: bool = False
    objective: str = "relative"
    weight: float = 1.0
    hard_ratio_start: float = 0.0
    hard_ratio_end: float = 0.5
    teacher_samples_per_tube: int = 1
    score_readout: str = "query"
    momentum_start: float = 0.999
    momentum_end: float = 0.9999
    momentum_epochs: float = 100.0
    momentum_steps: int | None = None

    def __post_init__(self):
        check = Section(self, "hpm")
        check.choice("predictor_unit", PREDICTORS)
        check.choice("objective", OBJECTIVES)
        check.choice("score_readout", READOUTS)
        check.at_least(1, "predictor_depth", "momentum_steps")
        check.fraction("hard_ratio_start", "hard_ratio_end", "momentum_start", "momentum_end")
        check.at_least(0, "weight", "teacher_samples_per_tube")
        check.at_least(0, "momentum_epochs", finite=False)

    def momentum_progress(self, step: int, steps_per_epoch: float) -> float:
        """How far the teacher's momentum has risen by optimiser step ``step``, in [0, 1]."""
        ramp = self.momentum_steps or self.momentum_epochs * steps_per_epoch
        return min(1.0, step / ramp) if ramp else 1.0
