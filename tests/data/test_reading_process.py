"""The thread that reads a file, and the memory that a reading process keeps."""

import multiprocessing
import os
import resource
import sys
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from videohpm.data.timeout import call_with_timeout
from videohpm.data.worker_process import keep_memory


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


def _new_pages(keep: bool, answer) -> None:
    if keep:
        keep_memory()
    for turn in range(12):
        if turn == 2:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        arrays = [np.ones(20 * 2**20, np.uint8) for _ in range(3)]
        del arrays
    answer.put(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)


@pytest.mark.skipif(sys.platform != "linux", reason="malloc's limits are those of glibc")
def test_memory_that_is_freed_stays():
    """Clip after clip finds the pages of the one before it; glibc left alone gives them back."""
    context = multiprocessing.get_context("spawn")
    pages = {}
    for keep in (False, True):
        answer = context.SimpleQueue()
        process = context.Process(target=_new_pages, args=(keep, answer))
        process.start()
        pages[keep] = answer.get()
        process.join()
    assert pages[True] < 100 < pages[False]
