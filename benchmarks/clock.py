"""How a step is measured: time of its parts, memory, arithmetic, and what the machine can do."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterable

os.environ.setdefault("KINETO_LOG_LEVEL", "5")  # the profiler is talkative

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}

# Torch's own operators, and those that move tensors between processes.
TORCH_NAMESPACES = {"aten", "prims", "prim", "profiler", "c10d", "_c10d_functional"}
MATRIX_PRODUCT = re.compile(
    r"attention|transformer|conv(\dd|_|olution)|matmul|mm(_|$)|rnn|lstm|gru_"
    r"|(^|_)(linear|bilinear|einsum|tensordot|multi_dot|dot|mv|addmv|addr|ger|outer)(_|$)"
)
"""Finds the names of torch's operators that multiply matrices."""


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
    """Floating-point operations of all matrix products of a step, attention's included.

    The same number with every torch release: those before 2.15 do not count the CPU's fused
    attention, so its formulas, which are those of every fused attention, are given here.

    Raises:
        RuntimeError: the step ran an operator that multiplies matrices, or that is not torch's,
            and there is no formula for it. A count without it would be too low.
    """
    counter = FlopCounterMode(display=False, custom_mapping=CPU_ATTENTION)
    # The counter is entered last and so comes first: the check sees what it could not take apart.
    with _NothingUncounted(counter), counter:
        step()
    return counter.get_total_flops()


def _attention(query, key, value, *_, **__) -> int:
    return sdpa_flop_count(query, key, value)


def _attention_backward(grad_out, query, key, value, *_, **__) -> int:
    return sdpa_backward_flop_count(grad_out, query, key, value)


CPU_ATTENTION = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}


class _NothingUncounted(TorchDispatchMode):
    """Raises at an operator with matrix products for which ``counter`` has no formula."""

    supports_higher_order_operators = True

    def __init__(self, counter: FlopCounterMode):
        super().__init__()
        self.counter = counter

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        # The operator without its overload; functions of functions and kernels have no overloads.
        operator = getattr(func, "_overloadpacket", func)
        if operator not in self.counter.flop_registry and may_multiply_matrices(func):
            raise RuntimeError(
                f"the FLOPs of this step cannot be counted: torch {torch.__version__} has no"
                f" formula for {func}; give it one in {os.path.basename(__file__)}"
            )
        return func(*args, **(kwargs or {}))


def may_multiply_matrices(operator) -> bool:
    """Judged by the operator's name; one that is not torch's own may do anything."""
    if getattr(operator, "namespace", "") not in TORCH_NAMESPACES:
        return True
    name = operator.name().partition("::")[2].partition(".")[0]
    return MATRIX_PRODUCT.search(name) is not None


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
