"""How a step is carried out: device, precision, accumulation, the optimiser."""

from __future__ import annotations

import random
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from videohpm.errors import UserError
from videohpm.optim import OptimConfig, adamw, parameter_groups, set_lr

PRECISIONS = ("auto", "fp32", "bf16")


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """Where and how precisely to compute.

    Args:
        device: auto (a GPU if there is one), cpu, cuda or cuda:N.
        precision: auto (bf16 where the GPU has it, else fp32), fp32 or bf16 (autocast; weights,
            targets and losses stay fp32).
        accumulation: micro-batches of one optimiser step; the batch is divided by it.
        clip: largest norm of the gradient; 0 does not clip.
        checkpoint_activations: recompute blocks in the backward pass: less memory, more time.
    """

    device: str = "auto"
    precision: str = "auto"
    accumulation: int = 1
    clip: float = 0.0
    checkpoint_activations: bool = False

    def __post_init__(self):
        if self.precision not in PRECISIONS:
            raise ValueError(
                f"engine.precision: {self.precision!r} is not one of {', '.join(PRECISIONS)}"
            )
        if self.accumulation < 1:
            raise ValueError(f"engine.accumulation: {self.accumulation}; give at least 1")
        if not self.clip >= 0:
            raise ValueError(f"engine.clip: {self.clip}; give 0 (off) or more")
        name = self.device.partition(":")[0]
        if name not in ("auto", "cpu", "cuda"):
            raise ValueError(f"engine.device: {self.device!r} is not auto, cpu, cuda or cuda:N")

    def torch_device(self) -> torch.device:
        """The device meant; UserError when it is not there."""
        if self.device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        if self.device.startswith("cuda") and not torch.cuda.is_available():
            raise UserError(f"engine.device: {self.device} asked for, and torch sees no GPU")
        return torch.device(self.device)


class TorchEngine:
    """One process, plain torch: autocast, accumulation, clipping, fused AdamW.

    :meth:`backward` is called once a micro-batch and divides by the accumulation steps itself;
    :meth:`step` once they are all through.
    """

    rank, world = 0, 1

    def __init__(self, model: nn.Module, config: EngineConfig, optim: OptimConfig):
        self.config = config
        self.device = config.torch_device()
        self.model = model.to(self.device).train()
        groups = parameter_groups(model, optim.weight_decay, optim.layer_decay)
        self.optimizer = adamw(groups, optim)
        wanted = config.precision
        if wanted == "auto":
            able = self.device.type == "cuda" and torch.cuda.is_bf16_supported()
            wanted = "bf16" if able else "fp32"
        self.precision = wanted

    def autocast(self) -> AbstractContextManager:
        """bf16 matrix products where the precision says so."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16")

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of one micro-batch's share of the loss."""
        (loss / self.config.accumulation).backward()

    def step(self, lr: float) -> Tensor | None:
        """Move the weights; returns the gradient's norm (before clipping) where it is clipped."""
        norm = None
        if self.config.clip:
            norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip)
        set_lr(self.optimizer, lr)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return norm

    def state_dict(self) -> dict:
        """What a resumed run needs beyond the weights."""
        return self.optimizer.state_dict()

    def load_state_dict(self, state: dict) -> None:
        """Go on from :meth:`state_dict`."""
        self.optimizer.load_state_dict(state)


def seed_step(seed: int, step: int, rank: int = 0) -> None:
    """Derive every global random state from (seed, step, rank), so that none has to be saved.

    Sample order, crops and masks do not use it (they depend on seed, epoch and sample alone):
    what does is drop-path and the initial weights.
    """
    value = int(np.random.SeedSequence([seed, step, rank]).generate_state(1)[0])
    random.seed(value)
    np.random.seed(value)
    torch.manual_seed(value)
