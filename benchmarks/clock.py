"""How a step is measured: time of its parts, memory, arithmetic, and what the machine can do."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable

os.environ.setdefault("KINETO_LOG_LEVEL", "5")  # the profiler is talkative

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


class Clock:
    """Seconds between marks, each booked under the name of the mark that ends it.

    Args:
        device: on a GPU the marks are events in its stream, read once the step is over, so that
            measuring makes nothing wait.
        kind: ``wall``, or ``cpu``: the processor time of all threads, which other work on the
            machine disturbs less. With one thread the two agree on an idle machine.
    """

    def __init__(self, device: torch.device, kind: str = "wall"):
        self.device, self.now = device, CLOCKS[kind]
        self.marks: list[tuple[str, object]] = []

    def start(self) -> None:
        self._wait()
        self.marks = [("", self._stamp())]

    def mark(self, name: str) -> None:
        self.marks.append((name, self._stamp()))

    def parts(self) -> dict[str, float]:
        """Seconds of each part since :meth:`start`; parts of one name are added up."""
        self._wait()
        spent: dict[str, float] = {}
        for (_, before), (name, after) in zip(self.marks, self.marks[1:], strict=False):
            spent[name] = spent.get(name, 0.0) + self._seconds(before, after)
        return spent

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _stamp(self):
        if self.device.type != "cuda":
            return self.now()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def _seconds(self, before, after) -> float:
        if self.device.type == "cuda":
            return before.elapsed_time(after) / 1000
        return after - before


def matmul_rate(device: torch.device, dtype: torch.dtype, kind: str = "wall") -> float:
    """Floating-point operations a second of large square matrix products, for about a second.

    Not of one alone: a processor is faster for a moment than it can remain.
    """
    n, times = (8192, 100) if device.type == "cuda" else (2048, 8)
    a, b = (torch.ones(n, n, device=device, dtype=dtype) for _ in range(2))
    a @ b
    clock = Clock(device, kind)
    clock.start()
    for _ in range(times):
        a @ b
    clock.mark("all")
    return times * 2 * n**3 / clock.parts()["all"]


def count_flops(step: Callable[[], object]) -> int:
    """Floating-point operations of all matrix products of a step, attention's included."""
    with FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops()


def peak_memory(step: Callable[[], object], held: Iterable[Tensor], device: torch.device) -> int:
    """Bytes of tensors at the fullest moment of a step.

    On a GPU what its allocator says. On a CPU what torch's allocator gave out and took back, on
    top of the ``held`` tensors, which lived before.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        step()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        step()
    events = [e for e in seen.profiler.kineto_results.events() if e.name() == "[memory]"]
    now = most = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return tensor_bytes(held) + most


def tensor_bytes(tensors: Iterable[Tensor]) -> int:
    """Bytes that tensors hold, memory they share counted once."""
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    return sum(storages.values())


def load_average() -> float | None:
    """Of the last minute; None where the system does not say."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None
