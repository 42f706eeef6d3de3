"""Does a run's teacher mine? One sentence from the numbers of its log."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

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


def mining_verdict(rows: Iterable[Mapping[str, float | None]]) -> str | None:
    """What the last logged steps say of the teacher; None where no teacher chose.

    Args:
        rows: of metrics.jsonl, oldest first.
    """
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
        return f"the teacher hides much the same positions in every clip: {numbers}; {CAUSES}"
    if agreement < NO_AGREEMENT:
        return f"the teacher hardly knows what is hard: {numbers}"
    return f"the teacher mines: {numbers}"


def _recent(rows: Iterable[Mapping[str, float | None]], name: str) -> float | None:
    """Mean of the last values of a metric that were measured."""
    values = [value for row in rows if (value := row.get(name)) is not None][-ROWS:]
    return sum(values) / len(values) if values else None
