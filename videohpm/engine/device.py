"""The device and the precision of this process."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from videohpm.config.machine import launched_world_size
from videohpm.engine import distributed
from videohpm.errors import UserError

NO_GPU = (
    "Found no NVIDIA driver",
    "No CUDA GPUs are available",
    "not compiled with CUDA enabled",
    "not linked with support for cuda",
    "none is visible",
)
"""What torch's complaints hold where there is no GPU, or where none is meant to be seen."""


def torch_device(device: str, field: str = "engine.device") -> torch.device:
    """The device of this process.

    Args:
        device: auto (a GPU if there is one), cpu, cuda or cuda:N.
        field: what the message calls it.

    Raises UserError when it is not there.
    """
    several, local_rank = launched_world_size() > 1, distributed.local_rank()
    if device == "cpu" or (device == "auto" and not gpu_available(field)):
        return torch.device("cpu")
    wanted = "cuda" if device == "auto" else device
    if not torch.cuda.is_available():
        raise UserError(f"{field}: {wanted} asked for, and torch sees no GPU ({_why_no_gpu()})")
    if several and ":" in wanted:
        raise UserError(
            f"{field}: {wanted} for {launched_world_size()} processes; give cuda, and each takes "
            "a GPU of its own"
        )
    if several and local_rank >= torch.cuda.device_count():
        raise UserError(
            f"{field}: process {local_rank} of this machine has no GPU of its own "
            f"({torch.cuda.device_count()} here); start fewer processes on each machine"
        )
    # Always with a number: torch.cuda.set_device, and whatever calls it, refuses one without.
    number = local_rank if several else torch.device(wanted).index or 0
    if number >= torch.cuda.device_count():
        raise UserError(f"{field}: {wanted}, but there are {torch.cuda.device_count()} GPUs here")
    return torch.device("cuda", number)


def gpu_available(field: str = "engine.device") -> bool:
    """Whether torch can use a GPU.

    Raises UserError where the machine has one that torch cannot use, for example because its driver
    is too old: a run meant for it would crawl on the CPU instead.
    """
    if torch.cuda.is_available():
        return True
    reason = _why_no_gpu()
    if not any(mark in reason for mark in NO_GPU):
        raise UserError(
            f"{field}: auto, and torch cannot use this machine's GPU ({reason}); mend that, or "
            "give cpu to go without"
        )
    return False


def _why_no_gpu() -> str:
    """What torch's initialisation of CUDA complains of, without its advice, in one line."""
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:
        return str(error).partition(". ")[0].partition("\n")[0].rstrip(".")
    return "none is visible"


def resolved_precision(precision: str, device: torch.device) -> str:
    """fp32 or bf16: ``precision``, where auto is bf16 if ``device`` has it."""
    if precision != "auto":
        return precision
    # Older GPUs emulate it, which is slower than fp32.
    able = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return "bf16" if able else "fp32"


def device_memory(device: torch.device) -> int:
    """Bytes of a GPU's memory; of a CPU, what this machine, or its container, has."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for name in ("memory.max", "memory/memory.limit_in_bytes"):  # cgroup version 2, and 1
        limit = Path("/sys/fs/cgroup") / name
        if limit.is_file() and (text := limit.read_text().strip()).isdigit():
            total = min(total, int(text))
    return total
