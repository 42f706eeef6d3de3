"""Time that passes only when told to."""

from __future__ import annotations

from collections.abc import Callable

from videohpm.tracking import Stopwatch
from videohpm.training import run


class HandClock:
    """Seconds that pass only when told to."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def takes(self, seconds: float, function: Callable) -> Callable:
        """``function``, each call of which takes so long."""

        def slow(*arguments, **keywords):
            self.now += seconds
            return function(*arguments, **keywords)

        return slow

    def time_runs(self, monkeypatch) -> None:
        """Training runs measure their speed by this clock."""
        monkeypatch.setattr(run, "Stopwatch", lambda clips: Stopwatch(clips, self))
