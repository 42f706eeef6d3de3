"""What is compared in evidence.py: ways to choose what is hidden, everything else equal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from videohpm import hpm
from videohpm.config import PretrainConfig
from videohpm.grid import TokenGrid
from videohpm.hpm import LossTeacher, Scorer
from videohpm.models.mae import MaskedAutoencoder

PUBLISHED = {"predictor_unit": "token", "teacher_samples_per_tube": 0, "score_readout": "visible"}


# --- choices: what becomes of the teacher's scores before the hardest are taken -----------------


def easiest(scores: Tensor) -> Tensor:
    """The opposite order: hides the easiest."""
    return -scores


def standardised(scores: Tensor) -> Tensor:
    """Mean 0 and deviation 1 within each clip: (B, L)."""
    return (scores - scores.mean(1, keepdim=True)) / scores.std(1, keepdim=True)


def drawn(scores: Tensor) -> Tensor:
    """Draws hard tubes instead of taking the hardest: the standardised scores plus Gumbel noise.

    The hardest k of these are k draws without replacement with chances as exp(score): a tube of
    one deviation more is taken e times as often, and none for certain.
    """
    scores = standardised(scores)
    return scores - torch.empty_like(scores).exponential_().log()


def all_but_the_hardest(scores: Tensor) -> Tensor:
    """Leaves the hardest eighth to chance and takes the next hardest: what is hardest of all
    may be what cannot be inferred."""
    hardest = scores.topk(scores.shape[1] // 8, dim=1).indices
    return scores.scatter(1, hardest, float("-inf"))


# --- scorers -------------------------------------------------------------------------------------


class Chosen(Scorer):
    """A teacher whose scores pass through a choice."""

    def __init__(self, teacher: LossTeacher, choice: Callable[[Tensor], Tensor]):
        self.teacher, self.choice = teacher, choice

    def __call__(self, clips: Tensor) -> Tensor:
        return self.choice(self.teacher(clips))

    def after_step(self, student: nn.Module, momentum: float) -> None:
        self.teacher.after_step(student, momentum)


class Progress(Scorer):
    """Scores what is being learnt: how much harder the slow copy than the student finds a tube.

    A reducible loss without a second training run: what stays hard for both, such as noise, and
    what is easy for both score alike, and high is what has become easier of late.
    """

    def __init__(self, teacher: LossTeacher, student: MaskedAutoencoder):
        self.teacher = teacher
        self.now = LossTeacher(student, teacher.steps, teacher.read)

    def __call__(self, clips: Tensor) -> Tensor:
        return standardised(self.teacher(clips)) - standardised(self.now(clips))

    def after_step(self, student: nn.Module, momentum: float) -> None:
        self.teacher.after_step(student, momentum)
        self.now.after_step(student, 0.0)


def choosing(choice: Callable[[Tensor], Tensor]) -> Callable[..., Scorer]:
    """What :attr:`Arm.scorer` needs, of a choice."""
    return lambda teacher, student: Chosen(teacher, choice)


def hardest(teacher: LossTeacher, student: MaskedAutoencoder) -> Scorer:
    """The teacher as it is."""
    return teacher


# --- the random part -----------------------------------------------------------------------------


def noise_shuffle_ids(batch: int, grid: TokenGrid, generator: torch.Generator) -> Tensor:
    """Permutations of the tubes by a smooth random field: (B, L); hides blobs at no cost.

    Band-passed white noise over (h, w), a difference of two Gaussians of 1 and 2 tubes, as
    structured-noise masking does (arXiv 2503.16311, "green" noise), on a torus.
    """
    field = torch.randn(batch, 1, grid.h, grid.w, generator=generator)
    smooth = _blurred(field, 1.0) - _blurred(field, 2.0)
    return smooth.flatten(1).argsort(1).argsort(1)


def _blurred(field: Tensor, sigma: float) -> Tensor:
    reach = min(3, (min(field.shape[2:]) - 1) // 2)
    weights = torch.exp(-torch.arange(-reach, reach + 1).float().square() / (2 * sigma**2))
    kernel = torch.outer(weights, weights) / weights.sum().square()
    return F.conv2d(F.pad(field, [reach] * 4, mode="circular"), kernel[None, None])


@dataclass(frozen=True)
class Arm:
    """One way to mask: what it changes in the common configuration."""

    description: str
    hpm: dict = field(default_factory=dict)
    mask: dict = field(default_factory=dict)
    model: dict = field(default_factory=dict)
    scorer: Callable[[LossTeacher, MaskedAutoencoder], Scorer] = hardest
    """What ranks the tubes, from the teacher and the student; without a predictor there is none."""
    shuffle_ids: Callable[[int, TokenGrid, torch.Generator], Tensor] | None = None
    """Draws the random part of the masks; None: uniformly."""

    def config(self, common: PretrainConfig) -> PretrainConfig:
        """The common configuration with what this arm changes."""
        changed = {
            name: replace(getattr(common, name), **getattr(self, name))
            for name in ("hpm", "mask", "model")
        }
        return replace(common, **changed)

    def draw(self, batch: int, config: PretrainConfig, generator: torch.Generator) -> Tensor:
        """The random part of the masks of one batch."""
        grid = config.model.grid()
        if self.shuffle_ids is not None:
            return self.shuffle_ids(batch, grid, generator)
        return hpm.random_shuffle_ids(batch, hpm.unit_count(grid, config.mask.unit), generator)


BY_TOKEN = {"unit": "token"}
OFF = {"enabled": False}
ARMS = {
    "random": Arm("random tubes: VideoMAE", OFF),
    "predict": Arm("losses are predicted, tubes random (alpha 0)", {"hard_ratio_end": 0.0}),
    "hpm": Arm("HPM as configured by default"),
    "published": Arm("HPM, token predictor, teacher sees the whole clip", PUBLISHED),
    "full": Arm(
        "HPM, tube predictor, teacher sees the whole clip", {"teacher_samples_per_tube": 0}
    ),
    "constant": Arm("HPM, alpha at its last value from the start", {"hard_ratio_start": 0.5}),
    "all": Arm("HPM, alpha to 1", {"hard_ratio_end": 1.0}),
    "quarter": Arm("HPM, alpha to .25", {"hard_ratio_end": 0.25}),
    "easy": Arm("the easiest tubes, alpha to .5", scorer=choosing(easiest)),
    "noise": Arm("tubes by smooth noise", OFF, shuffle_ids=noise_shuffle_ids),
    "token": Arm("random tokens", OFF, BY_TOKEN),
    "hard-token": Arm("hard tokens, published predictor and teacher", PUBLISHED, BY_TOKEN),
    "soft": Arm("HPM, hard tubes drawn, not taken", scorer=choosing(drawn)),
    "sparing": Arm("HPM, the hardest eighth left to chance", scorer=choosing(all_but_the_hardest)),
    "progress": Arm("HPM, what became easier of late is hidden", scorer=Progress),
    "detached": Arm("HPM, predictor's gradient kept from the encoder", {"predictor_detach": True}),
    "absolute": Arm("HPM, absolute objective", {"objective": "absolute"}),
    "deep": Arm("HPM, predictor of 4 blocks", {"predictor_depth": 4}),
    "fast-ema": Arm("HPM, EMA .9 to .99", {"momentum_start": 0.9, "momentum_end": 0.99,
                                           "momentum_steps": 300}),
    "normalised": Arm("HPM, per-channel targets", model={"target": "per_channel"}),
    "random-normalised": Arm("random tubes, per-channel targets", OFF,
                             model={"target": "per_channel"}),
    "dense": Arm("HPM, ratio .9", mask={"ratio": 0.9}),
    "random-dense": Arm("random tubes, ratio .9", OFF, {"ratio": 0.9}),
}  # fmt: skip
CONTROL = {"normalised": "random-normalised", "dense": "random-dense", "hard-token": "token"}
"""What an arm is compared with, where that is not ``random``."""
MAIN = ["random", "predict", "hpm", "published", "full", "constant", "all", "quarter", "easy",
        "noise", "token", "hard-token", "detached"]  # fmt: skip
IMAGE = ["random", "hpm", "predict", "constant", "all", "easy", "noise"]
"""In image mode tubes are tokens, and the teacher sees all time steps, as there is one."""
QUICK = ["random", "hpm"]
