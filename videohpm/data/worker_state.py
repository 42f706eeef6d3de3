"""What the reading processes and the training process know of each other, in shared memory."""

import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch

from videohpm.data.kept_memory import GIVEN_BACK_AFTER, give_memory_back

GOOD, SUSPECT, CRASHED, HUNG = range(4)
_REASONS = {
    CRASHED: "two reading processes died while reading it",
    HUNG: "reading it did not end before",
}
NOTHING = -1
KILLED = -signal.SIGKILL if hasattr(signal, "SIGKILL") else None
"""The exit code of a process that was ended from outside, for example where memory is short."""
_OUTSIDE = {-number for number in (signal.SIGTERM, signal.SIGINT)} | {KILLED}


class WorkerState:
    """Which files must not be read again, and what each worker reads at this moment.

    ``files`` uint8 (samples,): a file is SUSPECT where a worker died reading it, which may have
    another cause; where that happens again it is CRASHED and not read any more, as one that HUNG is
    at once. A worker that was killed from outside says nothing of its file. Workers that start
    later share the state.
    """

    def __init__(self, samples: int):
        self.files = torch.zeros(samples, dtype=torch.uint8)
        self.reading = torch.full((1,), NOTHING)
        self.pids = torch.zeros(1, dtype=torch.int64)
        self.worker: int | None = None  # which worker this process is
        self.read = 0  # files, by this worker

    def share(self, workers: int) -> None:
        """Makes room for ``workers`` processes, in memory that they will share."""
        self.files.share_memory_()
        self.reading = torch.full((workers,), NOTHING).share_memory_()
        self.pids = torch.zeros(workers, dtype=torch.int64).share_memory_()

    def is_blacklisted(self, row: int) -> str | None:
        """Why a file must not be read, or None."""
        return _REASONS.get(int(self.files[row]))

    def mark_hung(self, row: int) -> None:
        """A file whose reading did not end."""
        self.files[row] = HUNG

    def mark_crashed(self, exit_codes: Mapping[int, int]) -> list[int]:
        """Marks the rows that dead workers were reading; returns them, also those not to blame.

        Args:
            exit_codes: of the workers that have died, by process.
        """
        rows = []
        for pid, row in zip(self.pids.tolist(), self.reading.tolist(), strict=True):
            if pid in exit_codes and row != NOTHING:
                rows.append(row)
                if exit_codes[pid] not in _OUTSIDE:
                    self.files[row] = min(int(self.files[row]) + 1, CRASHED)
        self.reading.fill_(NOTHING)
        self.pids.zero_()
        return rows

    @contextmanager
    def watched(self, row: int, seconds: float) -> Iterator[None]:
        """Within a worker: notes what it reads, and ends it where that takes over ``seconds``.

        The alarm ends the process even where a decoder holds Python's lock and no thread can run.
        """
        if self.worker is None:
            yield
            return
        alarm = hasattr(signal, "setitimer") and seconds > 0
        self.reading[self.worker] = row
        if alarm:
            signal.setitimer(signal.ITIMER_REAL, seconds)
        try:
            yield
        finally:
            if alarm:
                signal.setitimer(signal.ITIMER_REAL, 0)
            self.reading[self.worker] = NOTHING
            self.read += 1
            if self.read % GIVEN_BACK_AFTER == 0:
                give_memory_back()
