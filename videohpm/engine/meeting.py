# pyright: reportPrivateImportUsage=false
# (torch.distributed documents its stores, and does not list them in __all__.)
"""Where the processes of a run wait for the slowest, as long as it works.

Collective calls end when ``engine.timeout`` is over, whatever the others are doing. Where one
process lawfully takes longer (it has the videos that are slow to read, it alone writes the result)
the others wait here first: it says now and then that it works, and they wait on. When nobody has
shown that for ``engine.timeout`` seconds, the run ends.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import torch.distributed as dist

from videohpm.errors import LostProcess

BEAT = 1.0
"""Seconds between two signs of life."""
ARRIVED, BEATS = "arrived", "beats"


class Meeting:
    """Counts who has arrived, and signs of life, in a store that all processes see.

    The store is asked in threads: where the process that holds it does not answer, calls to it do
    not return.

    Args:
        world: number of processes.
        seconds: longest time without a sign of life of those who have not arrived.
    """

    def __init__(self, store: dist.Store, world: int, seconds: float):
        self.store, self.world, self.seconds = store, world, seconds
        self.meetings = 0
        self.over = threading.Event()
        self.due, self.working_on = False, 0
        self.thread: threading.Thread | None = None

    def beat(self) -> None:
        """This process has made progress. Costs nothing."""
        self.due = True
        if self.thread is None:
            self.thread = threading.Thread(target=self._beat, daemon=True, name="signs of life")
            self.thread.start()

    @contextmanager
    def working(self) -> Iterator[None]:
        """Around what may take long and has a limit of its own: signs of life all the while."""
        self.working_on += 1
        self.beat()
        try:
            yield
        finally:
            self.working_on -= 1

    def wait_for_all(self) -> None:
        """Wait until all processes have called this as often. Raises LostProcess."""
        self.meetings += 1
        poll = _Poll(self.store, self.meetings * self.world)
        while not poll.done.wait(min(BEAT, self.seconds / 4)):
            if time.monotonic() - poll.heard > self.seconds:
                poll.over = True
                raise LostProcess
        if poll.error is not None:
            raise LostProcess from poll.error

    def close(self) -> None:
        """No signs of life any more."""
        self.over.set()
        if self.thread is not None:
            self.thread.join(BEAT)

    def _beat(self) -> None:
        while not self.over.wait(min(BEAT, self.seconds / 4)):
            if self.due or self.working_on:
                self.due = False
                try:
                    self.store.add(BEATS, 1)
                except RuntimeError:
                    return  # the store has gone; so has the run


class _Poll:
    """Asks the store, in a thread, until ``wanted`` arrivals were counted."""

    def __init__(self, store: dist.Store, wanted: int):
        self.store, self.wanted = store, wanted
        self.heard, self.over = time.monotonic(), False
        self.error: RuntimeError | None = None
        self.done = threading.Event()
        threading.Thread(target=self._run, daemon=True, name="meeting").start()

    def _run(self) -> None:
        known, pause = None, 0.001
        try:
            arrived = self.store.add(ARRIVED, 1)
            while arrived < self.wanted and not self.over:
                found = arrived, self.store.add(BEATS, 0)
                if found != known:
                    known, self.heard = found, time.monotonic()
                time.sleep(pause)
                pause = min(2 * pause, 0.2)
                arrived = self.store.add(ARRIVED, 0)
        except RuntimeError as error:
            self.error = error
        self.done.set()


def ask(question: Callable[[], int], otherwise: int, seconds: float) -> int:
    """What a store answers; ``otherwise`` where the process that holds it is gone or stopped."""
    answers: list[int] = []

    def run() -> None:
        with suppress(RuntimeError):
            answers.append(question())

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    return answers[0] if answers else otherwise
