"""What every logger is, and what it knows of its run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

Metrics = Mapping[str, float | None]
"""Numbers by name; None where a run does not measure one."""


@dataclass(frozen=True)
class LoggedRun:
    """What a logger knows of its run."""

    folder: Path
    """The run folder, which exists."""
    total_steps: int
    """Optimiser steps from the first to the last."""
    start_step: int = 0
    """Steps that a resumed run has behind it. What an interrupted run logged after them goes,
    because those steps are done again."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """The run's configuration as plain values."""

    @property
    def project(self) -> str:
        """What others know the project of the run by."""
        return self.config.get("run", {}).get("project") or "videohpm"


class Logger:
    """What all loggers have in common: nothing is shown that a subclass does not show.

    Every logger of :data:`LOGGERS` is made from a :class:`LoggedRun`, on the first rank only.
    """

    def log(self, step: int, metrics: Metrics) -> None:
        """The metrics of a step; ``step`` is the number of optimiser steps done."""

    def image(self, step: int, name: str, image: np.ndarray) -> None:
        """A picture, uint8 (H, W, 3); ``name`` can be part of a file name."""

    def animation(self, step: int, name: str, gif: bytes, size: tuple[int, int]) -> None:
        """An animated GIF of ``size`` (height, width) pixels."""

    def advance(self, step: int) -> None:
        """A step is done. Called after every step, so it must be cheap."""

    def message(self, text: str) -> None:
        """A line of text for whoever watches."""

    def close(self) -> None:
        """Called once, at the end, also after an error."""
