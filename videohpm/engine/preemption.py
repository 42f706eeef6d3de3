"""What ends a run early, so that it can go on: signals, lost processes, full disks."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

import torch.distributed as dist
from torch import Tensor

from videohpm import stopping
from videohpm.engine import collectives, distributed
from videohpm.engine.distributed import lost_process
from videohpm.engine.failures import (
    explain_communication,
    is_lost_process,
    is_out_of_memory,
    last_words,
)
from videohpm.errors import LostProcess, RunError
from videohpm.writing import full_disk


@contextmanager
def translate_errors() -> Iterator[None]:
    """Around a run: full disks, lost processes, too little memory become a RunError of one line."""
    try:
        yield
    except OSError as error:
        if full_disk(error) is None:
            raise
        raise RunError(
            f"{error.filename or 'run.dir'}: {error.strerror}; checkpoints are kept. Make room and "
            "start the same command again"
        ) from error
    except (RuntimeError, MemoryError) as error:
        told = _told(error)
        if told is None:
            raise
        raise told from error


def _told(error: RuntimeError | MemoryError) -> RunError | None:
    """What a run's error means, and what helps, in one line; None where that is not known."""
    if is_out_of_memory(error):
        return RunError(
            f"rank {distributed.rank()} ran out of memory ({last_words(error)}); give a larger "
            "engine.grad_accum_steps (the batch stays as it is), or engine.checkpoint_activations "
            "true; videohpm plan with the same options says what fits"
        )
    return told_between_processes(error)


def told_between_processes(error: BaseException) -> RunError | None:
    """What an error of a collective call means, in one line; None for another error."""
    if distributed.world_size() == 1 or not isinstance(error, RuntimeError):
        return None
    if is_lost_process(error):
        return LostProcess(lost_process(distributed.rank()))
    told = explain_communication(error)
    return None if told is None else RunError(f"{told} (rank {distributed.rank()})")


class StopRequest:
    """SIGTERM and SIGUSR1, noted while a ``with`` statement lasts; all ranks stop together."""

    def __enter__(self) -> StopRequest:
        self.noted = stopping.swallowed()
        self.pending: tuple[dist.Work, Tensor] | None = None
        self.handling = stopping.handled_by(self._note, clear_up=None)
        self.handling.__enter__()
        return self

    def __exit__(self, *_) -> None:
        self.handling.__exit__(None, None, None)

    def _note(self, number: int, _frame) -> None:
        self.noted = signal.Signals(number).name

    def should_stop(self) -> bool:
        """Whether all stop now. Every rank must call it, after every step.

        With several ranks the result is that of the call before: it has arrived by now, so that no
        rank waits for it.
        """
        if distributed.world_size() == 1:
            return self.noted is not None
        before, self.pending = self.pending, collectives.any_rank_async(self.noted is not None)
        if before is None:
            return False
        work, flag = before
        work.wait()
        return bool(flag)
