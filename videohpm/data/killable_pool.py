"""Worker processes that may be killed: a hang, a crash or a bomb costs one item, not the run.

Used where files are met for the first time (``scan``, ``transcode``). Training has its own way:
see ``loader.py``.
"""

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import Any

from videohpm.errors import RunError

START_SECONDS = 300.0  # a worker imports torch, perhaps from a busy network disk
GRACE_SECONDS = 30.0  # after which a worker ends itself, where nobody is left to kill it
GIGABYTE = 2**30


@dataclass(frozen=True)
class Failed:
    """An item without a result, and why, in one line."""

    reason: str


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
    worker may take beyond what it starts with (on Linux; elsewhere there is no bound).
    """
    context = _context(function.__module__)
    numbered = enumerate(items)
    workers: list[_Worker] = []
    try:
        while True:
            while len(workers) < jobs and (item := next(numbered, None)) is not None:
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
                    done = worker.give_up()
                else:
                    continue
                if done is not None:
                    yield done
                if not worker.alive or (worker.item is None and not worker.send(numbered)):
                    workers.remove(worker)
                    worker.stop()
    finally:
        for worker in workers:
            worker.stop()


@dataclass
class _Worker:
    process: Any
    connection: Connection
    seconds: float
    deadline: float
    item: tuple[int, Any] | None  # what it works on
    waiting: tuple[int, Any] | None = None  # its first item, until it has started
    alive: bool = field(default=True)

    @classmethod
    def start(cls, context, function, seconds: float, memory: float, item) -> "_Worker":
        ours, theirs = context.Pipe()
        arguments = (theirs, function, seconds, memory)
        process = context.Process(target=_work, args=arguments, daemon=True)
        process.start()
        theirs.close()
        return cls(process, ours, seconds, time.monotonic() + START_SECONDS, item, item)

    def send(self, numbered: Iterator[tuple[int, Any]]) -> bool:
        """Hands over the next item; False where there is none."""
        self.item, self.waiting = self.waiting or next(numbered, None), None
        if self.item is None:
            return False
        self.deadline = time.monotonic() + self.seconds
        try:
            self.connection.send(self.item[1])
        except OSError:  # it died between two items: noticed when it is listened to
            self.deadline = time.monotonic()
        return True

    def receive(self) -> tuple[int, Any] | None:
        """The result of its item; nothing for the sign that it has started."""
        position = self.item[0]
        try:
            answer = self.connection.recv()
        except Exception:  # a torn message is a death too
            self.alive = False
            self.process.kill()
            self.process.join(5)
            if self.waiting is not None:
                raise RunError(f"a worker did not start ({self.how_it_died()})") from None
            return position, Failed(f"the decoder crashed ({self.how_it_died()})")
        self.item = None
        return None if self.waiting is not None else (position, answer)

    def give_up(self) -> tuple[int, Any]:
        self.alive = False
        self.process.kill()
        if self.waiting is not None:
            raise RunError(f"a worker did not start within {START_SECONDS:g} seconds")
        return self.item[0], Failed(f"no answer within {self.seconds:g} seconds")

    def how_it_died(self) -> str:
        code = self.process.exitcode
        if code is not None and code < 0:
            return f"signal {signal.Signals(-code).name}"
        return f"exit code {code}"

    def stop(self) -> None:
        self.connection.close()
        if not self.alive or self.item is not None:
            self.process.kill()
        self.process.join(5)  # one that the kernel holds is left behind


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
    _silence()
    _bound_memory(memory)
    connection.send(None)
    while True:
        try:
            item = connection.recv()
        except (EOFError, OSError):
            return
        _end_by_itself_after(seconds + GRACE_SECONDS)
        try:
            answer = function(item)
        except MemoryError:
            answer = Failed(f"takes more than {memory:g} GB of memory")
        except Exception as error:
            answer = Failed(" ".join(f"{type(error).__name__}: {error}".split()))
        _end_by_itself_after(0)
        connection.send(answer)


def _silence() -> None:
    """What decoders print about broken files would tear the progress bar."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)
    os.dup2(nothing, 2)
    os.close(nothing)


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


def _end_by_itself_after(seconds: float) -> None:
    """The signal's default ends the process even inside native code that holds Python's lock."""
    if hasattr(signal, "setitimer"):
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, seconds)
