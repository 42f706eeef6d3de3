"""The reading processes of a run: they may hang, crash or be killed without ending the run.

torch's DataLoader ends the run when a worker dies. Batches are a function of their position alone,
so it can be made again from the first batch not delivered yet, and only time is lost.
"""

import gc
import logging
import math
import multiprocessing
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice
from multiprocessing.process import BaseProcess
from typing import Any, Protocol, cast

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from videohpm.data.batches import Batch, GlobalBatchSampler, collate, join_batches
from videohpm.data.clips import ClipDataset
from videohpm.data.manifest import Manifest
from videohpm.data.shared_memory import (
    FULL_MEMORY,
    PartMaker,
    Reused,
    Slots,
    gathered,
    shared_prefetch,
    slot_count,
)
from videohpm.data.worker_process import StartWorker, exit_codes, ignore_deaths
from videohpm.data.worker_state import KILLED, WorkerState
from videohpm.errors import RunError, UserError

MOST_DEATHS, AMONG_BATCHES = 10, 1000  # more deaths among so many batches end the run
TEARDOWN_SECONDS = 30.0
PART = 8
"""Samples in a part of a batch, at most: they keep the cost of handing it over small."""
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

    Each batch is made in ``parts`` of equally many keys, which workers make side by side and
    ``join`` puts together: the first batch is there sooner, and shared memory holds less.
    ``prefetch`` is how many parts each worker keeps ready. With ``part_shape``, that of a part's
    clips (samples, R, T, H, W, 3), workers write them to memory that is used again and again
    (``shared_memory.py``); ``collate`` is then not called, and items are a ClipDataset's.

    ``deaths`` counts how often workers died and were replaced. A file that kills its reader twice
    is not read again: another replaces it, as for any that cannot be read. Where workers are killed
    from outside (memory is short), no file is to blame, and one worker fewer goes on. Raises
    RunError where workers keep dying, UserError where the data set raises one in a worker.
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
        parts: int = 1,
        join: Callable[[list], Any] | None = None,
        part_shape: tuple[int, ...] | None = None,
    ):
        self.dataset, self.sampler, self.collate = dataset, sampler, collate
        self.parts, self.join, self.part_shape = parts, join, part_shape
        self.workers, self.prefetch, self.pin_memory = workers, prefetch, pin_memory
        self.deaths = 0
        self._kept: DataLoader | None = None  # with its workers, for the next iteration
        self._processes: set[BaseProcess] = set()  # those workers
        self._reused = Reused()
        if workers:
            dataset.worker_state.share(workers)

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[Any]:
        parts = self._made_parts()
        while found := gathered(islice(parts, self.parts), self.parts, self._reused):
            batch = self.join(found) if self.join else found[0]
            found.clear()  # shared memory is free again while the batch is worked with
            yield batch
            del batch

    def _made_parts(self) -> Iterator[Any]:
        done, recent = 0, deque(maxlen=MOST_DEATHS)
        while True:
            batches = [self._start(done)]  # in a list, so that _tidy can drop the last reference
            try:
                for part in batches[0]:
                    done += 1
                    yield part
                return
            except UserError as error:
                # torch puts the worker's traceback before the message.
                message = str(error).strip().splitlines()[-1].split("UserError: ")[-1]
                raise UserError(message) from None
            except Exception as error:
                # What a worker raises comes as "Caught ... in DataLoader worker"; everything else
                # means that one is gone.
                if "unable to allocate shared memory" in str(error):
                    raise RunError(FULL_MEMORY) from error
                if not self.workers or str(error).startswith("Caught "):
                    raise
                died = exit_codes(self._processes)
                full = _ended_by_full_memory(batches[0])
                self._tidy(batches)
                if full:
                    raise RunError(FULL_MEMORY) from error
                self._count_death(done // self.parts, recent, error, died)

    def _start(self, first: int) -> Iterator[Any]:
        """Iterates from part number ``first`` on."""
        if first == 0 and self._kept is not None:
            return iter(self._kept)
        dataset, make, slots = self.dataset, self.collate, None
        if self.workers and self.part_shape:
            slots = Slots(slot_count(self.workers, self.prefetch), self.part_shape)
            dataset, make = PartMaker(dataset, slots), _as_it_is
        loader = DataLoader(
            cast(Dataset, dataset),
            batch_sampler=_PartsFrom(self.sampler, self.parts, first, slots),
            collate_fn=make,
            num_workers=self.workers,
            pin_memory=self.pin_memory,
            worker_init_fn=StartWorker(self.dataset.worker_state),
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
        before = set(multiprocessing.active_children())
        batches = iter(loader)
        if self.workers:
            self._processes = set(multiprocessing.active_children()) - before
            gc.unfreeze()
            ignore_deaths()
        return batches

    def _count_death(
        self, done: int, recent: deque, error: Exception, died: dict[int, int]
    ) -> None:
        rows = self.dataset.worker_state.mark_crashed(died)
        where = ", ".join(self.dataset.manifest[row].path for row in rows) or "nothing"
        self.deaths += 1
        recent.append(done)
        if len(recent) == MOST_DEATHS and done - recent[0] < AMONG_BATCHES:
            raise RunError(
                f"reading processes died {MOST_DEATHS} times within {AMONG_BATCHES} batches (the "
                f"last while reading {where}: {error}); look for bad files with videohpm data "
                "scan, or for memory that is short with fewer data.workers"
            ) from None
        if KILLED in died.values() and self.workers > 1:
            self.workers -= 1
            _log.warning(
                "a reading process was killed from outside (signal 9; is memory short?); going on "
                "with %d of them",
                self.workers,
            )
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
    processes: int = 1,
    join: Callable[[list[Batch]], Batch] = join_batches,
) -> Loader:
    """Batches in the sampler's order.

    Args:
        workers: by default as the data set's configuration says.
        pin_memory: of the parts of a batch, for copies to a GPU.
        processes: of the run that share this machine's shared memory.
        join: puts the parts of a batch together, and perhaps on a device.

    Raises UserError where shared memory is too small for what the workers make.
    """
    workers = dataset.config.readers if workers is None else workers
    parts = part_count(sampler.micro_batch, workers)
    prefetch = 1
    if workers:
        # Over all workers together the configured number of batches.
        wanted = math.ceil(dataset.config.prefetch * parts / workers)
        size = dataset.item_bytes * sampler.micro_batch // parts
        prefetch = shared_prefetch(wanted, workers, size, processes)
    return Loader(
        dataset,
        sampler,
        collate,
        workers=workers,
        prefetch=prefetch,
        pin_memory=pin_memory,
        parts=parts,
        join=join,
        part_shape=(sampler.micro_batch // parts, *dataset.clips_shape),
    )


def part_count(micro_batch: int, workers: int) -> int:
    """How many parts of equal size a batch is made in: some for every worker, of a few samples.

    >>> part_count(256, 4), part_count(12, 4), part_count(7, 4), part_count(256, 0)
    (32, 4, 7, 1)
    """
    if not workers:
        return 1
    largest = min(PART, math.ceil(micro_batch / workers))
    sizes = range(1, largest + 1)
    return micro_batch // max(size for size in sizes if micro_batch % size == 0)


def batches_ahead(micro_batch: int, workers: int, prefetch: int) -> int:
    """Micro-batches that are asked for, at most, before the one that is worked with is done.

    Args:
        prefetch: ``data.prefetch``.
    """
    parts = part_count(micro_batch, workers)
    kept = workers * math.ceil(prefetch * parts / workers) if workers else 0
    return math.ceil(kept / parts) + 2  # one begun, and one on its way to the device


def _ended_by_full_memory(batches: Any) -> bool:
    """Whether a worker wrote to shared memory that was not there any more.

    Such memory is promised before it is taken; the process that is then refused it ends by SIGBUS.
    """
    codes = [worker.exitcode for worker in getattr(batches, "_workers", ())]
    return hasattr(signal, "SIGBUS") and -signal.SIGBUS in codes


class _PartsFrom(Sampler):
    """The keys of ``sampler``, each batch in ``parts`` pieces, from piece ``first`` on.

    With ``slots`` each comes with the one that it is to be made in.
    """

    def __init__(self, sampler: BatchSampler, parts: int, first: int, slots: Slots | None):
        self.sampler, self.parts, self.first, self.slots = sampler, parts, first, slots

    def __len__(self) -> int:
        return len(self.sampler) * self.parts - self.first

    def __iter__(self) -> Iterator:
        if self.slots is not None:
            self.slots.free_all()  # of what an iteration that was left had asked for
        whole, begun = divmod(self.first, self.parts)
        for keys in islice(iter(self.sampler), whole, None):
            size = len(keys) // self.parts
            for part in range(begun, self.parts):
                piece = keys[part * size : (part + 1) * size]
                yield piece if self.slots is None else (self.slots.take(), piece)
            begun = 0


def _as_it_is(part: Any) -> Any:
    return part
