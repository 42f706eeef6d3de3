"""Which share of a clip is hidden, in which units."""

from __future__ import annotations

from dataclasses import dataclass

from videohpm.config.checks import Section
from videohpm.grid import TokenGrid

UNITS = ("tube", "token")
SCORERS = (
    "loss_teacher", "student", "change", "motion", "noise", "attention", "none",
)  # fmt: skip
USES = ("hide", "decode", "weight", "sample")
LARGEST_SHARE = 0.5
"""With use sample: no clip is seen less than half as often as on average, or more than 1.5 times as
often."""
CHOICES = ("hardest", "easiest", "drawn", "skip_hardest")


@dataclass(frozen=True, kw_only=True)
class MaskConfig:
    """How much is hidden, and in which units.

    Args:
        ratio: share of the units that is masked; int(ratio x units) of them.
        unit: tube (one position over all time steps) or token.
        decode_ratio: share of what is masked that is reconstructed: of a tube, that share of its
            time steps (VideoMAEv2: 0.5), or with use decode that share of the tubes. Below 1 steps
            are faster.
        scorer: what ranks the units (how many of the hardest are masked: hpm.hard_ratio_start and
            hard_ratio_end): loss_teacher, the moving average of the model's own loss predictor
            (random masks where hpm.enabled is false); student, that predictor itself; change, how
            much a tube's pixels differ between neighbouring time steps; motion, how far its edges
            move; noise, a smooth random field; attention of the class token, or of the mean token,
            in the encoder's last block; none (random masks).
        use: what the ranking is for. hide: the hardest are masked. decode: masks are random, and of
            what is masked the hardest are reconstructed (decode_ratio of it). weight: masks are
            random, and the loss of what is hard weighs more. sample: masks are random, and no
            scorer is asked; clips that have been hard are seen more often. The hard share is of
            what is masked, of what is reconstructed, or how far weights (sample: at most 0.5, how
            often clips are in an epoch) lie from 1.
        choice: which of the ranked units are hidden: hardest, easiest, drawn (by chance, e times
            as often for each standard deviation of score), skip_hardest (all but the hardest
            eighth).
    """

    ratio: float = 0.9
    unit: str = "tube"
    decode_ratio: float = 1.0
    scorer: str = "loss_teacher"
    use: str = "hide"
    choice: str = "hardest"

    def __post_init__(self):
        check = Section(self, "mask")
        check.choice("unit", UNITS)
        check.choice("scorer", SCORERS)
        check.choice("use", USES)
        check.choice("choice", CHOICES)
        check.fraction("ratio", zero=False, one=False)
        check.fraction("decode_ratio", zero=False)


def unit_count(grid: TokenGrid, unit: str = "tube") -> int:
    """How many tubes (L) or tokens (N) there are to choose from."""
    if unit not in UNITS:
        raise ValueError(f"unit: {unit!r} is not one of {', '.join(UNITS)}")
    return grid.num_tubes if unit == "tube" else grid.num_tokens


def masked_count(units: int, ratio: float) -> int:
    """int(ratio·units), as VideoMAE counts: 176 of 196 tubes at .9, 147 at .75.

    Raises ValueError when nothing would be masked, or nothing stay visible.
    """
    count = int(ratio * units)
    if not 0 < count < units:
        raise ValueError(
            f"ratio: {ratio} of {units} units masks {count}; it must mask at least one and leave "
            "at least one visible"
        )
    return count
