"""Progress of a long run: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Callable, Mapping
from typing import TextIO

PLAIN_WIDTH = 120  # columns of a plain line; a terminal reports its own
NUMBER_WIDTH = 6  # columns most numbers take, as in 0.4312
SHORTEST_BAR, LONGEST_BAR = 8, 32
REDRAW_EVERY = 0.25  # seconds


def make_screen(
    stream: TextIO, total: int, start: int, clock: Callable[[], float]
) -> PlainScreen | BarScreen:
    """A bar where ``stream`` is a terminal that can draw one, plain lines elsewhere."""
    terminal = stream.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")
    return (BarScreen if terminal else PlainScreen)(stream, total, start, clock)


class PlainScreen:
    """One line of text for each logged step: for files, pipes and job logs."""

    def __init__(self, stream: TextIO, total: int, start: int, clock: Callable[[], float]):
        self.stream, self.total = stream, total
        self.pace = Pace(start, total, clock)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self.message(progress_line(step, self.total, metrics, self.pace.left(step), PLAIN_WIDTH))

    def advance(self, step: int) -> None:
        """Nothing: a plain line cannot be taken back."""

    def message(self, text: str) -> None:
        self.stream.write(text + "\n")
        self.stream.flush()

    def close(self) -> None:
        """Nothing is left open."""


class BarScreen:
    """A progress bar and the last numbers, in the last line of a terminal.

    Drawn only when something is logged or the step moves: a thread that draws by itself could hold
    a lock in the moment in which the data workers are forked.
    """

    def __init__(self, stream: TextIO, total: int, start: int, clock: Callable[[], float]):
        from rich.console import Console
        from rich.live import Live

        self.total, self.clock, self.pace = total, clock, Pace(start, total, clock)
        self.metrics, self.left, self.drawn = {}, None, -math.inf
        self.terminal = Console(file=stream, force_terminal=True)
        self.live = Live(console=self.terminal, auto_refresh=False)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self.metrics, self.left = metrics, self.pace.left(step)
        self._draw(step)

    def advance(self, step: int) -> None:
        if self.clock() - self.drawn >= REDRAW_EVERY or step == self.total:
            self._draw(step)

    def message(self, text: str) -> None:
        self.terminal.print(text, markup=False, highlight=False)

    def close(self) -> None:
        self.live.stop()

    def _draw(self, step: int) -> None:
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        width = self.terminal.width
        line = progress_line(step, self.total, self.metrics, self.left, width - SHORTEST_BAR - 1)
        bar = min(LONGEST_BAR, width - len(line) - 1)
        row: list[ProgressBar | Text] = [Text(line, no_wrap=True, overflow="ellipsis")]
        if bar >= SHORTEST_BAR:
            row.insert(0, ProgressBar(total=self.total, completed=step, width=bar))
        table = Table.grid(padding=(0, 1, 0, 0))
        table.add_row(*row)
        self.live.start()  # does nothing from the second time on
        self.live.update(table, refresh=True)
        self.drawn = self.clock()


class Pace:
    """The time left, from the pace of the last few log lines."""

    def __init__(self, start: int, total: int, clock: Callable[[], float]):
        self.total, self.clock = total, clock
        self.marks = deque([(start, clock())], maxlen=8)

    def left(self, step: int) -> float | None:
        """Seconds until the last step; None while it is unknown."""
        first, begun = self.marks[0]
        now = self.clock()
        if step > self.marks[-1][0]:  # a step may be logged twice, as training and as test
            self.marks.append((step, now))
        return (self.total - step) * (now - begun) / (step - first) if step > first else None


def progress_line(
    step: int, total: int, metrics: Mapping[str, float], left: float | None, width: int
) -> str:
    """``step 120/600  loss 0.4312  clips/s 75  wait 2%  eta 3:12``, in about ``width`` columns.

    The first metric is always shown, others as long as they fit; their names alone decide that, so
    that all lines of a run have the same columns.
    """
    end = []
    if "clips_per_second" in metrics:
        pace = metrics["clips_per_second"]
        end.append(f"clips/s {pace:.3g}" if pace < 100 else f"clips/s {pace:.0f}")
    if "data_wait" in metrics:
        end.append(f"wait {metrics['data_wait']:.0%}")
    if left is not None:
        end.append(f"eta {_duration(left)}")
    done = f"step {step:>{len(str(total))}}/{total}"
    room = width - len(done) - len("  clips/s 1234  wait 10%  eta 10:00:00")
    shown = []
    for name, value in metrics.items():
        if name in ("clips_per_second", "data_wait"):
            continue
        room -= len(f"  {name} ") + NUMBER_WIDTH
        if shown and room < 0:
            break
        shown.append(f"{name} {_short(value)}")
    return "  ".join([done, *shown, *end])


def _short(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.4g}"


def _duration(seconds: float) -> str:
    """Seconds as m:ss, h:mm:ss or days and hours."""
    if not math.isfinite(seconds):
        return "?"
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours_of_day = divmod(hours, 24)
    if days:
        return f"{days}d {hours_of_day:02d}h"
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
