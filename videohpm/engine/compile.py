"""What makes steps faster without changing what they compute."""

from __future__ import annotations

import ctypes
import platform

import torch
from torch import nn

from videohpm.models.vit import Block

SHAPES = 64
"""Student, teacher, decoder and predictor, in training and for pictures, each has its own."""
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # mallopt's names for them (malloc.h)


def compile_blocks(model: nn.Module) -> None:
    """Let torch.compile fuse what stands between the matrix products of each transformer block.

    In place, and names of parameters stay. Block by block, because they are alike: each shape is
    compiled once, at its first use, whatever the depth.
    """
    torch._dynamo.config.recompile_limit = max(SHAPES, torch._dynamo.config.recompile_limit)
    for module in model.modules():
        if isinstance(module, Block):
            module.compile(dynamic=False)


def keep_freed_memory() -> bool:
    """Have this process keep the memory it frees for its next step, where the C library is glibc.

    By default large tensors go back to the system when they are freed, and each step waits while
    the same pages are handed out and zeroed again. Returns whether it could be done.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    return bool(libc.mallopt(_MMAP_MAX, 0)) and bool(libc.mallopt(_TRIM_THRESHOLD, -1))
