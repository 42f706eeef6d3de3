# pyright: reportPrivateImportUsage=false
# (torch.distributed documents its stores, and does not list them in __all__.)
"""What the processes of a run exchange besides gradients: flags, metrics, errors, short texts.

All of it works, and costs nothing, in a single process that no launcher started. Most goes over a
gloo group of its own, on the CPU (:mod:`videohpm.engine.distributed`): it neither waits for a GPU
nor mixes with the gradients' collectives.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from videohpm.engine import distributed
from videohpm.errors import RunError, UserError


def any_rank(flag: bool) -> bool:
    """Whether ``flag`` is true on any rank. Every rank must call it."""
    return all_reduce_sum(int(flag)) > 0


def raise_on_all_ranks(error: Exception | None) -> None:
    """Raise on every rank where one has failed: its own error there, the same text elsewhere.

    Every rank must call it, with None where all is well. A rank that is at work (:func:`working`)
    is waited for.
    """
    store = distributed.store()
    if store is not None and error is not None:
        kind = "user" if isinstance(error, UserError) else "run"
        store.set("failure", f"{kind} {error}")
    distributed.wait_for_all()
    if not any_rank(error is not None):
        return
    if error is not None:
        raise error
    assert store is not None, "one process has no error of another's"
    kind, _, text = store.get("failure").decode().partition(" ")
    raise UserError(text) if kind == "user" else RunError(text)


def from_first_rank(text: str | None) -> str | None:
    """The ``text`` of rank 0, on every rank. Every rank must call it."""
    if distributed.world_size() == 1:
        return text
    texts = [text]
    dist.broadcast_object_list(texts, src=0, group=distributed.control_group())
    return texts[0]


def all_gather(values: Any) -> list[Any]:
    """The plain values of all ranks, rank by rank. Every rank must call it."""
    gathered: list[Any] = [values] * distributed.world_size()
    if distributed.world_size() > 1:
        dist.all_gather_object(gathered, values, group=distributed.control_group())
    return gathered


def assert_equal_across_ranks(name: str, value: int) -> None:
    """UserError where ranks have different values of what must be equal, such as the first step."""
    if distributed.world_size() == 1:
        return
    values = [torch.zeros((), dtype=torch.int64) for _ in range(distributed.world_size())]
    dist.all_gather(values, torch.tensor(value), distributed.control_group())
    if len({int(v) for v in values}) > 1:
        raise UserError(
            f"{name}: {', '.join(str(int(v)) for v in values)} on ranks 0 to "
            f"{distributed.world_size() - 1}; all "
            "machines must see the same run.dir and data.root"
        )


def all_reduce_sum(count: int) -> int:
    """The sum of a count over the ranks. Every rank must call it."""
    return _all_reduce_number(count, dist.ReduceOp.SUM)


def all_reduce_min(count: int) -> int:
    """The least of a count over the ranks. Every rank must call it."""
    return _all_reduce_number(count, dist.ReduceOp.MIN)


def _all_reduce_number(number: int, operation: Any) -> int:
    if distributed.world_size() == 1:
        return number
    reduced = torch.tensor(number)
    dist.all_reduce(reduced, operation, distributed.control_group())
    return int(reduced)


def all_reduce_tensor(values: Tensor) -> Tensor:
    """The sum of a tensor on the CPU over the ranks. Every rank must call it."""
    if distributed.world_size() > 1:
        dist.all_reduce(values, dist.ReduceOp.SUM, distributed.control_group())
    return values


def all_reduce_device(values: Tensor) -> Tensor:
    """The sum of a tensor over the ranks, in place, on the engine's device and without waiting.

    Every rank must call it.
    """
    if distributed.world_size() > 1:
        dist.all_reduce(values)
    return values


def all_reduce_any(flags: np.ndarray) -> np.ndarray:
    """Element by element, whether any rank's flag is set. Every rank must call it."""
    if distributed.world_size() == 1:
        return flags
    largest = torch.from_numpy(flags.astype(np.uint8))
    dist.all_reduce(largest, dist.ReduceOp.MAX, distributed.control_group())
    return largest.numpy().astype(bool)


def any_rank_async(flag: bool) -> tuple[dist.Work, Tensor]:
    """Begin :func:`any_rank` without waiting: wait for the work, then read the tensor."""
    largest = torch.tensor(int(flag))
    work: Any = dist.all_reduce(
        largest, dist.ReduceOp.MAX, distributed.control_group(), async_op=True
    )
    return work, largest


def all_reduce_mean(metrics: Mapping[str, Tensor | float]) -> dict[str, float]:
    """The means of scalars over the ranks, which waits for the device. Every rank must call it."""
    row = torch.tensor([float(value) for value in metrics.values()], dtype=torch.float64)
    if distributed.world_size() > 1:
        dist.all_reduce(row, group=distributed.control_group())
    return dict(zip(metrics, (row / distributed.world_size()).tolist(), strict=True))
