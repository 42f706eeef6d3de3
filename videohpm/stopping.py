"""SIGTERM and SIGUSR1 from the first line of a program to its last: exit code 75, nothing lost.

What a signal does depends on what it falls into:

============ ======================================================================================
before work  (imports, parsing): the process ends at once
work         :class:`videohpm.errors.Preempted` is raised where the program is, so that it clears up
training     it is noted; the step is finished and saved (:class:`videohpm.engine.StopRequest`)
============ ======================================================================================

Python calls handlers between two of its own instructions alone: not while native code waits for
another process, and an exception that falls into an import may be swallowed there. So a thread
listens too, and ends a process that does not end by itself. It listens to SIGINT likewise.

Nothing here imports torch: :func:`begin` is called before anything that takes time.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

from videohpm.errors import INTERRUPTED, Preempted, exit_code

# Not every system has all of these.
STOP_SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGUSR1") if hasattr(signal, name)]
LAUNCHER = "VIDEOHPM_LAUNCHER"
"""Environment variable with the process id of our launcher."""
HELD = [*STOP_SIGNALS, signal.SIGINT]
"""What our launcher holds back until the processes that it starts have called :func:`begin`."""
SECONDS_TO_CLEAR_UP = 5.0
"""That the program gets to end by itself, once it was told to."""

Handler = Callable[[int, FrameType | None], object]


class _Program:
    """This process."""

    listening = False
    """Whether the thread runs."""
    clear_up: float | None = 0.0
    """Seconds it gets to end by itself after a signal; None where the signal is only noted."""
    received: str | None = None
    """The stop signal that came, which an exception handler somewhere may have swallowed."""
    interrupted = False
    """Whether SIGINT came."""
    ended: int | None = None
    """The exit code, once nothing changes it any more."""
    leaving = threading.Lock()
    """Taken by the thread, or the handler, that ends the process."""
    telling = threading.Lock()
    """Taken by who tells that a signal ends this process."""
    last_words: list[Callable[[int, str | None], None]] = []
    """Called with exit code and message before the thread ends the process, instead of printing."""


def begin() -> None:
    """Handle signals to stop from here on, until the process ends. In the main thread, once.

    Those that come meanwhile are handled as it returns; SIGINT then is a KeyboardInterrupt here.
    """
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_BLOCK, HELD)
    for number in STOP_SIGNALS:
        signal.signal(number, _leave_unless_ending)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else it is ignored
        signal.signal(signal.SIGINT, _interrupt)
    sys.unraisablehook = _without_stops(sys.unraisablehook)
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    threading.Thread(target=_listen, args=(reading,), daemon=True, name="signals").start()
    _Program.listening = True
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_forget)
    _stop_with_launcher()
    atexit.register(_exit)  # the first to be registered is the last to be called
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD)


def end(code: int) -> None:
    """The exit code is known: neither a signal nor a thread changes it any more."""
    for number in HELD:
        signal.signal(number, signal.SIG_IGN)
    _Program.ended = code


def _exit() -> None:
    """End a process that has done all but take its modules down, without doing that.

    A reader that hangs, or that a signal interrupted, may still be inside native code. Python ends
    its thread there, and C++ takes that for an error: SIGABRT instead of the exit code.
    """
    if _Program.ended is None:
        return
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):  # closed, or nobody reads it
            stream.flush()
    os._exit(_Program.ended)


def before_leaving(action: Callable[[int, str | None], None]) -> None:
    """Have ``action(code, message)`` called, which must not wait, where the thread ends us.

    The message is None where it was told already.
    """
    if action not in _Program.last_words:
        _Program.last_words.append(action)


@contextmanager
def raising() -> Iterator[None]:
    """Around work: SIGTERM and SIGUSR1 end it as Preempted; a second one does not disturb that."""
    raised = False

    def stop(number: int, _frame: FrameType | None) -> None:
        nonlocal raised
        if not raised:
            raised, _Program.received = True, signal.Signals(number).name
            raise Preempted(_message(number))

    with handled_by(stop, SECONDS_TO_CLEAR_UP):
        yield


@contextmanager
def handled_by(handler: Handler, clear_up: float | None) -> Iterator[None]:
    """Give the signals to stop another handler. Only a main thread can; elsewhere nothing changes.

    Args:
        clear_up: seconds after a signal in which the process ends by itself; None: it need not.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in STOP_SIGNALS}
    patience, _Program.clear_up = _Program.clear_up, clear_up
    try:
        yield
    except (Preempted, KeyboardInterrupt):
        patience = SECONDS_TO_CLEAR_UP  # the thread may hear of the signal after this
        raise
    finally:
        _Program.clear_up = patience
        for number, old in before.items():
            signal.signal(number, old)


def first_to_tell() -> bool:
    """Whether to say that a signal ends this process: the program and the thread may both do so."""
    return not _Program.listening or _Program.telling.acquire(blocking=False)


def swallowed() -> str | None:
    """The name of a signal to stop that came before and did not end this process; else None."""
    return _Program.received if _Program.listening else None


def lost() -> BaseException | None:
    """What a signal raised in this process, where the work ended with another error: a library of
    native code gives the exception that falls into its callback another name."""
    if not _Program.listening:
        return None
    if _Program.interrupted:
        return KeyboardInterrupt()
    if _Program.received is not None:
        return Preempted(_message(signal.Signals[_Program.received]))
    return None


def _message(number: int) -> str:
    if number == signal.SIGINT:
        return "interrupted"
    return (
        f"stopped by {signal.Signals(number).name} while no step was being done; nothing is lost, "
        "the same command goes on"
    )


def _without_stops(hook: Callable[[Any], object]) -> Callable[[Any], object]:
    """Python prints what is raised where nothing can be, as in a ``__del__``: not a signal's error,
    for the thread sees to that."""

    def quiet(unraisable: Any) -> None:
        if not isinstance(unraisable.exc_value, (Preempted, KeyboardInterrupt)):
            hook(unraisable)

    return quiet


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    _Program.interrupted = True
    raise KeyboardInterrupt


def _leave_unless_ending(number: int, _frame: FrameType | None) -> None:
    if _Program.received is None:  # else Preempted is on its way, and the thread sees to it
        _leave(number)


def _leave(number: int) -> None:
    """End this process, once, without clearing up."""
    if not _Program.leaving.acquire(blocking=False):
        return
    message = _message(number)
    code = INTERRUPTED if number == signal.SIGINT else exit_code(Preempted())
    first = first_to_tell()
    if not first and threading.current_thread() is not threading.main_thread():
        time.sleep(SECONDS_TO_CLEAR_UP)  # the program is about to say it, and ends by itself
    with suppress(Exception):
        for action in _Program.last_words:
            action(code, message if first else None)
        if first and not _Program.last_words and os.environ.get("LOCAL_RANK", "0") == "0":
            os.write(2, f"videohpm: {message}\n".encode())
    os._exit(code)


def _listen(reading: int) -> None:
    while received := os.read(reading, 1):
        number = received[0]
        if number not in HELD or _Program.clear_up is None:
            continue
        deadline = time.monotonic() + _Program.clear_up
        while _Program.clear_up is not None and time.monotonic() < deadline:
            time.sleep(0.05)
        if _Program.clear_up is not None:
            _leave(number)


def _stop_with_launcher() -> None:
    """On Linux, have SIGTERM sent to us where our launcher dies: nobody else could stop us, and the
    same command, started again, would write to the same run."""
    launcher = os.environ.get(LAUNCHER)
    if launcher is None or sys.platform != "linux":
        return
    import ctypes

    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
    if os.getppid() != int(launcher):  # it died before
        os.kill(os.getpid(), signal.SIGTERM)


def _forget() -> None:
    """In a process that was forked: what it receives is not meant for this one."""
    with suppress(ValueError):
        signal.set_wakeup_fd(-1)
        if _Program.clear_up is not None:
            for number in STOP_SIGNALS:
                signal.signal(number, signal.SIG_DFL)
    _Program.listening = False
