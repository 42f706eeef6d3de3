"""How hard is each tube? What training may hide first.

A scorer that is not here yet: CONTRIBUTING.md, "How to add a scorer".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from videohpm.config import PretrainConfig
from videohpm.errors import ConfigError
from videohpm.grid import TokenGrid
from videohpm.hpm.masking import NOISE, drawn_again
from videohpm.hpm.teacher import LossTeacher
from videohpm.models import MaskedAutoencoder
from videohpm.models.hooked import call_hooked


class Scorer(Protocol):
    """How hard each tube is: what training hides first.

    A class that derives from this one needs ``__call__`` only. One that is a
    :class:`torch.nn.Module` is moved to the device of the model.
    """

    def __call__(self, clips: Tensor, shuffle_ids: Tensor) -> Tensor:
        """Hardness, larger = harder, of which only the order counts. Called without gradient.

        Args:
            clips: (B, 3, T, H, W), normalised.
            shuffle_ids: (B, units) permutations, the random part of the masks: for scorers that
                draw, so that a resumed run and any number of processes draw the same.

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

    def forward(self, clips: Tensor, shuffle_ids: Tensor) -> Tensor:
        """Scores less their center; within a step all batches have the same.

        In evaluation mode, as for pictures, the scores do not enter the running mean.
        """
        scores = self.scorer(clips, shuffle_ids).float()
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


class StudentScorer(Scorer):
    """The student's own loss predictor as it is now, with nothing masked: a teacher without a copy.

    Args:
        student: the model in training; it must have a loss predictor.
        steps, read: as for :class:`videohpm.hpm.LossTeacher`.
    """

    def __init__(self, student: MaskedAutoencoder, steps: float | None = None, read: str = "query"):
        if student.predictor is None:
            raise ConfigError(
                "mask.scorer: student asks the loss predictor; set hpm.enabled true, or another "
                "scorer"
            )
        self.student, self.steps, self.read = student, steps, read

    def __call__(self, clips: Tensor, shuffle_ids: Tensor) -> Tensor:
        with evaluating(self.student):
            return call_hooked(self.student, self.student.score, clips, self.steps, self.read)


class ChangeScorer(Scorer):
    """How much a token differs from the one before it in time: the mean squared difference of their
    pixels, of clips as the model gets them. The first is compared with the second.

    The signal of EVEREST (ICML 2024, arXiv 2211.10636), there taken of embedded tokens.
    """

    def __init__(self, grid: TokenGrid):
        _needs_time("change", grid.t, "model.frames")
        self.grid = grid

    def __call__(self, clips: Tensor, shuffle_ids: Tensor) -> Tensor:
        grid, (batch, channels) = self.grid, clips.shape[:2]
        steps = clips.float().unflatten(2, (grid.t, grid.tubelet))
        squares = steps.diff(dim=2).square_()
        cells = squares.reshape(
            batch, channels, grid.t - 1, grid.tubelet, grid.h, grid.patch, grid.w, grid.patch
        ).mean((1, 3, 5, 7))
        return torch.cat([cells[:, :1], cells], 1).flatten(1)


class MotionScorer(Scorer):
    """How far edges move from frame to frame: |brightness change| over |brightness gradient|.

    Both are summed over a token before the division, which gives pixels a frame (normal flow, the
    part of the motion that brightness tells), so that a faint object counts as much as a bright
    one. ``FLOOR`` keeps flat ground still. No codec's vectors are needed, so it is the same for
    every file and crop.
    """

    FLOOR = 0.05
    """Added to the gradient of each pixel, in deviations of the data a pixel."""

    def __init__(self, grid: TokenGrid):
        _needs_time("motion", grid.frames, "model.frames")
        self.grid = grid

    def __call__(self, clips: Tensor, shuffle_ids: Tensor) -> Tensor:
        bright = clips.float().mean(1)  # (B, T, H, W)
        change = bright.diff(dim=1).abs_()
        change = torch.cat([change[:, :1], change], 1)  # of the first frame: to the second
        gradient = F.pad(bright.diff(dim=3).abs_(), (0, 1)) + self.FLOOR
        gradient[:, :, :-1] += bright.diff(dim=2).abs_()
        return self._sums(change).div_(self._sums(gradient)).flatten(1)

    def _sums(self, values: Tensor) -> Tensor:
        """(B, T, H, W) → (B, t, h, w)."""
        grid = self.grid
        cells = values.unflatten(3, (grid.w, grid.patch)).unflatten(2, (grid.h, grid.patch))
        return cells.unflatten(1, (grid.t, grid.tubelet)).sum((2, 4, 6))


class NoiseScorer(Scorer):
    """A smooth random field: hides blobs instead of scattered units, whatever the clip shows.

    White noise less its low frequencies, the difference of two Gaussian blurs of 1 and 2 units on a
    torus: the "green" noise of ColorMAE (ECCV 2024, arXiv 2407.13036; for video 2503.16311).
    """

    def __init__(self, grid: TokenGrid, unit: str = "tube"):
        self.shape = (1 if unit == "tube" else grid.t, grid.h, grid.w)

    def __call__(self, clips: Tensor, shuffle_ids: Tensor) -> Tensor:
        # The ranks of a permutation, turned into normal deviates, are white noise.
        ranks = drawn_again(shuffle_ids.to(clips.device), NOISE)
        uniform = (ranks + 0.5) / shuffle_ids.shape[1]
        field = torch.special.ndtri(uniform).view(-1, 1, *self.shape)
        return (_blurred(field, 1.0) - _blurred(field, 2.0)).flatten(1)


class AttentionScorer(Scorer):
    """Attention that each place gets in the encoder's last block: of the class token, or without
    one of the mean token. The signal of AttMask (ECCV 2022, arXiv 2203.12719), of the student.

    Args:
        student: the model in training.
        steps: at how many of its time steps each tube is seen, at least one; None for all.
    """

    def __init__(self, student: MaskedAutoencoder, steps: float | None = None):
        self.encoder, self.grid = student.encoder, student.grid
        self.steps = None if steps is None else max(1, steps)

    def __call__(self, clips: Tensor, shuffle_ids: Tensor) -> Tensor:
        grid, attention = self.grid, self.encoder.last_attention
        with evaluating(self.encoder):
            if self.steps is None or self.steps >= grid.t:
                return call_hooked(self.encoder, attention, clips)
            visible = grid.staggered_tokens(self.steps, clips.device).expand(len(clips), -1)
            scores = call_hooked(self.encoder, attention, clips, visible)
            return scores.view(len(clips), -1, grid.num_tubes).mean(1)


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """In evaluation mode: dropped paths are no part of what a model in training says of a clip."""
    training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(training)


def _needs_time(name: str, count: int, field: str) -> None:
    if count < 2:
        raise ConfigError(
            f"mask.scorer: {name} compares moments, and there is one only; give more {field}, or "
            "another scorer"
        )


def _blurred(field: Tensor, sigma: float) -> Tensor:
    """(B, 1, t, h, w) blurred over space, and over time where there are several steps."""
    for dim in (2, 3, 4):
        size = field.shape[dim]
        if size == 1:
            continue
        place = torch.arange(size, device=field.device)
        apart = (place[:, None] - place).abs()
        apart = torch.minimum(apart, size - apart).to(field.dtype)
        weights = torch.exp(-(apart**2) / (2 * sigma**2))
        weights /= weights.sum(1, keepdim=True)
        field = (field.movedim(dim, -1) @ weights).movedim(-1, dim)
    return field


def _teacher_options(config: PretrainConfig) -> tuple[float | None, str]:
    return config.teacher_samples, config.hpm.score_readout


class Network(NamedTuple):
    """What a scorer runs over clips of which nothing is masked, for whoever counts its cost."""

    predictor: bool
    """The whole encoder and the loss predictor; else the encoder up to its last attention."""
    copy: bool = False
    """Of weights of its own."""


NETWORKS = {
    "loss_teacher": Network(predictor=True, copy=True),
    "student": Network(predictor=True),
    "attention": Network(predictor=False),
}
"""By ``mask.scorer``, of those that are networks."""
SCORERS: dict[str, Callable[[MaskedAutoencoder, PretrainConfig], Scorer | None]] = {
    "loss_teacher": lambda student, config: LossTeacher(student, *_teacher_options(config)),
    "student": lambda student, config: StudentScorer(student, *_teacher_options(config)),
    "change": lambda student, config: ChangeScorer(student.grid),
    "motion": lambda student, config: MotionScorer(student.grid),
    "noise": lambda student, config: NoiseScorer(student.grid, config.mask.unit),
    "attention": lambda student, config: AttentionScorer(student, _teacher_options(config)[0]),
    "none": lambda student, config: None,
}
"""By ``mask.scorer``: from the student and the run's configuration, the scorer; None: random."""
