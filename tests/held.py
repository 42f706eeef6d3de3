"""Run in each rank by test_plan.py: what DeepSpeed really keeps of weights and all that goes by."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor

from videohpm import hpm
from videohpm.config import ModelConfig, OptimConfig, PretrainConfig
from videohpm.engine import EngineConfig, make_engine, process_group
from videohpm.hpm import LossTeacher
from videohpm.models import MaskedAutoencoder


def config_of(stage: int) -> PretrainConfig:
    """A model small enough to train here and large enough for its matrices to be most of it."""
    return PretrainConfig(
        model=ModelConfig(arch="vit_tiny", frames=4, image_size=64, depth=4),
        optim=OptimConfig(global_batch_size=2),
        engine=EngineConfig(device="cpu", precision="fp32", zero_stage=stage),
    )


def measure(stage: int, out: str) -> None:
    """Write the bytes that this rank holds after a backward pass, by kind."""
    config = config_of(stage)
    with process_group(config.engine, config.optim.global_batch_size):
        model = MaskedAutoencoder(config.model_config(), config.engine.checkpoint_activations)
        teacher = LossTeacher(model, config.hpm.teacher_samples_per_tube)
        engine = make_engine(model, config.engine, config.optim)
        engine.attach_ema(teacher)
        for last in (False, True):
            backward(engine, teacher)
            if last:
                break
            engine.step(1e-4)
        weights = kept(model)
        optimizer = engine.optimizer
        stepped = [p for group in optimizer.param_groups for p in group["params"]]
        if stage == 3:  # which shows them to the optimiser only while it steps
            stepped = engine.deepspeed.optimizer.fp32_partitioned_groups_flat
        moments = [x for state in optimizer.state.values() for x in state.values()]
        said = {
            "weights": size(weights),
            "teacher": size(kept(teacher)),
            "optimiser": size([*stepped, *moments], but=weights),
            "gradients": size(gradients(engine, model, stage)),
        }
        Path(out, f"rank{engine.rank}.json").write_text(json.dumps(said))


def backward(engine, teacher) -> None:
    """One micro-batch of one clip."""
    grid = engine.model.grid
    clips = torch.randn(1, 3, grid.frames, grid.height, grid.width)
    mask = hpm.hard_mask(teacher(clips), grid, 0.9, 0.5)
    out = engine(clips, mask)
    losses = hpm.reconstruction_loss(out.pixels, clips, mask, grid)
    ranking = hpm.relative_loss(out.scores, hpm.loss_per_tube(losses.detach(), mask))
    engine.backward(losses.mean() + ranking)


def kept(module: torch.nn.Module) -> list[Tensor]:
    """A module's weights, or this rank's pieces of them."""
    return [getattr(p, "ds_tensor", p) for p in module.parameters()]


def gradients(engine, model: torch.nn.Module, stage: int) -> list[Tensor]:
    """What the optimiser will step on."""
    if stage == 0:
        return [p.grad for p in model.parameters()]
    zero = engine.deepspeed.optimizer
    if stage == 3:
        return [zero.grad_partitions_flat_buffer]
    return [g for group in zero.averaged_gradients.values() for g in group]


def size(tensors: list[Tensor], but: list[Tensor] = ()) -> int:
    """Bytes of memory, what is shared counted once."""
    found = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    for other in but:
        found.pop(other.untyped_storage().data_ptr(), None)
    return sum(found.values())
