"""What evidence.py compares: ways to mask and to predict, each a few lines of configuration."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from videohpm.config import PretrainConfig

KINDS = ("images", "clips")


@dataclass(frozen=True)
class Arm:
    """What one arm changes in the configuration that all share, and in the length of the run."""

    description: str
    hpm: dict = field(default_factory=dict)
    mask: dict = field(default_factory=dict)
    model: dict = field(default_factory=dict)
    longer: dict[str, float] = field(default_factory=dict)
    """Times as many steps, by kind of data; 1 where it says nothing."""
    other_losses: bool = False
    """Whether each clip's losses, for the loss predictor, are those of another one."""
    control: str = "random"
    """The arm that it is compared with beside ``random``."""

    def config(self, common: PretrainConfig) -> PretrainConfig:
        """The common configuration with what this arm changes."""
        changed = {
            name: replace(getattr(common, name), **getattr(self, name))
            for name in ("hpm", "mask", "model")
        }
        return replace(common, **changed)

    def steps(self, steps: int, kind: str) -> int:
        """Optimiser steps of this arm, where plain ones have ``steps``."""
        return round(steps * self.longer.get(kind, 1.0))

    def plain_steps(self, steps: int, kind: str) -> int:
        """Optimiser steps of plain arms, where this one has ``steps``."""
        return round(steps / self.longer.get(kind, 1.0))


OFF = {"enabled": False}
NO_TEACHER = {"scorer": "none"}
ARMS = {
    "random": Arm("random masks, no loss predictor: MAE, VideoMAE", OFF),
    "predict": Arm("losses are predicted, masks are random", mask=NO_TEACHER),
    "hpm": Arm("HPM as configured by default, hard share 0 to .5", control="predict"),
    "centred": Arm(
        "HPM, scores less their running mean at each position", {"center_scores": True},
        control="hpm",
    ),
    "published": Arm(
        "HPM as published: teacher sees all, read at what it sees, EMA .999 to .9999",
        {"predictor_unit": "token", "predictor_depth": None, "teacher_samples_per_tube": 0,
         "score_readout": "visible", "momentum_start": 0.999, "momentum_end": 0.9999},
        control="hpm",
    ),
    "longer": Arm(
        "random masks, as many more steps as HPM costs", OFF, longer={"images": 5 / 3, "clips": 1.3}
    ),
    "absolute": Arm(
        "predict, but how large each loss is instead of which of two is larger",
        {"objective": "absolute"}, NO_TEACHER, control="predict",
    ),
    "other-losses": Arm(
        "predict, but the losses of another clip: nothing that can be known",
        mask=NO_TEACHER, other_losses=True, control="predict",
    ),
    "constant": Arm("HPM, hard share .5 from the start", {"hard_ratio_start": 0.5}, control="hpm"),
    "level": Arm(
        "HPM, hard share .25 throughout: over the run as much as hpm",
        {"hard_ratio_start": 0.25, "hard_ratio_end": 0.25}, control="hpm",
    ),
    "quarter": Arm("HPM, hard share 0 to .25", {"hard_ratio_end": 0.25}, control="hpm"),
    "all": Arm("HPM, hard share 0 to 1", {"hard_ratio_end": 1.0}, control="hpm"),
    "change": Arm("tubes that change between time steps", OFF, {"scorer": "change"}),
    "noise": Arm(
        "masks by smooth noise", OFF | {"hard_ratio_start": 1.0, "hard_ratio_end": 1.0},
        {"scorer": "noise"},
    ),
    "weight": Arm("the loss of hard tubes weighs more", mask={"use": "weight"}, control="predict"),
    "decode": Arm(
        "the hard half of the tubes is reconstructed",
        mask={"use": "decode", "decode_ratio": 0.5}, control="predict",
    ),
    "ema-features": Arm(
        "features of the EMA encoder instead of pixels, masks are random",
        {"hard_ratio_end": 0.0}, model={"target": "ema_encoder"}, control="predict",
    ),
}  # fmt: skip
"""In the order in which they are worth an hour."""
NEEDS_TIME = ("change",)


def usual(kind: str) -> list[str]:
    """The arms that a kind of data can have."""
    return [name for name in ARMS if kind == "clips" or name not in NEEDS_TIME]
