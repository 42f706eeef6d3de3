"""Hard Patches Mining: the loss predictor, its teacher, and from easy to hard."""

from __future__ import annotations

from dataclasses import dataclass

from videohpm.config.architecture import PREDICTORS
from videohpm.config.checks import Section
from videohpm.errors import ConfigError

OBJECTIVES = ("relative", "absolute")
READOUTS = ("query", "visible")
HARDNESS = ("loss", "pixels")
PUBLISHED_MOMENTUM = (0.999, 0.9999, 100.0)
"""At the start, at the end, and the epochs between them (HPM, ImageNet-1K)."""


@dataclass(frozen=True, kw_only=True)
class HPMConfig:
    """Hard Patches Mining: the loss predictor, its teacher, and from easy to hard.

    Args:
        enabled: false is VideoMAE (in image mode MAE): no predictor and no teacher.
        predictor_unit: one score a tube, or one a token (as published).
        predictor_depth: blocks of the predictor; null for as many as the pixel decoder (as
            published).
        predictor_detach: stop the predictor's gradient before the encoder (the paper does not).
        objective: relative (which of two is harder) or absolute (how hard).
        hardness: what makes a tube hard: loss, its reconstruction loss; pixels, the error of the
            same prediction in pixels, whatever model.target standardises: flat tubes, which are
            noise once they are standardised, are then easy. Empty: pixels, for targets that are
            pixels.
        weight: of the predictor's loss beside the reconstruction loss.
        hard_ratio_start: share of the masked units that mask.scorer chooses, at the start.
        hard_ratio_end: the same at the end; linear in between.
        teacher_samples_per_tube: at how many of its time steps the teacher sees each tube; 0 for
            all of them (as published). Below 1 it is the share of the tubes (in images, of the
            patches) that it sees at all, at one step each, evenly spread, and it tells the hardness
            of all by those around. Empty: 2/3 for clips, 2/7 for images; 1 where
            score_readout is visible, all where tokens are masked singly.
        score_readout: scores read at a mask query for each tube, or at its visible tokens (as
            published).
        ema_horizon_start: how far the teacher's moving average looks back at the start, 1/(1 - m)
            steps for a momentum m, as a share of all steps of the run.
        ema_horizon_end: the same once the ramp is over.
        ema_ramp: length of the ramp, over which m rises linearly, as a share of the run.
        center_scores: rank tubes by their scores less the running mean of scores at their
            position: by what is hard in this clip, not by what is hard there in all clips.
        center_momentum: of that running mean, which is moved by the mean of each global batch.
        momentum_start: of the teacher's moving average, at the start. Giving any field of
            momentum_* counts in steps instead of shares of the run; those left out are as
            published on ImageNet-1K: 0.999, 0.9999 and 100 epochs.
        momentum_end: the same once the ramp is over.
        momentum_epochs: length of the ramp in epochs.
        momentum_steps: the same in optimiser steps; wins over momentum_epochs where given.
    """

    enabled: bool = True
    predictor_unit: str = "tube"
    predictor_depth: int | None = 1
    predictor_detach: bool = False
    objective: str = "relative"
    hardness: str | None = None
    weight: float = 1.0
    hard_ratio_start: float = 0.0
    hard_ratio_end: float = 0.5
    teacher_samples_per_tube: float | None = None
    score_readout: str = "query"
    ema_horizon_start: float = 0.008
    ema_horizon_end: float = 0.08
    ema_ramp: float = 0.5
    center_scores: bool = False
    center_momentum: float = 0.9
    momentum_start: float | None = None
    momentum_end: float | None = None
    momentum_epochs: float | None = None
    momentum_steps: int | None = None

    def __post_init__(self):
        check = Section(self, "hpm")
        check.choice("predictor_unit", PREDICTORS)
        check.choice("objective", OBJECTIVES)
        check.choice("score_readout", READOUTS)
        check.choice("hardness", (*HARDNESS, None))
        check.at_least(1, "predictor_depth", "momentum_steps")
        check.fraction("hard_ratio_start", "hard_ratio_end", "momentum_start", "momentum_end")
        check.at_least(0, "weight", "teacher_samples_per_tube")
        samples = self.teacher_samples_per_tube
        if samples is not None and samples > 1 and samples % 1:
            raise ConfigError(
                f"hpm.teacher_samples_per_tube: {samples:g}; give a whole number of time steps, or "
                "below 1 a share of the tubes"
            )
        check.at_least(0, "momentum_epochs", finite=False)
        check.above_zero("ema_horizon_start", "ema_horizon_end")
        check.fraction("ema_ramp")
        check.fraction("center_momentum", one=False)

    def momentum_ramp(self, steps: int, steps_per_epoch: float) -> tuple[float, float, float]:
        """The teacher's momentum at the start and the end of its ramp, and the ramp's steps.

        A moving average of momentum m forgets with a horizon of 1/(1 - m) steps, and lags by as
        many. Published (ImageNet-1K, 200 epochs of 625 steps, .999 to .9999 over 100 epochs) that
        is .8 % of the run at the start and 8 % at the end; counted in steps it becomes longer than
        a short run, and the teacher then knows the mean hardness of each position and nothing of
        the clip.
        """
        given = self.momentum_start, self.momentum_end, self.momentum_epochs
        if any(value is not None for value in (*given, self.momentum_steps)):
            start, end, epochs = (
                usual if value is None else value
                for value, usual in zip(given, PUBLISHED_MOMENTUM, strict=True)
            )
            return start, end, self.momentum_steps or epochs * steps_per_epoch
        horizons = self.ema_horizon_start * steps, self.ema_horizon_end * steps
        start, end = (1 - 1 / max(1.0, horizon) for horizon in horizons)
        return start, end, self.ema_ramp * steps
