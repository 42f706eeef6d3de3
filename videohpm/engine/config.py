"""Where and how precisely to compute, and over how many processes."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from videohpm.engine import distributed
from videohpm.errors import UserError

PRECISIONS = ("auto", "fp32", "bf16")
STAGES = (0, 1, 2, 3)


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """Where and how precisely to compute, and over how many processes.

    Args:
        device: auto (a GPU if there is one), cpu, cuda or cuda:N.
        precision: auto (bf16 where the GPU has it, else fp32), fp32 or bf16 (autocast; weights,
            targets and losses stay fp32).
        grad_accum_steps: micro-batches of one optimiser step; the batch is divided by it.
        grad_clip: largest norm of the gradient; 0 does not clip.
        checkpoint_activations: recompute blocks in the backward pass: less memory, more time.
        compile: let torch.compile fuse the transformer blocks: faster steps after a slow first one
            (not with zero_stage 3; on a CPU it needs a C++ compiler).
        zero_stage: what DeepSpeed divides between the processes: 0 nothing, 1 the optimiser's
            state, 2 gradients too, 3 weights too, the teacher's among them. Empty: 1 with several
            processes; with one, plain torch without DeepSpeed.
        offload: keep the optimiser's state in main memory (zero_stage 1 to 3).
        deepspeed_config: JSON file of DeepSpeed settings, laid over those that follow from here.
        timeout: seconds one process waits for another before the run ends.
    """

    device: str = "auto"
    precision: str = "auto"
    grad_accum_steps: int = 1
    grad_clip: float = 0.0
    checkpoint_activations: bool = False
    compile: bool = False
    zero_stage: int | None = None
    offload: bool = False
    deepspeed_config: str | None = None
    timeout: float = 600.0

    def __post_init__(self):
        if self.precision not in PRECISIONS:
            raise ValueError(
                f"engine.precision: {self.precision!r} is not one of {', '.join(PRECISIONS)}"
            )
        if self.grad_accum_steps < 1:
            raise ValueError(f"engine.grad_accum_steps: {self.grad_accum_steps}; give at least 1")
        if not self.grad_clip >= 0:
            raise ValueError(f"engine.grad_clip: {self.grad_clip}; give 0 (off) or more")
        name = self.device.partition(":")[0]
        if name not in ("auto", "cpu", "cuda"):
            raise ValueError(f"engine.device: {self.device!r} is not auto, cpu, cuda or cuda:N")
        if self.zero_stage not in (None, *STAGES):
            raise ValueError(f"engine.zero_stage: {self.zero_stage}; give 0, 1, 2 or 3")
        if self.compile and self.zero_stage == 3:
            raise ValueError("engine.compile: does not go with engine.zero_stage 3; leave one out")
        if self.offload and self.zero_stage == 0:
            raise ValueError("engine.offload: needs engine.zero_stage 1, 2 or 3, not 0")
        if not self.timeout > 0:
            raise ValueError(f"engine.timeout: {self.timeout}; give a number of seconds above 0")

    @property
    def uses_deepspeed(self) -> bool:
        """Whether the run needs DeepSpeed, as its fields and the launcher's environment say."""
        asked = self.zero_stage is not None or self.offload or self.deepspeed_config is not None
        return asked or distributed.launched_world_size() > 1

    def torch_device(self) -> torch.device:
        """The device of this process; UserError when it is not there."""
        several = distributed.launched_world_size() > 1
        if self.device == "auto":
            wanted = "cuda" if torch.cuda.is_available() else "cpu"
        else:
            wanted = self.device
        if wanted == "cpu":
            return torch.device("cpu")
        if not torch.cuda.is_available():
            raise UserError(f"engine.device: {wanted} asked for, and torch sees no GPU")
        if several and ":" in wanted:
            raise UserError(
                f"engine.device: {wanted} for {distributed.launched_world_size()} "
                "processes; give cuda, and each "
                "takes a GPU of its own"
            )
        if several and distributed.local_rank() >= torch.cuda.device_count():
            raise UserError(
                f"engine.device: process {distributed.local_rank()} of this machine has no "
                "GPU of its "
                f"own ({torch.cuda.device_count()} here); start fewer processes on each machine"
            )
        return torch.device("cuda", distributed.local_rank()) if several else torch.device(wanted)

    def resolved_precision(self, device: torch.device) -> str:
        """fp32 or bf16 on ``device``."""
        if self.precision != "auto":
            return self.precision
        able = device.type == "cuda" and torch.cuda.is_bf16_supported()
        return "bf16" if able else "fp32"
