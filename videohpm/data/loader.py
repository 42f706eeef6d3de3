"""The reading processes of a run: they may hang, crash or be killed, and the run goes on.

torch's DataLoader ends the run when a worker dies. Batches are a function of their position alone,
so it can be built anew at the first batch not delivered yet, and nothing is lost but time.
"""

import logging
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from videohpm.data.batches import GlobalBatchSampler, collate
from videohpm.data.clips import ClipDataset
from videohpm.errors import RunError, UserError

MOST_DEATHS, AMONG_BATCHES = 10, 1000  # more deaths among so many batches end the run
TEARDOWN_SECONDS = 30.0
_log = logging.getLogger(__name__)


class Loader:
    """Batches of ``dataset`` in the order of ``sampler``; iterating starts at its first batch.

    The data set has a ``manifest`` and a ``worker_state``
    (:class:`videohpm.data.worker_state.WorkerState`), by
    which it says what its workers read.

    ``deaths`` counts how often workers died and were replaced. A file that kills its reader twice
    is given up and replaced like any other that cannot be read. Raises RunError where workers keep
    dying, UserError where the data set raises one in a worker.
    """

    def __init__(
        self,
        dataset: Dataset,
        sampler: Sampler | list,
        collate: Callable[[list], Any],
        *,
        workers: int,
        prefetch: int = 2,
        pin_memory: bool = False,
    ):
        self.dataset, self.sampler, self.collate = dataset, sampler, collate
        self.workers, self.prefetch, self.pin_memory = workers, prefetch, pin_memory
        self.deaths = 0
        self._kept: DataLoader | None = None  # with its workers, for the next time
        if workers:
            dataset.worker_state.share(workers)

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[Any]:
        done, recent = 0, deque(maxlen=MOST_DEATHS)
        while True:
            batches = [self._start(done)]  # in a list, so that it can be let go of elsewhere
            try:
                for batch in batches[0]:
                    done += 1
                    yield batch
                return
            except UserError as error:
                # torch puts the worker's traceback before the message.
                told = str(error).strip().splitlines()[-1].split("UserError: ")[-1]
                raise UserError(told) from None
            except Exception as error:
                # What a worker raises comes as "Caught ... in DataLoader worker"; everything else
                # is the machinery telling that one is gone.
                if not self.workers or str(error).startswith("Caught "):
                    raise
                self._tidy(batches)
                self._count_death(done, recent, error)

    def _start(self, first: int) -> Iterator[Any]:
        """Iterates from batch number ``first`` on."""
        if first == 0 and self._kept is not None:
            return iter(self._kept)
        loader = DataLoader(
            self.dataset,
            batch_sampler=_From(self.sampler, first),
            collate_fn=self.collate,
            num_workers=self.workers,
            pin_memory=self.pin_memory,
            worker_init_fn=_Begin(self.dataset),
            prefetch_factor=self.prefetch if self.workers else None,
            persistent_workers=self.workers > 0,
        )
        self._kept = loader if first == 0 else None
        batches = iter(loader)
        if self.workers:
            _ignore_deaths()
        return batches

    def _count_death(self, done: int, recent: deque, error: Exception) -> None:
        rows = self.dataset.worker_state.mark_crashed()
        where = ", ".join(self.dataset.manifest[row].path for row in rows) or "nothing"
        self.deaths += 1
        recent.append(done)
        if len(recent) == MOST_DEATHS and done - recent[0] < AMONG_BATCHES:
            raise RunError(
                f"reading processes died {MOST_DEATHS} times within {AMONG_BATCHES} batches (the "
                f"last while reading {where}: {error}); look for bad files with videohpm data "
                "scan, or for memory that is short with fewer data.workers"
            ) from None
        _log.warning(
            "a reading process died; they were reading %s; starting again at batch %d", where, done
        )

    def _tidy(self, batches: list) -> None:
        """Lets torch end the workers; what still lives then is killed."""
        self._kept = None
        # A dead worker may have taken a lock with it that ending the others waits for.
        end = threading.Thread(target=batches.clear, daemon=True)
        end.start()
        end.join(TEARDOWN_SECONDS)
        ours = set(self.dataset.worker_state.pids.tolist())
        for child in multiprocessing.active_children():
            if child.pid in ours:
                child.kill()
                child.join(1)


def make_loader(
    dataset: ClipDataset,
    sampler: GlobalBatchSampler,
    *,
    workers: int | None = None,
    pin_memory: bool = False,
) -> Loader:
    """Batches in the sampler's order; ``workers`` defaults to the data set's configuration."""
    workers = dataset.config.workers if workers is None else workers
    return Loader(
        dataset,
        sampler,
        collate,
        workers=workers,
        prefetch=dataset.config.prefetch,
        pin_memory=pin_memory,
    )


class _From(Sampler):
    """The keys of ``sampler`` from batch ``first`` on."""

    def __init__(self, sampler: Sampler | list, first: int):
        self.sampler, self.first = sampler, first

    def __len__(self) -> int:
        return len(self.sampler) - self.first

    def __iter__(self) -> Iterator:
        return islice(iter(self.sampler), self.first, None)


class _Begin:
    """What a worker does first."""

    def __init__(self, dataset: Dataset):
        self.dataset = dataset

    def __call__(self, worker: int) -> None:
        worker_state = self.dataset.worker_state
        worker_state.worker = worker
        worker_state.pids[worker] = os.getpid()
        # The workers are the parallelism: more threads in each would fight over the same cores.
        torch.set_num_threads(1)
        if hasattr(signal, "SIGALRM"):
            signal.signal(signal.SIGALRM, signal.SIG_DFL)  # see WorkerState.watched
        # A cluster that stops a run signals all its processes. The run then finishes its step,
        # which needs its workers; they obey nobody but it, so that they still end when it does.
        if hasattr(signal, "sigwaitinfo"):  # Linux: elsewhere nobody knows who sent a signal
            stops = {signal.SIGTERM, signal.SIGUSR1}
            signal.pthread_sigmask(signal.SIG_BLOCK, stops)
            threading.Thread(target=_await_end, args=(stops, os.getppid()), daemon=True).start()


def _await_end(stops: set[signal.Signals], run: int) -> None:
    while signal.sigwaitinfo(stops).si_pid != run:
        pass
    os._exit(0)


def _ignore_deaths() -> None:
    """Takes torch's handler off again: it would raise in the middle of a training step.

    A death is noticed all the same, within seconds, when the next batch is waited for.
    """
    if hasattr(signal, "SIGCHLD") and threading.current_thread() is threading.main_thread():
        handler = signal.getsignal(signal.SIGCHLD)
        if getattr(handler, "__module__", "").startswith("torch.utils.data"):
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
