"""How a reading process starts and ends: with its run, and with nothing else."""

import ctypes
import os
import signal
import sys
import threading
from collections.abc import Iterable
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess

import torch

from videohpm.data.kept_memory import keep_memory
from videohpm.data.worker_state import WorkerState

DYING_SECONDS = 10.0
"""That a process may take to end once its connections have."""
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


class StartWorker:
    """torch's ``worker_init_fn``: notes the process in ``worker_state``, which it shares."""

    def __init__(self, worker_state: WorkerState):
        self.worker_state = worker_state

    def __call__(self, worker: int) -> None:
        self.worker_state.worker = worker
        self.worker_state.pids[worker] = os.getpid()
        _die_with_parent()
        keep_memory()
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


def ignore_deaths() -> None:
    """Takes torch's handler off again: it would raise in the middle of a training step.

    A death is noticed all the same, within seconds, when the next batch is waited for.
    """
    if hasattr(signal, "SIGCHLD") and threading.current_thread() is threading.main_thread():
        handler = signal.getsignal(signal.SIGCHLD)
        if getattr(handler, "__module__", "").startswith("torch.utils.data"):
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)


def exit_codes(processes: Iterable[BaseProcess]) -> dict[int, int]:
    """Of those that have ended, by process; waits a while for the first where none has.

    The connections of a process that ends are closed before the system tells how it ended: an error
    that follows from it may come first.
    """
    processes = list(processes)
    ending = wait([process.sentinel for process in processes], DYING_SECONDS)
    codes = {}
    for process in processes:
        if process.sentinel in ending:
            process.join()  # its memory may still be on its way to a core file
        if process.pid is not None and process.exitcode is not None:
            codes[process.pid] = process.exitcode
    return codes
