"""A bound on how long reading one sample may take."""

import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any


class _Caller(threading.Thread):
    """Calls one function after another.

    A thread that is new to each clip takes memory that is new, too, and its pages are found and
    cleared one by one: a tenth of what reading a clip of key frames takes.
    """

    def __init__(self):
        super().__init__(daemon=True)
        self.asked, self.answers = SimpleQueue(), SimpleQueue()
        self.start()

    def run(self) -> None:
        while True:
            # In a function of its own, so that nothing is held while the next call is waited for.
            self._answer(*self.asked.get())

    def _answer(self, function: Callable[..., Any], arguments: tuple) -> None:
        try:
            self.answers.put((function(*arguments), None))
        except BaseException as error:  # handed to the caller, whatever it is
            self.answers.put((None, error))


_idle: list[_Caller] = []
"""Threads that are waiting for a call; in a process that was forked since, they are not alive."""


def call_with_timeout(seconds: float, function: Callable[..., Any], *arguments: Any) -> Any:
    """``function(*arguments)``, or TimeoutError where it takes longer than ``seconds``.

    The call runs in another thread. A decoder that hangs inside native code cannot be stopped, only
    abandoned: its thread stays until the process ends. 0 is no bound.
    """
    if not seconds:
        return function(*arguments)
    caller = _idle_caller()
    caller.asked.put((function, arguments))
    try:
        value, error = caller.answers.get(timeout=seconds)
    except Empty:
        raise TimeoutError(f"no result within {seconds:g} seconds") from None
    _idle.append(caller)
    if error is None:
        return value
    try:
        raise error
    finally:
        del error  # which holds this frame, and with it what was read


def _idle_caller() -> _Caller:
    while _idle:
        caller = _idle.pop()
        if caller.is_alive():
            return caller
    return _Caller()
