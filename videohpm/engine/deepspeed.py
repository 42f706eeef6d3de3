"""Several processes, or ZeRO in one: DeepSpeed behind the same engine."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from videohpm.config import OptimConfig
from videohpm.config.machine import cores_per_rank
from videohpm.engine.ema import ShardedEma, shard_of
from videohpm.engine.settings import deepspeed_settings, for_ema_module
from videohpm.engine.single import TorchEngine, adamw_state
from videohpm.errors import UserError
from videohpm.optim import set_lr


class ZeroEngine(TorchEngine):
    """DeepSpeed with ZeRO 0 to 3.

    Weights are fp32 at every stage and bf16 is autocast's, as in one process: the fp32 weights are
    the master weights, the teacher's average of them is not rounded, and normalisation layers keep
    all their digits. DeepSpeed exchanges the linear layers' weights and gradients in bf16 then.
    """

    def _prepare(self, optim: OptimConfig) -> None:
        self.package, self.ema_modules = _deepspeed(self.device), []
        on_gpu = self.device.type == "cuda"
        self.settings = deepspeed_settings(self.config, optim, self.world, self.precision, on_gpu)
        if on_gpu and self.settings["zero_optimization"].get("offload_optimizer"):
            # AdamW works on the CPU then, and launchers give each process a single thread.
            torch.set_num_threads(cores_per_rank())
        self.stage = self.settings["zero_optimization"]["stage"]
        parameters = list(self.model.parameters())
        if self.stage == 3:
            self._register_external_parameters(self.model)
        self.deepspeed = self._initialize()
        if self.stage == 3:
            self.ema = ShardedEma(self.device)
            _empty_padding(parameters)

    def _initialize(self):
        """DeepSpeed's engine. Raises UserError for settings of the user's that it refuses."""
        # Its own complaint, pydantic's (a ValueError), and assertions.
        refusals = self.package.DeepSpeedConfigError, ValueError, AssertionError
        try:
            engine, *_ = self.package.initialize(
                model=self.model, optimizer=self.optimizer, config=self.settings
            )
        except refusals as error:
            file = self.config.deepspeed_config
            if file is None:
                raise
            raise UserError(
                f"engine.deepspeed_config: {file}: DeepSpeed refuses it ({error})"
            ) from error
        return engine

    def __call__(self, *inputs: Any) -> Any:
        return self.deepspeed(*inputs)

    def _place_ema(self, ema_module: nn.Module) -> None:
        """Under stage 3 an average of the weights becomes a ZeRO-3 module without an optimiser.

        It is divided as the model is, so that its update needs no communication: each rank moves
        its own shards. No parameter stays on every rank for speed (persistence threshold 0),
        because such copies would have to be gathered anew after each update.
        """
        if self.stage != 3:
            return super()._place_ema(ema_module)
        self._register_external_parameters(ema_module)
        settings = for_ema_module(self.settings)
        self.ema_modules.append(self.package.initialize(model=ema_module, config=settings)[0])
        _empty_padding(ema_module.parameters())

    def _register_external_parameters(self, root: nn.Module) -> None:
        """Have DeepSpeed gather what a module reads outside the forward pass of its owner.

        Any module may name such parameters in an attribute ``external_parameters``.
        """
        for module in root.modules():
            for parameter in getattr(module, "external_parameters", ()):
                self.package.zero.register_external_parameter(module, parameter)

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of one micro-batch's share of the loss; DeepSpeed divides it."""
        self.deepspeed.backward(loss)
        if not self.deepspeed.is_gradient_accumulation_boundary():
            self.deepspeed.step()  # counts the micro-batch: the weights move after the last one

    def step(self, lr: float) -> Tensor | None:
        """Move the weights; DeepSpeed skips a step whose gradient is not finite (ZeRO 1 to 3)."""
        set_lr(self.optimizer, lr)
        norm, before = None, self.deepspeed.skipped_steps
        if self.config.grad_clip and self.stage == 0:  # DeepSpeed does not report it there
            grads = [p.grad for p in self.model.parameters() if p.grad is not None]
            norm = nn.utils.get_total_norm(grads)
        self.deepspeed.step()
        self.step_applied = self.deepspeed.skipped_steps == before
        self.skipped += not self.step_applied
        if self.config.grad_clip and self.stage > 0:
            norm = torch.as_tensor(self.deepspeed.get_global_grad_norm(), device=self.device)
        return norm

    @contextmanager
    def eval_mode(self) -> Iterator[nn.Module]:
        with super().eval_mode() as model:
            yield model
        if self.stage == 3:  # what a forward pass gathers, only a backward pass would release
            self.deepspeed.optimizer.parameter_offload.partition_all_parameters()

    def unsharded_copy(self, module: nn.Module) -> nn.Module:
        if self.stage != 3:
            return module
        original: Any = module
        copy = type(original)(original.config)
        weights = {
            name: self.full_tensor(parameter) for name, parameter in module.named_parameters()
        }
        copy.load_state_dict(weights)
        return copy.to(self.device).train(module.training)

    def full_shape(self, parameter: Tensor) -> torch.Size:
        return getattr(parameter, "ds_shape", parameter.shape)

    def full_tensor(self, parameter: Tensor) -> Tensor:
        if not hasattr(parameter, "ds_tensor"):
            return super().full_tensor(parameter)
        return self._on_first(self._join(*shard_of(parameter), self.full_shape(parameter)))

    def moment(self, parameter: Tensor, name: str) -> Tensor:
        if self.stage == 0:
            return super().moment(parameter, name)
        if not self.optimizer.state:  # no step has moved the weights yet
            return torch.zeros(self.full_shape(parameter))
        joined = self._join(*self._piece(parameter, name), self.full_shape(parameter))
        return self._on_first(joined)

    def init_optimizer_state(self, updates: int) -> None:
        if self.stage == 0:
            return super().init_optimizer_state(updates)
        zero = self.deepspeed.optimizer
        names = "single_partition_of_fp32_groups", "fp32_partitioned_groups_flat"
        for flat in getattr(zero, names[self.stage == 3]):
            self.optimizer.state[flat] = adamw_state(flat, updates)

    def set_moment(self, parameter: Tensor, name: str, value: Tensor) -> None:
        if self.stage == 0:
            return super().set_moment(parameter, name, value)
        start, piece = self._piece(parameter, name)
        piece.copy_(value.flatten()[start : start + piece.numel()])

    def _piece(self, parameter: Tensor, name: str) -> tuple[int, Tensor]:
        """What this rank keeps of a moment, in place, and where in the flat parameter it begins."""
        zero = self.deepspeed.optimizer
        if self.stage == 3:
            start, shard = shard_of(parameter)
            group, offset, _ = zero.grad_position[zero.get_param_id(parameter)]
            flat = self.optimizer.state[zero.fp32_partitioned_groups_flat[group]][name]
            return start, flat[offset : offset + shard.numel()]
        mapping = getattr(parameter, "_hp_mapping")  # noqa: B009 (DeepSpeed adds it)
        if mapping is None:  # entirely on other ranks
            return 0, torch.empty(0)
        flat = zero.single_partition_of_fp32_groups[mapping.param_group_index]
        fragment = mapping.hp_fragment_address
        end = fragment.start + fragment.numel
        moment = self.optimizer.state[flat][name][fragment.start : end]
        return mapping.lp_fragment_address.start, moment

    def _join(self, start: int, piece: Tensor, shape: torch.Size) -> Tensor:
        """The full tensor that the ranks hold in pieces, on the device of every rank.

        The pieces' bits are added as integers to zeros: exact, whatever they mean.
        """
        full = torch.zeros(shape, dtype=torch.float32, device=self.device)
        full.view(-1)[start : start + piece.numel()] = piece
        if self.world > 1:
            dist.all_reduce(full.view(torch.int32))
        return full


def _empty_padding(parameters: Iterable[Any]) -> None:
    """Fill with zeros what DeepSpeed adds to make shards equal, which it leaves uninitialised."""
    for parameter in parameters:
        parameter.ds_tensor[shard_of(parameter)[1].numel() :] = 0


def _deepspeed(device: torch.device):
    """The package, quiet and on the right kind of device. Raises UserError where it is missing."""
    os.environ.setdefault("DS_ACCELERATOR", device.type)
    # DeepSpeed takes the device of this number, which a single process has from no launcher.
    if device.index is not None:
        os.environ["LOCAL_RANK"] = str(device.index)
    os.environ.setdefault("LOCAL_RANK", "0")
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    try:
        import deepspeed
    except ImportError as error:
        raise UserError(
            "engine.zero_stage: several processes, and ZeRO in one, need deepspeed "
            f"(pip install deepspeed), which cannot be imported: {error}"
        ) from error
    deepspeed.utils.logger.setLevel(logging.WARNING)
    # A shared-memory operator for inference on the CPU: a minute to compile, and training, which
    # does not use it, should not need a compiler.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed
