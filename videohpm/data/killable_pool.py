"""Worker processes that may be killed: a hang, a crash or a decompression bomb costs one item.

Used where files are read for the first time (``scan``, ``transcode``). Training has
``loader.py``.
"""

import logging
import multiprocessing
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

from videohpm.data.worker_state import KILLED
from videohpm.errors import RunError
from videohpm.writing import full_disk, make_room

START_SECONDS = 300.0  # a worker imports torch, perhaps from a busy network disk
GRACE_SECONDS = 30.0  # after which a worker ends itself, where its parent did not kill it
GIGABYTE = 2**30
MOST_KILLS = 10  # one after the other, without a result between them
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Failed:
    """An item without a result, and why, in one line."""

    reason: str


@dataclass(frozen=True)
class _NoRoom:
    """A worker could not write: not the fault of its item."""

    where: str


def run_killable(
    function: Callable[[Any], Any],
    items: Iterable[Any],
    *,
    jobs: int,
    seconds: float,
    memory: float,
) -> Iterator[tuple[int, Any]]:
    """(position, ``function(item)`` or Failed) for each of ``items``, in the order of finishing.

    ``function`` belongs to a module and runs in one of ``jobs`` processes. One that takes longer
    than ``seconds``, or dies, is replaced, and its item is Failed. ``memory`` is how many GB a
    worker may take beyond what it starts with (on Linux; elsewhere there is no bound). One that is
    killed from outside is no fault of its item, which is done again, with one process fewer.
    Raises RunError where they are killed again and again, and where the disk is full.
    """
    context = _context(function.__module__)
    waiting = _Items(items)
    workers: list[_Worker] = []
    kills = 0
    try:
        while True:
            while len(workers) < jobs and (item := waiting.take()) is not None:
                workers.append(_Worker.start(context, function, seconds, memory, item))
            if not workers:
                return
            soonest = min(worker.deadline for worker in workers)
            ready = wait(
                [worker.connection for worker in workers], max(soonest - time.monotonic(), 0)
            )
            for worker in list(workers):
                if worker.connection in ready:
                    done = worker.receive()
                elif time.monotonic() >= worker.deadline:
                    done = worker.time_out()
                else:
                    continue
                if worker.killed:
                    kills, jobs = kills + 1, max(jobs - 1, 1)
                    _report_kill(kills, jobs)
                    assert worker.item is not None
                    waiting.put_back(worker.item)
                elif done is not None:
                    if isinstance(done[1], _NoRoom):
                        raise RunError(make_room(done[1].where))
                    kills = 0
                    yield done
                if not worker.alive or (worker.item is None and not worker.send(waiting)):
                    workers.remove(worker)
                    worker.stop()
    finally:
        for worker in workers:
            worker.stop()


def _report_kill(kills: int, jobs: int) -> None:
    what = "was killed from outside (signal 9; is memory short?)"
    if kills >= MOST_KILLS:
        raise RunError(
            f"each of the last {kills} worker processes {what}; start again with fewer --workers, "
            "or more memory"
        )
    _log.warning("a worker process %s; going on with %d", what, jobs)


class _Items:
    """Items with their positions; one whose process was killed comes again, after the others."""

    def __init__(self, items: Iterable[Any]):
        self.numbered, self.again = enumerate(items), deque()

    def take(self) -> tuple[int, Any] | None:
        """The next one; None where there is none."""
        return next(self.numbered, None) or (self.again.popleft() if self.again else None)

    def put_back(self, item: tuple[int, Any]) -> None:
        self.again.append(item)


@dataclass
class _Worker:
    process: Any
    connection: Connection
    seconds: float
    deadline: float
    item: tuple[int, Any] | None  # what it works on
    waiting: tuple[int, Any] | None = None  # its first item, until it has started
    alive: bool = True
    killed: bool = False  # from outside

    @classmethod
    def start(cls, context, function, seconds: float, memory: float, item) -> "_Worker":
        connection, for_worker = context.Pipe()
        arguments = (for_worker, function, seconds, memory)
        process = context.Process(target=_work, args=arguments, daemon=True)
        process.start()
        for_worker.close()
        return cls(process, connection, seconds, time.monotonic() + START_SECONDS, item, item)

    def send(self, items: _Items) -> bool:
        """Hands over the next item; False where there is none."""
        self.item, self.waiting = self.waiting or items.take(), None
        if self.item is None:
            return False
        self.deadline = time.monotonic() + self.seconds
        try:
            self.connection.send(self.item[1])
        except OSError:  # it died between two items: noticed when its result is received
            self.deadline = time.monotonic()
        return True

    def receive(self) -> tuple[int, Any] | None:
        """The result of its item; None where it has started, or was killed from outside."""
        assert self.item is not None
        position = self.item[0]
        try:
            result = self.connection.recv()
        except Exception:  # a message that was cut off means that it died, too
            self.alive = False
            self.process.join(5)
            self.killed = self.process.exitcode == KILLED
            self.process.kill()
            self.process.join(5)
            if self.killed:
                return None
            if self.waiting is not None:
                raise RunError(f"a worker did not start ({self.exit_reason()})") from None
            return position, Failed(f"the decoder crashed ({self.exit_reason()})")
        self.item = None
        return None if self.waiting is not None else (position, result)

    def time_out(self) -> tuple[int, Any]:
        """Kills it; its item has failed."""
        assert self.item is not None
        self.alive = False
        self.process.kill()
        if self.waiting is not None:
            raise RunError(f"a worker did not start within {START_SECONDS:g} seconds")
        return self.item[0], Failed(f"no result within {self.seconds:g} seconds")

    def exit_reason(self) -> str:
        code = self.process.exitcode
        if code is not None and code < 0:
            return f"signal {signal.Signals(-code).name}"
        return f"exit code {code}"

    def stop(self) -> None:
        self.connection.close()
        if not self.alive or self.item is not None:
            self.process.kill()
        self.process.join(5)  # one that the kernel does not let die is abandoned


def _context(module: str):
    """Fresh processes: a fork of this one would share its threads' locks and its decoders.

    Where possible they are forked from a server that imports the function's module once.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, module])
    return context


def _work(connection: Connection, function, seconds: float, memory: float) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends the work
    _silence_decoders()
    _bound_memory(memory)
    connection.send(None)
    while True:
        try:
            item = connection.recv()
        except (EOFError, OSError):
            return
        _set_alarm(seconds + GRACE_SECONDS)
        try:
            result = function(item)
        except MemoryError:
            result = Failed(f"takes more than {memory:g} GB of memory")
        except Exception as error:
            where = full_disk(error)
            text = " ".join(f"{type(error).__name__}: {error}".split())
            result = Failed(text) if where is None else _NoRoom(where)
        _set_alarm(0)
        connection.send(result)


def _silence_decoders() -> None:
    """What decoders print about broken files would break up the progress bar."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    os.close(null)


def _bound_memory(gigabytes: float) -> None:
    try:
        import resource

        with open("/proc/self/statm") as file:
            pages = int(file.read().split()[0])
        now = pages * os.sysconf("SC_PAGE_SIZE")
        limit = now + int(gigabytes * GIGABYTE)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    except (ImportError, OSError, ValueError):
        return


def _set_alarm(seconds: float) -> None:
    """Ends this process after ``seconds``, unless it is set anew; 0 turns it off.

    The signal's default ends the process even inside native code that holds Python's lock.
    """
    if hasattr(signal, "setitimer"):
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, seconds)
