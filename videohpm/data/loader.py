"""The reading processes of a run: they may hang, crash or be killed without ending the run.

torch's DataLoader ends the run when a worker dies. Batches are a function of their position alone,
so it can be made again from the first batch not delivered yet, and only time is lost.
"""

import ctypes
import gc
import logging
import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, Protocol, cast

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from videohpm.data.batches import GlobalBatchSampler, collate
from videohpm.data.clips import ClipDataset
from videohpm.data.manifest import Manifest
from videohpm.data.worker_state import WorkerState
from videohpm.errors import RunError, UserError

MOST_DEATHS, AMONG_BATCHES = 10, 1000  # more deaths among so many batches end the run
TEARDOWN_SECONDS = 30.0
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_log = logging.getLogger(__name__)


class WatchedDataset(Protocol):
    """A data set that notes in ``worker_state`` which row of ``manifest`` a worker reads."""

    manifest: Manifest
    worker_state: WorkerState

    def __getitem__(self, key: Any, /) -> Any: ...


class BatchSampler(Protocol):
    """Lists of keys of a data set, one list a batch."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[list]: ...


class Loader:
    """Batches of ``dataset`` in the order of ``sampler``; iterating starts at its first batch.

    ``deaths`` counts how often workers died and were replaced. A file that kills its reader twice
    is not read again: another replaces it, as for any that cannot be read. Raises RunError where
    workers keep dying, UserError where the data set raises one in a worker.
    """

    def __init__(
        self,
        dataset: WatchedDataset,
        sampler: BatchSampler,
        collate: Callable[[list], Any],
        *,
        workers: int,
        prefetch: int = 2,
        pin_memory: bool = False,
    ):
        self.dataset, self.sampler, self.collate = dataset, sampler, collate
        self.workers, self.prefetch, self.pin_memory = workers, prefetch, pin_memory
        self.deaths = 0
        self._kept: DataLoader | None = None  # with its workers, for the next iteration
        if workers:
            dataset.worker_state.share(workers)

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[Any]:
        done, recent = 0, deque(maxlen=MOST_DEATHS)
        while True:
            batches = [self._start(done)]  # in a list, so that _tidy can drop the last reference
            try:
                for batch in batches[0]:
                    done += 1
                    yield batch
                return
            except UserError as error:
                # torch puts the worker's traceback before the message.
                message = str(error).strip().splitlines()[-1].split("UserError: ")[-1]
                raise UserError(message) from None
            except Exception as error:
                # What a worker raises comes as "Caught ... in DataLoader worker"; everything else
                # means that one is gone.
                if not self.workers or str(error).startswith("Caught "):
                    raise
                self._tidy(batches)
                self._count_death(done, recent, error)

    def _start(self, first: int) -> Iterator[Any]:
        """Iterates from batch number ``first`` on."""
        if first == 0 and self._kept is not None:
            return iter(self._kept)
        loader = DataLoader(
            cast(Dataset, self.dataset),
            batch_sampler=_From(self.sampler, first),
            collate_fn=self.collate,
            num_workers=self.workers,
            pin_memory=self.pin_memory,
            worker_init_fn=_StartWorker(self.dataset),
            prefetch_factor=self.prefetch if self.workers else None,
            persistent_workers=self.workers > 0,
            generator=torch.Generator(),  # a seed for the workers, not drawn from the run's
        )
        self._kept = loader if first == 0 else None
        if self.workers:
            # Workers are forked. A decoder that is freed there would wait for threads that only
            # this process has: garbage goes now, and what remains is not for them to collect.
            gc.collect()
            gc.freeze()
        batches = iter(loader)
        if self.workers:
            gc.unfreeze()
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
            "a reading process died; read at that moment: %s; starting again at batch %d",
            where,
            done,
        )

    def _tidy(self, batches: list) -> None:
        """Lets torch end the workers; those still alive then are killed."""
        self._kept = None
        # A dead worker may have taken a lock with it that ending the others waits for.
        end = threading.Thread(target=batches.clear, daemon=True)
        end.start()
        end.join(TEARDOWN_SECONDS)
        workers = set(self.dataset.worker_state.pids.tolist())
        for child in multiprocessing.active_children():
            if child.pid in workers:
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

    def __init__(self, sampler: BatchSampler, first: int):
        self.sampler, self.first = sampler, first

    def __len__(self) -> int:
        return len(self.sampler) - self.first

    def __iter__(self) -> Iterator:
        return islice(iter(self.sampler), self.first, None)


class _StartWorker:
    """What a worker does first."""

    def __init__(self, dataset: WatchedDataset):
        self.dataset = dataset

    def __call__(self, worker: int) -> None:
        worker_state = self.dataset.worker_state
        worker_state.worker = worker
        worker_state.pids[worker] = os.getpid()
        _die_with_parent()
        # The workers are the parallelism: more threads in each would fight over the same cores.
        torch.set_num_threads(1)
        if hasattr(signal, "SIGALRM"):
            signal.signal(signal.SIGALRM, signal.SIG_DFL)  # see WorkerState.watched
        # A cluster that stops a run signals all its processes. The run then finishes its step,
        # which needs its workers: they end by such a signal only where the run itself sent it.
        if hasattr(signal, "sigwaitinfo"):  # Linux: elsewhere the sender of a signal is unknown
            stops = {signal.SIGTERM, signal.SIGUSR1}
            signal.pthread_sigmask(signal.SIG_BLOCK, stops)
            threading.Thread(
                target=_exit_on_signal_of, args=(stops, os.getppid()), daemon=True
            ).start()


def _die_with_parent() -> None:
    """On Linux, end this process as soon as the run is gone.

    A worker that lives on, perhaps in a file that hangs, keeps the run's connections open: the
    other ranks would not notice that it is gone.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _exit_on_signal_of(stops: set[signal.Signals], run: int) -> None:
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
