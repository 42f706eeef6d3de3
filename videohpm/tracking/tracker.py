"""The loggers of a run, as one."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from videohpm.tracking.loggers import Logger


class Tracker:
    """Hands metrics and pictures to each of several loggers.

    Use it in a ``with`` statement, or call :meth:`close`. Without loggers it does nothing: that is
    the tracker of all ranks but the first.
    """

    def __init__(self, loggers: Sequence[Logger]):
        self.loggers = list(loggers)

    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Log the metrics of a step.

        Args:
            step: optimiser steps done.
            metrics: numbers or 0-d tensors (reading a tensor waits for its device), or None for
                what this run does not measure.

        Raises ValueError or TypeError for what is no metric, before any logger has it.
        """
        if not self.loggers:
            return
        if "step" in metrics:
            raise ValueError("metrics: 'step' is taken by the step itself")
        numbers = {
            name: None if value is None else plain_number(value) for name, value in metrics.items()
        }
        for logger in self.loggers:
            logger.log(step, numbers)

    def image(self, step: int, name: str, image: np.ndarray) -> None:
        """Log ``image``, uint8 (H, W, 3). Raises ValueError for another, or a name with a slash."""
        if not self.loggers:
            return
        if not re.fullmatch(r"[\w.-]+", name):
            raise ValueError(f"name: {name!r}; give letters, digits, '_', '-' and '.' only")
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise ValueError(f"image: {image.dtype} {image.shape}; give uint8 (H, W, 3)")
        for logger in self.loggers:
            logger.image(step, name, image)

    def animation(self, step: int, name: str, gif: bytes, size: tuple[int, int]) -> None:
        """Log an animated GIF of ``size`` (height, width) pixels."""
        for logger in self.loggers:
            logger.animation(step, name, gif, size)

    def advance(self, step: int) -> None:
        """A step is done; cheap enough for every step."""
        for logger in self.loggers:
            logger.advance(step)

    def message(self, text: str) -> None:
        """Show a line of text."""
        for logger in self.loggers:
            logger.message(text)

    def close(self) -> None:
        """Finish files and progress bar; a second call does nothing."""
        # The console first: a full disk, which may stop the others, must not leave the bar behind.
        loggers, self.loggers = self.loggers[::-1], []
        for logger in loggers:
            logger.close()

    def __enter__(self) -> Tracker:
        return self

    def __exit__(self, *_) -> None:
        self.close()


def plain_number(value: Any) -> float:
    """An int, a bool or a float; numpy and torch scalars become one. TypeError for another."""
    number = value.item() if hasattr(value, "item") else value
    if not isinstance(number, (bool, int, float)):
        raise TypeError(f"metrics: {value!r} is not a number")
    return number
