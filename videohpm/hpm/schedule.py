"""From easy to hard, and how slowly the teacher follows: functions of progress in [0, 1]."""

from __future__ import annotations

from videohpm.config import HPMConfig


def hard_ratio(progress: float, start: float = 0.0, end: float = 0.5) -> float:
    """α, the share of masked units that the teacher chooses (HPM, section 3.3).

    α = start + (end − start)·progress. The published code advances once an epoch:
    progress = (epoch + 1) / epochs.
    """
    return start + (end - start) * min(max(progress, 0.0), 1.0)


def configured_hard_ratio(config: HPMConfig, progress: float) -> float:
    """:func:`hard_ratio` between the ends that a run has."""
    return hard_ratio(progress, config.hard_ratio_start, config.hard_ratio_end)


def teacher_momentum(progress: float, start: float = 0.999, end: float = 0.9999) -> float:
    """m of θ_teacher ← m·θ_teacher + (1 − m)·θ_student (HPM, section 3.2).

    Rises linearly from ``start`` to ``end``. The published ramp lasts 100 epochs, whatever the
    length of the run: progress = epoch / 100. How the ends follow from the length of a run:
    :meth:`videohpm.config.HPMConfig.momentum_ramp`.
    """
    return start + (end - start) * min(max(progress, 0.0), 1.0)
