"""Other methods of a module, called as its forward pass is."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn


def call_hooked(module: nn.Module, method: Callable[..., Tensor], *inputs) -> Tensor:
    """Call a method of ``module`` within the hooks of its forward pass.

    An engine that divides weights gathers what a module owns when its forward pass begins, and
    knows of no other method.

    Args:
        method: bound to ``module``.
        inputs: of the method, by position.
    """
    own = module.__dict__.get("forward")
    module.forward = method
    try:
        return module(*inputs)
    finally:
        if own is None:
            del module.forward
        else:
            module.forward = own
