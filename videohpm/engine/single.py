"""One process, plain torch; and what its engine has in common with DeepSpeed's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from videohpm.config import EngineConfig, OptimConfig
from videohpm.engine import distributed
from videohpm.engine.compile import compile_blocks, keep_freed_memory
from videohpm.engine.device import resolved_precision, torch_device
from videohpm.hpm import Ema
from videohpm.optim import adamw, parameter_groups, set_lr


class TorchEngine:
    """Autocast, accumulation, clipping and fused AdamW in one process.

    Calling the engine calls the model. :meth:`backward` is called once a micro-batch and divides by
    the accumulation steps itself; :meth:`step` once they are all through.

    Attributes:
        model: the module itself, for its names, grid and mode.
        ema: how a moving average of the weights follows them.
        step_applied: whether the last step moved the weights.
        skipped: how many did not.
        moments: what AdamW averages, by torch's names.
    """

    moments: tuple[str, ...] = ("exp_avg", "exp_avg_sq")

    def __init__(self, model: nn.Module, config: EngineConfig, optim: OptimConfig):
        self.config = config
        self.rank, self.world = distributed.rank(), distributed.world_size()
        self.device = torch_device(config.device)
        self.precision = resolved_precision(config.precision, self.device)
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)  # for what asks for no device of its own
            if self.precision == "bf16":  # what stays fp32 there may have TF32's ten bits
                torch.set_float32_matmul_precision("high")
        self.model = model.to(self.device).train()
        if self.device.type == "cpu":
            keep_freed_memory()
        if config.compile:
            compile_blocks(model)
        self.ema = Ema()
        self.step_applied, self.skipped = True, 0
        decay = optim.weight_decay, optim.layer_decay, optim.no_weight_decay
        groups = parameter_groups(model, *decay)
        self.optimizer = adamw(groups, optim)
        self._prepare(optim)

    def _prepare(self, optim: OptimConfig) -> None:
        """Whatever else model and optimiser need; for engines built on this one."""

    def __call__(self, *inputs: Any) -> Any:
        """The model's output, recorded for :meth:`backward`."""
        return self.model(*inputs)

    def attach_ema(self, ema_module: nn.Module) -> None:
        """Bring a moving average of the weights (a teacher, a weight average) to the model.

        That is to this engine's device; under ZeRO-3 it is divided as the model is. A module with
        an attribute ``ema`` (:class:`videohpm.hpm.Ema`) is given the engine's there.
        """
        self._place_ema(ema_module)
        if hasattr(ema_module, "ema"):
            setattr(ema_module, "ema", self.ema)  # noqa: B010 (no attribute of every module)

    def _place_ema(self, ema_module: nn.Module) -> None:
        ema_module.to(self.device)
        if self.config.compile:
            compile_blocks(ema_module)

    def autocast(self) -> AbstractContextManager:
        """bf16 matrix products where the precision is bf16."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16")

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of one micro-batch's share of the loss."""
        (loss / self.config.accumulation).backward()

    def step(self, lr: float) -> Tensor | None:
        """Move the weights; returns the gradient's norm (before clipping) where it is clipped.

        Plain torch skips no step: after a gradient that is not finite the next loss is not either,
        and the loop stops there.
        """
        norm = None
        if self.config.grad_clip:
            norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.config.grad_clip)
        set_lr(self.optimizer, lr)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return norm

    @contextmanager
    def eval_mode(self) -> Iterator[nn.Module]:
        """The model in evaluation mode and without gradients, while a ``with`` statement lasts.

        Every rank must do as many forward passes as the others: the weights may be divided among
        them.
        """
        training = self.model.training
        with torch.no_grad():
            yield self.model.eval()
        self.model.train(training)

    def unsharded_copy(self, module: nn.Module) -> nn.Module:
        """``module`` (the model, or an average of it) for a rank to use without the others.

        Itself, or under ZeRO-3 a copy that is not divided. Every rank must call it.
        """
        return module

    # For checkpoints: the same names and full tensors whatever the engine.

    def full_shape(self, parameter: Tensor) -> torch.Size:
        """The shape of a parameter, of the model or an average, however it is divided."""
        return parameter.shape

    def full_tensor(self, parameter: Tensor) -> Tensor:
        """All of a parameter, of the model or an average. Every rank must call it.

        On the CPU of rank 0, which writes it; on the others' devices.
        """
        return self._on_first(parameter.detach())

    def moment(self, parameter: Tensor, name: str) -> Tensor:
        """All of one of a parameter's ``moments``, where :meth:`full_tensor` is."""
        state = self.optimizer.state.get(parameter)
        return self._on_first(state[name]) if state else torch.zeros(parameter.shape)

    def _on_first(self, tensor: Tensor) -> Tensor:
        """On the CPU of rank 0; the others, which only help, copy nothing."""
        return tensor.cpu() if self.rank == 0 else tensor

    def updates(self) -> int:
        """How often AdamW has moved the weights, which its bias correction depends on."""
        return max((int(state["step"]) for state in self.optimizer.state.values()), default=0)

    def init_optimizer_state(self, updates: int) -> None:
        """Make AdamW's state for a run that has done ``updates``; its moments are set next."""
        for group in self.optimizer.param_groups:
            for parameter in group["params"]:
                self.optimizer.state[parameter] = adamw_state(parameter, updates)

    def set_moment(self, parameter: Tensor, name: str, value: Tensor) -> None:
        """Restore a moment of a parameter; ``value`` is all of it."""
        self.optimizer.state[parameter][name].copy_(value)


def adamw_state(parameter: Tensor, updates: int) -> dict[str, Tensor]:
    """AdamW's state of a parameter, with moments of zero."""
    count = torch.full((), float(updates), dtype=torch.float32, device=parameter.device)
    return {"step": count} | {
        name: torch.zeros_like(parameter.detach()) for name in TorchEngine.moments
    }
