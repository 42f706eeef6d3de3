"""A thread beside the training that notices at once when another process of the run has ended.

The main thread may be waiting for a GPU that waits for a process which is gone: NCCL does not
notice, or ends this process without a word. The thread waits on the CPU instead, over gloo.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

GRACE = 1.0
"""Seconds that the main thread gets to end by itself, once another process has ended."""
WORD = 5.0
"""Seconds that a process whose connection is broken waits to hear why, on a busy machine too."""
FOREVER = timedelta(days=365)
BYE, FAILED, LOST = range(3)


class PeerWatch:
    """Processes in a ring: each waits for a word of the next one, and tells the one before.

    The word comes when a process leaves: in the end, or because it failed; one that dies breaks its
    connection instead. So each process ends within a moment, with the exit code of the one that
    failed.

    Args:
        on_lost: called where a process died, before this one ends; says so, once over all.
        limit: how long to wait for the others to join the ring.
    """

    def __init__(self, on_lost: Callable[[int], None], limit: timedelta):
        self.on_lost = on_lost
        self.rank, self.world = dist.get_rank(), dist.get_world_size()
        self.group: Any = dist.new_group(backend="gloo", timeout=limit)
        self.leaving = False
        self.code: int | None = None
        self.told = threading.Event()
        self.thread = threading.Thread(target=self._watch, daemon=True, name="peer watch")
        self.thread.start()

    def bye(self, seconds: float) -> None:
        """Leave at the end of a run; returns when the next one leaves too, or in ``seconds``."""
        self._tell(BYE, self.rank, 0)
        self.thread.join(seconds)
        self.leaving = True

    def failed(self, code: int) -> None:
        """Have all others end with exit code ``code``, as this process is about to."""
        if not self.leaving:
            self.leaving = True
            self._tell(FAILED, self.rank, code)

    def code_of_first(self) -> int:
        """The exit code of the process that ended first: its word is a moment behind the connection
        that it broke. 1 where it sent none."""
        self.told.wait(WORD)
        return self.code or 1

    def _watch(self) -> None:
        word = torch.zeros(3, dtype=torch.int64)
        following = (self.rank + 1) % self.world
        try:
            work: Any = dist.irecv(word, following, self.group)
            work.wait(FOREVER)
        except RuntimeError:
            word = torch.tensor([LOST, following, 1])
        kind, origin, code = word.tolist()
        self.code = code
        self.told.set()
        if kind == BYE or self.leaving:
            return
        if origin != (self.rank - 1) % self.world:
            self._tell(kind, origin, code)
        if kind == LOST:
            _try(lambda: self.on_lost(origin))
        time.sleep(GRACE)
        if not self.leaving:
            leave_now(code)

    def _tell(self, kind: int, origin: int, code: int) -> None:
        """Send a word to the process before, unless that one does not take it."""

        def send() -> None:
            try:
                dist.send(torch.tensor([kind, origin, code]), before, self.group)
            except RuntimeError:
                return  # it has ended: it need not be told, and those before it notice that

        before = (self.rank - 1) % self.world
        _try(send)


def _try(action: Callable[[], None]) -> None:
    """Do what may have to wait for another process, for a moment at most."""
    thread = threading.Thread(target=action, daemon=True)
    thread.start()
    thread.join(GRACE)


def leave_now(code: int) -> None:
    """End this process without cleaning up, which would wait for processes that are gone."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):  # a log on a disk that is full
            stream.flush()
    os._exit(code)
