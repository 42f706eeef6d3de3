"""What goes between a GPU and its host while a step is traced on pretended GPUs.

Each such crossing may make the host wait for the GPU, or the GPU for the host.
"""

from __future__ import annotations

import heapq
import sys
from collections import Counter
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import videohpm

PACKAGES = {
    "videohpm": str(Path(videohpm.__file__).parent),
    "deepspeed": str(Path("site-packages/deepspeed")),
}


class Crossing(NamedTuple):
    """Something that goes from one device to another."""

    what: str
    """``item`` for a value that Python reads, else the operator."""
    where: str
    """File and function, the innermost of ours or of DeepSpeed's."""
    waits: bool
    """Whether it was asked to wait."""


class Crossings(TorchDispatchMode):
    """Counts them; a value that Python reads is 0.

    A scalar on the CPU beside tensors on a GPU is an argument of the kernel, and does not cross.
    What depends on values in another way (how many are not zero) is refused by the FakeTensorMode
    below this one.
    """

    def __init__(self):
        super().__init__()
        self.found: Counter[Crossing] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is torch.ops.aten._local_scalar_dense.default:
            if _device(args[0]) == "cuda":
                self._note("item", waits=True)
            return 0.0 if args[0].is_floating_point() else 0
        out = func(*args, **kwargs)
        given, made = _tensors((args, kwargs)), _tensors(out)
        copied = func is torch.ops.aten.copy_.default
        on_gpu = any(_device(x) == "cuda" for x in given)
        if on_gpu and not copied:
            given = [x for x in given if x.ndim or _device(x) == "cuda"]
        if len({_device(x) for x in (*given, *made)}) > 1:
            asked = kwargs.get("non_blocking", args[2] if copied and len(args) > 2 else False)
            self._note(func.overloadpacket.__name__, waits=not asked)
        return out

    def _note(self, what: str, waits: bool) -> None:
        self.found[Crossing(what, _caller(), waits)] += 1


def _tensors(values: Any) -> list[Tensor]:
    return [value for value in tree_leaves(values) if isinstance(value, Tensor)]


def _device(tensor: Tensor) -> str:
    return tensor.device.type


def _caller() -> str:
    frame: Any = sys._getframe(1)
    while frame is not None:
        file, function = frame.f_code.co_filename, frame.f_code.co_name
        for name, folder in PACKAGES.items():
            if folder in file and not function.startswith("<"):  # Python has those until 3.12
                return f"{name}{file.partition(folder)[2]}:{function}"
        frame = frame.f_back
    return "elsewhere"


def backward(
    loss: Tensor, gradient=None, retain_graph=None, create_graph=False, inputs=None
) -> None:
    """Stands in for ``Tensor.backward``: torch's engine asks CUDA before it does anything.

    It calls the nodes of the graph as the engine does: a leaf as soon as its gradient is complete,
    else what was recorded last.
    """
    root: Any = loss.grad_fn
    awaited: Counter = Counter()
    found = [root]
    for node in found:
        for following in _followers(node):
            if not awaited[following]:
                found.append(following)
            awaited[following] += 1
    gradients: dict[Any, list] = {root: [torch.ones_like(loss)]}
    number, ready = count(), [(0, 0, root)]
    with torch.no_grad():
        while ready:
            node = heapq.heappop(ready)[2]
            results = _apply(node, gradients.pop(node, None))
            for (following, place), value in zip(node.next_functions, results, strict=False):
                if following is not None and value is not None:
                    _add(gradients, following, place, value)
            for following in _followers(node):
                awaited[following] -= 1
                if not awaited[following]:
                    leaf = hasattr(following, "variable")
                    rank = float("-inf") if leaf else -following._sequence_nr()
                    heapq.heappush(ready, (rank, next(number), following))


def _followers(node: Any) -> list:
    return [following for following, _ in node.next_functions if following is not None]


def _apply(node: Any, gradients: list | None) -> tuple:
    if gradients is None:  # of what the loss does not depend on
        return ()
    if hasattr(node, "variable"):
        leaf, (value,) = node.variable, gradients
        leaf.grad = value if leaf.grad is None else leaf.grad + value
        for hook in (getattr(leaf, "_post_accumulate_grad_hooks", None) or {}).values():
            hook(leaf)
        return ()
    # Functions written in Python are called by another name.
    results = node.apply(*gradients) if hasattr(node, "apply") else node(*gradients)
    return results if isinstance(results, tuple) else (results,)


def _add(gradients: dict[Any, list], node: Any, place: int, value: Tensor) -> None:
    """Add a gradient up, in the shape and type of what it is a gradient of."""
    wanted = node._input_metadata
    kept = gradients.setdefault(node, [None] * len(wanted))
    value = value.sum_to_size(wanted[place].shape).to(wanted[place].dtype)
    kept[place] = value if kept[place] is None else kept[place] + value
