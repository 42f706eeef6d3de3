"""Does a run learn, and does its teacher mine? One sentence each from the numbers of its log."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from videohpm.report.files import Lines
from videohpm.report.runs import number

Row = Mapping[str, float | None]
LOG = "metrics.jsonl"

SAME_POSITIONS = 0.9
"""Above this share of its ranking a teacher knows positions and little of the clip."""
FAR_ABOVE_TRUTH = 0.35
"""A position share so far above that of the true losses says the same of a lesser map."""
NO_AGREEMENT = 0.2
"""Below this rank correlation the teacher's ranking says next to nothing of the true losses."""
ROWS = 5
"""So many logged steps are averaged: one alone is noisy."""
CAUSES = (
    "usual causes: a moving average longer than the run (hpm.ema_horizon_start and _end, or "
    "hpm.momentum_*), too few steps, hard parts that lie at the same positions in the data too"
)

HEALTHY = "healthy"
EARLY = "too early to say"
COLLAPSING = "collapsing"
MEAN_COLOUR = "not learning more than the mean colour"
STILL = "the encoder does not learn"
NO_MINING = "the teacher does not mine"
LOOKS = 3
"""So many looks are averaged, and before so many most verdicts are too early."""
ALL_ALIKE = 0.005
"""Below this spread all clips have one feature; where they differ it was 0.04 and more."""
ONE_LINE = 1.5
"""Below this effective rank features lie on a line."""
FALLEN = 0.25
"""Below this share of the largest it has had the effective rank says that features collapse."""
UNMOVED = 1e-6
"""Below this change between two looks features are the same."""
NO_BETTER = 0.97
"""From this share of the loss of the mean colour on, no more is learnt than the mean colour."""
FAR_WORSE = 10.0
"""From so many times that loss on it is not too early to say so."""
CHOOSES = 0.1
"""From this share of the mask on it matters whether the teacher mines."""


class Verdict(NamedTuple):
    """What the log says of a run."""

    name: str
    """One of the names above."""
    why: str
    """The numbers behind it, and what usually causes it."""

    def __str__(self) -> str:
        return f"{self.name}: {self.why}"


def verdict(rows: Sequence[Row]) -> Verdict | None:
    """Does the run learn? None before the first look at it.

    Args:
        rows: of metrics.jsonl, oldest first; what :class:`videohpm.evaluate.OnlineProbe` measures
            is in some of them.
    """
    looks = [row for row in rows if row.get("mean_colour_loss") is not None]
    if not looks:
        return None
    numbers = _numbers(looks)
    for check in (_collapsing, _still, _mean_colour):
        if found := check(looks):
            return Verdict(found[0], f"{numbers}; {found[1]}" if found[1] else numbers)
    chosen = _recent(rows, "hard_ratio")
    teacher = _teacher(rows)
    if teacher is not None and not teacher[0] and chosen is not None and chosen >= CHOOSES:
        return Verdict(NO_MINING, f"{teacher[1]}; {numbers}")
    return Verdict(HEALTHY, numbers)


def kept_rows(rows: Sequence[Row]) -> list[Row]:
    """Those of ``rows`` that verdicts depend on: all looks at the run, and the last of the log."""
    looks = [row for row in rows[:-ROWS] if row.get("mean_colour_loss") is not None]
    return [*looks, *rows[-ROWS:]]


def logged_rows(folder: Path, step: int) -> list[Row]:
    """What a run has logged up to ``step``; nothing of what cannot be read."""
    try:
        rows = [{k: number(v) for k, v in row.items()} for row in Lines(folder, folder / LOG)]
    except (OSError, ValueError):
        return []
    return [row for row in rows if (done := row.get("step")) is not None and done <= step]


def mining_verdict(rows: Sequence[Row]) -> str | None:
    """What the last logged steps say of the teacher; None where no teacher chose.

    Args:
        rows: of metrics.jsonl, oldest first.
    """
    found = _teacher(rows)
    return None if found is None else found[1]


def _teacher(rows: Sequence[Row]) -> tuple[bool, str] | None:
    """Whether the teacher mines, and the sentence that says so."""
    share = _recent(rows, "position_share")
    agreement = _recent(rows, "teacher_rank_correlation")
    if share is None or agreement is None:
        return None
    truth, overlap = _recent(rows, "true_position_share"), _recent(rows, "choice_overlap")
    beyond = _recent(rows, "beyond_position")
    numbers = f"position explains {share:.0%} of its ranking"
    if truth is not None:
        numbers += f", {truth:.0%} of the true one"
    if overlap is not None:
        numbers += f"; two clips share {overlap:.0%} of their hard tubes beyond chance"
    numbers += f"; rank correlation with the true losses {agreement:.2f}"
    if beyond is not None:
        numbers += f", {beyond:.2f} beyond position"
    if share > SAME_POSITIONS or (truth is not None and share > truth + FAR_ABOVE_TRUTH):
        same = f"the teacher hides much the same positions in every clip: {numbers}; {CAUSES}"
        return False, same
    if agreement < NO_AGREEMENT:
        return False, f"the teacher hardly knows what is hard: {numbers}"
    return True, f"the teacher mines: {numbers}"


def _numbers(looks: Sequence[Row]) -> str:
    """What was measured, in words."""
    loss, flat = _recent(looks, "probe_loss", LOOKS), _recent(looks, "mean_colour_loss", LOOKS)
    rank, spread = (_recent(looks, name, 1) for name in ("effective_rank", "feature_spread"))
    parts = []
    if loss is not None and flat is not None:
        parts.append(f"loss {loss:.3g}, of each clip's mean colour {flat:.3g}")
    if rank is not None:
        parts.append(f"effective rank {rank:.1f}")
    if spread is not None:
        parts.append(f"feature spread {spread:.2g}")
    for name, called in (("knn_top1", "k-NN"), ("linear_top1", "linear")):
        value = _recent(looks, name, 1)
        if value is not None:
            parts.append(f"{called} {value:.1f} %")
    return ", ".join(parts)


def _mean_colour(looks: Sequence[Row]) -> tuple[str, str] | None:
    loss, flat = _recent(looks, "probe_loss", LOOKS), _recent(looks, "mean_colour_loss", LOOKS)
    if loss is None or flat is None:
        return None
    if flat < 1e-6:
        return MEAN_COLOUR, (
            "nothing to learn: in each clip the target is the same everywhere (clips of one "
            "colour, or a wrong model.target or data.std)"
        )
    ratio = loss / flat
    if ratio < NO_BETTER:
        return None
    if ratio < FAR_WORSE and _early(looks):
        return EARLY, ""
    if ratio >= FAR_WORSE:
        return MEAN_COLOUR, (
            f"the loss is {ratio:.0f} times that of the mean colour: most often the learning rate "
            "is too high (optim.base_lr, which is scaled by the batch)"
        )
    return MEAN_COLOUR, (
        "usual causes: too few steps so far, a learning rate that is too high or too low "
        "(optim.base_lr), a target that cannot be predicted (model.target)"
    )


def _collapsing(looks: Sequence[Row]) -> tuple[str, str] | None:
    rank, spread = (_recent(looks, name, 1) for name in ("effective_rank", "feature_spread"))
    flat = _recent(looks, "mean_colour_loss", LOOKS)
    if rank is None or spread is None or (flat is not None and flat < 1e-6):
        return None
    if spread < ALL_ALIKE or rank < ONE_LINE:
        return COLLAPSING, (
            "the encoder makes much the same of every clip; usual causes: a learning rate that is "
            "too high (optim.base_lr), clips that are all alike"
        )
    best = max(value for row in looks if (value := row.get("effective_rank")) is not None)
    if rank < FALLEN * best:
        return COLLAPSING, (
            f"the effective rank was {best:.1f} before; usual cause: a learning rate that is too "
            "high (optim.base_lr)"
        )
    return None


def _still(looks: Sequence[Row]) -> tuple[str, str] | None:
    changes = [value for row in looks if (value := row.get("feature_change")) is not None]
    if not changes or changes[-1] > UNMOVED:
        return None
    return STILL, (
        "its features are those of the look before; usual causes: frozen weights, a learning rate "
        "of 0"
    )


def _early(looks: Sequence[Row]) -> bool:
    """Whether there were few looks, or the learning rate still rises."""
    rates = [value for row in looks if (value := row.get("lr")) is not None]
    return len(looks) < LOOKS or (len(rates) > 1 and rates[-1] > rates[-2])


def _recent(rows: Iterable[Row], name: str, most: int = ROWS) -> float | None:
    """Mean of the last values of a metric that were measured."""
    values = [value for row in rows if (value := row.get(name)) is not None][-most:]
    return sum(values) / len(values) if values else None
