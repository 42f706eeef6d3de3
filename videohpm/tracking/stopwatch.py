"""How fast the steps of a run are."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Stopwatch:
    """Clips a second, and the share of the time spent waiting for data.

    Only training steps count: what is done between them (pictures, validation, checkpoints) goes
    into :meth:`paused`.

    Args:
        clips: clips of one optimiser step, over all ranks: samples times repeats.
        clock: seconds.
    """

    def __init__(self, clips: int, clock: Callable[[], float] = time.perf_counter):
        self.clips, self.clock = clips, clock
        self.start, self.steps, self.waited = clock(), 0, 0.0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Around what fetches data."""
        begun = self.clock()
        yield
        self.waited += self.clock() - begun

    def count_step(self) -> None:
        """A step is done."""
        self.steps += 1

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Around what is no part of a training step."""
        begun = self.clock()
        yield
        self.start += self.clock() - begun

    def lap(self) -> dict[str, float]:
        """``clips_per_second`` and ``data_wait`` (0 to 1) since the last call."""
        now = self.clock()
        seconds = max(now - self.start, 1e-9)
        lap = {
            "clips_per_second": self.steps * self.clips / seconds,
            "data_wait": min(1.0, self.waited / seconds),
        }
        self.start, self.steps, self.waited = now, 0, 0.0
        return lap
