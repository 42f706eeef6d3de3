"""Where and how precisely to compute, and over how many processes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from videohpm.config.checks import AUTO, Section, auto_or_at_least
from videohpm.config.machine import launched_world_size
from videohpm.errors import ConfigError

PRECISIONS = ("auto", "fp32", "bf16")
STAGES = (0, 1, 2, 3)


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """Where and how precisely to compute, and over how many processes.

    Args:
        device: auto (a GPU if there is one), cpu, cuda or cuda:N.
        precision: auto (bf16 where the GPU has it, else fp32), fp32 or bf16 (autocast; weights,
            targets and losses stay fp32).
        grad_accum_steps: micro-batches of one optimiser step; the batch is divided by it. auto: the
            fewest that memory has room for, as videohpm plan counts; the run says how many.
        grad_clip: largest norm of the gradient; 0 does not clip.
        checkpoint_activations: recompute blocks in the backward pass: less memory, more time.
        compile: let torch.compile fuse the transformer blocks: faster steps after a slow first one
            (not with zero_stage 3; on a CPU it needs a C++ compiler).
        zero_stage: what DeepSpeed divides between the processes: 0 nothing, 1 the optimiser's
            state, 2 gradients too, 3 weights too, the teacher's among them. Empty: 1 with several
            processes; with one, plain torch without DeepSpeed.
        offload: keep the optimiser's state in main memory (zero_stage 1 to 3).
        deepspeed_config: JSON file of DeepSpeed settings, laid over those that follow from here.
        timeout: seconds one process waits for another before the run ends; one that alone has
            much to do (read, write, validate) gives signs of life, and is waited for.
    """

    device: str = "auto"
    precision: str = "auto"
    grad_accum_steps: int | Literal["auto"] = AUTO
    grad_clip: float = 0.0
    checkpoint_activations: bool = False
    compile: bool = False
    zero_stage: int | None = None
    offload: bool = False
    deepspeed_config: str | None = None
    timeout: float = 600.0

    def __post_init__(self):
        check = Section(self, "engine")
        check_device("engine.device", self.device)
        check.choice("precision", PRECISIONS)
        auto_or_at_least(check, 1, "grad_accum_steps")
        check.at_least(0, "grad_clip", finite=False)
        check.choice("zero_stage", (None, *STAGES))
        if self.compile and self.zero_stage == 3:
            raise ConfigError("engine.compile: does not go with engine.zero_stage 3; leave one out")
        if self.offload and self.zero_stage == 0:
            raise ConfigError("engine.offload: needs engine.zero_stage 1, 2 or 3, not 0")
        check.above_zero("timeout", finite=False)

    @property
    def accumulation(self) -> int:
        """Micro-batches of a step; 1 where that is auto and has not been found out yet."""
        return 1 if self.grad_accum_steps == AUTO else int(self.grad_accum_steps)

    @property
    def uses_deepspeed(self) -> bool:
        """Whether the run needs DeepSpeed, as its fields and the launcher's environment say."""
        configured = (
            self.zero_stage is not None or self.offload or self.deepspeed_config is not None
        )
        return configured or launched_world_size() > 1


def check_device(field: str, device: str) -> None:
    """ConfigError where ``device`` names no kind of device that is known."""
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", device):
        raise ConfigError(f"{field}: {device!r} is not auto, cpu, cuda or cuda:N")


def check_batch(
    batch: int,
    accumulation: int,
    processes: int = 1,
    *,
    per: str = "processes",
    pairs: bool = False,
) -> None:
    """ConfigError where the global batch cannot be divided into equal micro-batches.

    Args:
        batch: clips of one optimiser step, over all processes.
        accumulation: micro-batches of each process.
        per: what the message calls the processes.
        pairs: each micro-batch must hold an even number of clips, for mixup.
    """
    multiple = processes * accumulation * (2 if pairs else 1)
    if batch % multiple:
        parts = f"engine.grad_accum_steps = {accumulation}"
        raise ConfigError(
            f"optim.global_batch_size: {batch} clips cannot be divided equally among "
            f"{processes} {per} times {parts}{', in pairs for mixup' if pairs else ''}; give a "
            f"multiple of {multiple}"
        )
