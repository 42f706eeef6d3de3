"""Does a run fit into the memory that is there, and at how many micro-batches a step?"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from videohpm.config import FinetuneConfig, PlanConfig, PretrainConfig
from videohpm.config.checks import AUTO
from videohpm.config.machine import local_world_size
from videohpm.config.plan import GPUS
from videohpm.engine import collectives, distributed, resolved_precision, torch_device
from videohpm.engine.device import device_memory
from videohpm.engine.settings import deepspeed_settings
from videohpm.errors import UserError
from videohpm.models import VideoClassifier
from videohpm.plan.memory import Memory, classifier_memory, memory_of

USABLE = 0.92
"""Share of a GPU's memory that tensors can have: the rest is the driver's and fragments."""
USABLE_ON_CPU = 0.5
"""Of main memory, which the processes that read data need, too."""
HOPELESS = 1.1
"""An estimate so many times the memory there is cannot be off so far: the run is refused."""


@dataclass(frozen=True)
class Batch:
    """A global batch, and how it may be divided.

    Args:
        samples: of one optimiser step, over all processes.
        processes: how many there are.
        repeats: clips of each sample.
        pairs: each micro-batch holds an even number of samples.
    """

    samples: int
    processes: int = 1
    repeats: int = 1
    pairs: bool = False

    def clips(self, accumulation: int) -> int:
        """Clips of a micro-batch of one process."""
        return self.samples * self.repeats // (self.processes * accumulation)

    def accumulation_for(self, most: int) -> int:
        """The fewest micro-batches of at most ``most`` clips; else the most there can be."""
        share = self.samples // self.processes
        step = 2 if self.pairs else 1
        possible = [a for a in range(1, share + 1) if share % (a * step) == 0] or [1]
        return next((a for a in possible if self.clips(a) <= most), possible[-1])


def fit_plan(config: PlanConfig) -> PlanConfig:
    """``config`` with the number of micro-batches that its GPU has room for, where that is auto."""
    if config.engine.grad_accum_steps != AUTO:
        return config
    batch = Batch(config.optim.global_batch_size, config.gpus, config.data.repeats)
    room = GPUS[config.gpu].memory * USABLE
    if memory_of(config, config.stage).total <= room:
        return with_accumulation(config, 1)
    most = memory_of(config, config.stage, accumulates=True).most_clips(room)
    return with_accumulation(config, batch.accumulation_for(most))


def fit_pretraining(config: PretrainConfig) -> PretrainConfig:
    """``config`` with as many micro-batches as this machine needs, where that is auto.

    Every rank must call it, within the process group. Raises UserError where a GPU has no room for
    what is asked, or not even for one clip.
    """
    device = torch_device(config.engine.device)
    precision = resolved_precision(config.engine.precision, device)
    sections = {name: getattr(config, name) for name in PretrainConfig.__dataclass_fields__}
    sections["engine"] = replace(config.engine, precision=precision)
    world = distributed.world_size()
    planned = PlanConfig(**sections, gpus=world)
    stage = _stage(config, world, precision)
    batch = Batch(config.optim.global_batch_size, world, config.data.repeats)

    def memory(accumulates: bool) -> Memory:
        return memory_of(planned, stage, accumulates)

    return with_accumulation(config, _accumulation(config, batch, device, memory))


def fit_finetuning(config: FinetuneConfig, model: VideoClassifier) -> FinetuneConfig:
    """The same for fine-tuning ``model``."""
    device = torch_device(config.engine.device)
    precision = resolved_precision(config.engine.precision, device)
    world, repeats = distributed.world_size(), config.data.repeats
    stage = _stage(config, world, precision)
    batch = Batch(config.optim.global_batch_size, world, repeats, config.augment.mixes)

    def memory(accumulates: bool) -> Memory:
        engine = replace(config.engine, precision=precision)
        return classifier_memory(model, engine, stage, world, accumulates, averaged=config.ema > 0)

    return with_accumulation(config, _accumulation(config, batch, device, memory))


def with_accumulation(config, accumulation: int):
    """A run's configuration with ``accumulation`` micro-batches a step."""
    return replace(config, engine=replace(config.engine, grad_accum_steps=accumulation))


def _accumulation(config, batch: Batch, device: torch.device, memory) -> int:
    """The micro-batches of a step: as given where they fit, or the fewest that do."""
    total = device_memory(device)
    on_gpu, asked = device.type == "cuda", config.engine.grad_accum_steps
    if not on_gpu:
        total //= local_world_size()
    room = total * (USABLE if on_gpu else USABLE_ON_CPU)
    first, rest = memory(False), memory(True)  # gradients are kept between micro-batches
    most = collectives.all_reduce_min(rest.most_clips(room))
    whole = collectives.all_reduce_min(int(first.total_at(batch.clips(1)) <= room))
    fitting = 1 if whole else batch.accumulation_for(most)
    if asked == AUTO:
        used = memory(fitting > 1).total_at(batch.clips(fitting))
        if on_gpu and batch.clips(fitting) > most and not whole and used > HOPELESS * total:
            raise UserError(
                f"model.arch: {batch.clips(fitting)} clips at a time need about {used / 1e9:.1f} "
                f"GB, and {device} has {total / 1e9:.1f}: set engine.zero_stage 3, engine.offload "
                "true or engine.checkpoint_activations true; videohpm plan says what each saves"
            )
        if fitting > 1 and distributed.rank() == 0:
            print(
                f"engine.grad_accum_steps: {fitting}, of {batch.clips(fitting)} clips each, about "
                f"{used / 1e9:.1f} of {total / 1e9:.1f} GB (auto)"
            )
        return fitting
    used = memory(asked > 1).total_at(batch.clips(asked))
    if on_gpu and used > HOPELESS * total:
        raise UserError(
            f"engine.grad_accum_steps: {asked}, so {batch.clips(asked)} clips at a time, needs "
            f"about {used / 1e9:.1f} GB, and {device} has {total / 1e9:.1f}; give {fitting}, or "
            "auto"
        )
    return asked


def _stage(config, world: int, precision: str) -> int:
    """The ZeRO stage of a run; 0 of plain torch."""
    if not config.engine.uses_deepspeed:
        return 0
    settings = deepspeed_settings(config.engine, config.optim, world, precision)
    return settings["zero_optimization"]["stage"]
