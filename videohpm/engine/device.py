"""The device and the precision of this process."""

from __future__ import annotations

import torch

from videohpm.config.engine import launched_world_size
from videohpm.engine import distributed
from videohpm.errors import UserError


def torch_device(device: str, field: str = "engine.device") -> torch.device:
    """The device of this process.

    Args:
        device: auto (a GPU if there is one), cpu, cuda or cuda:N.
        field: what the message calls it.

    Raises UserError when it is not there.
    """
    several, local_rank = launched_world_size() > 1, distributed.local_rank()
    wanted = device
    if device == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    if wanted == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise UserError(f"{field}: {wanted} asked for, and torch sees no GPU")
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
    return torch.device("cuda", local_rank) if several else torch.device(wanted)


def resolved_precision(precision: str, device: torch.device) -> str:
    """fp32 or bf16: ``precision``, where auto is bf16 if ``device`` has it."""
    if precision != "auto":
        return precision
    able = device.type == "cuda" and torch.cuda.is_bf16_supported()
    return "bf16" if able else "fp32"
