"""A machine with GPUs, pretended: what torch says of them, and tensors without contents on them."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode


class PretendedGpus:
    """What code finds out from ``torch.cuda``; notes what it makes the current device."""

    def __init__(self, patch: pytest.MonkeyPatch, count: int = 2, major: int = 8, memory=80e9):
        self.current: list[torch.device] = []
        facts = SimpleNamespace(major=major, minor=0, total_memory=int(memory), name="a GPU")
        for name, value in {
            "is_available": lambda: True,
            "device_count": lambda: count,
            "current_device": lambda: self.current[-1].index if self.current else 0,
            "get_device_properties": lambda device=None: facts,
            "set_device": self._set_device,
        }.items():
            patch.setattr(torch.cuda, name, value)
        # An emulated bf16 tensor can be made on any GPU.
        patch.setattr(torch.cuda, "_check_bf16_tensor_supported", lambda device: True)
        patch.setattr(nn.Module, "to", move)

    def _set_device(self, device) -> None:
        device = torch.device(device)
        if device.index is None:  # as torch has it
            raise ValueError(f"Expected a torch.device with a specified index, but got:{device}")
        self.current.append(device)


def move(module: nn.Module, device: torch.device) -> nn.Module:
    """Give a module weights without contents on ``device``, in place, in a FakeTensorMode.

    ``Module.to`` cannot replace a fake parameter by another one.
    """
    for part in module.modules():
        for name, value in part._parameters.items():
            if value is not None:
                fresh = torch.empty(value.shape, dtype=value.dtype, device=device)
                part._parameters[name] = nn.Parameter(fresh, value.requires_grad)
        for name, value in part._buffers.items():
            if value is not None:
                part._buffers[name] = torch.empty(value.shape, dtype=value.dtype, device=device)
    return module


def fake_tensors() -> FakeTensorMode:
    """Within it, tensors have shapes and devices and no contents."""
    return FakeTensorMode(allow_non_fake_inputs=True)
