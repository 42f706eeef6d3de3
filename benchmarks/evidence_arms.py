"""What is compared in evidence.py: ways to choose what is hidden, everything else equal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from torch import Tensor, nn

from videohpm.config import PretrainConfig
from videohpm.hpm import LossTeacher, Scorer
from videohpm.models.mae import MaskedAutoencoder

PUBLISHED = {"predictor_unit": "token", "predictor_depth": None, "teacher_samples_per_tube": 0,
             "score_readout": "visible"}  # fmt: skip


# --- scorers -------------------------------------------------------------------------------------


class Progress(Scorer):
    """Scores what is being learnt: how much harder the slow copy than the student finds a tube.

    A reducible loss without a second training run: what stays hard for both, such as noise, and
    what is easy for both score alike, and high is what has become easier of late.
    """

    def __init__(self, teacher: LossTeacher, student: MaskedAutoencoder):
        self.teacher = teacher
        self.now = LossTeacher(student, teacher.steps, teacher.read)

    def __call__(self, clips: Tensor, shuffle_ids: Tensor) -> Tensor:
        return standardised(self.teacher(clips)) - standardised(self.now(clips))

    def after_step(self, student: nn.Module, momentum: float) -> None:
        self.teacher.after_step(student, momentum)
        self.now.after_step(student, 0.0)


def standardised(scores: Tensor) -> Tensor:
    """Mean 0 and deviation 1 within each clip: (B, L)."""
    return (scores - scores.mean(1, keepdim=True)) / scores.std(1, keepdim=True)


@dataclass(frozen=True)
class Arm:
    """One way to mask: what it changes in the common configuration."""

    description: str
    hpm: dict = field(default_factory=dict)
    mask: dict = field(default_factory=dict)
    model: dict = field(default_factory=dict)
    scorer: Callable[[LossTeacher, MaskedAutoencoder], Scorer] | None = None
    """What ranks the tubes, from the teacher and the student; None: as ``mask`` says."""

    def config(self, common: PretrainConfig) -> PretrainConfig:
        """The common configuration with what this arm changes."""
        changed = {
            name: replace(getattr(common, name), **getattr(self, name))
            for name in ("hpm", "mask", "model")
        }
        return replace(common, **changed)


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
    "easy": Arm("the easiest tubes, alpha to .5", mask={"choice": "easiest"}),
    "noise": Arm("tubes by smooth noise", OFF | {"hard_ratio_start": 1.0, "hard_ratio_end": 1.0},
                 {"scorer": "noise"}),
    "token": Arm("random tokens", OFF, BY_TOKEN),
    "hard-token": Arm("hard tokens, published predictor and teacher", PUBLISHED, BY_TOKEN),
    "soft": Arm("HPM, hard tubes drawn, not taken", mask={"choice": "drawn"}),
    "sparing": Arm("HPM, the hardest eighth left to chance", mask={"choice": "skip_hardest"}),
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
