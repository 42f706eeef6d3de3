"""The thread that reads a file, and the memory that a reading process keeps."""

import multiprocessing
import os
import resource
import sys
import threading
import time
import weakref
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from videohpm.data import worker_state
from videohpm.data.kept_memory import GIVEN_BACK_AFTER, give_memory_back, keep_memory
from videohpm.data.timeout import call_with_timeout
from videohpm.data.worker_state import WorkerState


def test_the_deadline_passes_results_and_errors_on():
    assert call_with_timeout(0, divmod, 7, 2) == call_with_timeout(5, divmod, 7, 2) == (3, 1)
    for seconds in (0, 5):
        with pytest.raises(ZeroDivisionError):
            call_with_timeout(seconds, divmod, 7, 0)
    with pytest.raises(TimeoutError, match="within 0.05 seconds"):
        call_with_timeout(0.05, threading.Event().wait)


def test_one_thread_reads_file_after_file():
    here = threading.get_ident()
    threads = {call_with_timeout(5, threading.get_ident) for _ in range(5)}
    assert len(threads) == 1 and here not in threads
    with pytest.raises(ZeroDivisionError):
        call_with_timeout(5, divmod, 7, 0)
    assert call_with_timeout(5, threading.get_ident) in threads


def test_a_late_answer_is_nobody_elses():
    go_on = threading.Event()

    def late() -> str:
        go_on.wait()
        return "late"

    with pytest.raises(TimeoutError):
        call_with_timeout(0.05, late)
    go_on.set()
    assert [call_with_timeout(5, str, number) for number in range(20)] == [*map(str, range(20))]


def test_calls_of_several_threads_do_not_mix():
    def slowly(number: int) -> int:
        time.sleep(0.001)
        return number

    with ThreadPoolExecutor(8) as pool:
        answers = pool.map(lambda number: call_with_timeout(30, slowly, number), range(200))
        assert list(answers) == list(range(200))


@pytest.mark.parametrize("fails", [False, True])
def test_nothing_that_was_read_is_held(fails):
    def read(frames: np.ndarray) -> np.ndarray:
        if fails:
            raise ValueError("cannot be read")
        return frames

    frames = np.zeros(3)
    gone = weakref.ref(frames)
    try:
        assert call_with_timeout(5, read, frames) is frames and not fails
    except ValueError:
        assert fails
    del frames
    call_with_timeout(5, str)  # the thread has come back for its next call
    assert gone() is None


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_process_reads_with_a_thread_of_its_own():
    assert call_with_timeout(5, divmod, 7, 2) == (3, 1)  # a thread that the fork will not have
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.apply(call_with_timeout, (5, divmod, 9, 2)) == (4, 1)


def in_a_new_process(function, *arguments):
    """What ``function`` returns there; it must be a module's own."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def new_pages(keep: bool) -> int:
    """Pages that the system had to find, for ten clips of three arrays each."""
    if keep:
        keep_memory()
    before = 0
    for turn in range(12):
        if turn == 2:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        arrays = [np.ones(20 * 2**20, np.uint8) for _ in range(3)]
        del arrays
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def held() -> int:
    """Bytes of this process that are in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def held_before_and_after_giving_back() -> tuple[int, int]:
    """Beyond what is held at first, after 100 MB were used and freed."""
    keep_memory()
    first = held()
    arrays = [np.ones(10 * 2**20, np.uint8) for _ in range(10)]
    del arrays
    kept = held()
    give_memory_back()
    return kept - first, held() - first


@pytest.mark.skipif(sys.platform != "linux", reason="malloc's limits are those of glibc")
def test_memory_that_is_freed_stays():
    """Clip after clip finds the pages of the one before it; glibc left alone gives them back."""
    assert in_a_new_process(new_pages, True) < 100 < in_a_new_process(new_pages, False)


@pytest.mark.skipif(sys.platform != "linux", reason="malloc's limits are those of glibc")
def test_memory_is_given_back():
    kept, left = in_a_new_process(held_before_and_after_giving_back)
    assert left < 20e6 < 90e6 < kept


def test_a_worker_gives_memory_back_now_and_then(monkeypatch):
    given = []
    monkeypatch.setattr(worker_state, "give_memory_back", lambda: given.append(1))
    state = WorkerState(samples=5)
    for worker, times in ((None, 0), (0, 2)):  # None: in no worker
        state.worker = worker
        for number in range(2 * GIVEN_BACK_AFTER + 1):
            with state.watched(number % 5, 0):
                pass
        assert len(given) == times
