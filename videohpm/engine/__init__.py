"""How a step is carried out: device, precision, accumulation, the optimiser, the processes.

============== ==============================================================================
device         the device and precision of this process
single         one process, plain torch
deepspeed      several, or ZeRO in one: DeepSpeed, imported nowhere else and only when needed
settings       DeepSpeed's settings, from ours and a user's file
ema            moving averages of weights that ZeRO-3 divides
feed           batches from the loader to the device
compile        what makes steps faster without changing what they compute
distributed    the processes of a run: groups and collectives
rendezvous     why processes did not find each other
meeting        waiting for the slowest process as long as it works
preemption     what ends a run early: signals, lost processes, full disks
failures       errors of torch, NCCL and gloo by their texts
watch          a thread that notices when another process ends
============== ==============================================================================
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn

from videohpm import stopping
from videohpm.config import EngineConfig, OptimConfig
from videohpm.config.engine import check_batch
from videohpm.engine import distributed
from videohpm.engine.device import resolved_precision, torch_device
from videohpm.engine.preemption import StopRequest, translate_errors
from videohpm.engine.single import TorchEngine

__all__ = [
    "EngineConfig",
    "StopRequest",
    "TorchEngine",
    "make_engine",
    "process_group",
    "resolved_precision",
    "distributed",
    "seed_step",
    "torch_device",
]


@contextmanager
def process_group(config: EngineConfig, batch: int) -> Iterator[None]:
    """Around a run: join its other processes, where there are any, and leave them at the end.

    Args:
        batch: clips of one optimiser step over all of them.

    Raises UserError where the batch cannot be divided among them, RunError for what
    :func:`videohpm.engine.preemption.translate_errors` translates, and Preempted for a signal to
    stop that comes before the first step or after the last.
    """
    with stopping.raising():
        if config.uses_deepspeed:
            distributed.init_process_group(torch_device(config.device), config.timeout)
        check_batch(batch, config.accumulation, distributed.world_size())
        try:
            with translate_errors():
                yield
                distributed.destroy_process_group()  # not after an error: it waits for the others
        except BaseException as error:
            distributed.announce_failure(error)
            raise


def make_engine(model: nn.Module, config: EngineConfig, optim: OptimConfig) -> TorchEngine:
    """The engine that ``config`` and the number of processes call for.

    Args:
        model: with the weights to start from; the engine moves it to its device and, under
            ZeRO-3, divides it.
    """
    if not config.uses_deepspeed:
        return TorchEngine(model, config, optim)
    from videohpm.engine.deepspeed import ZeroEngine

    return ZeroEngine(model, config, optim)


def seed_step(seed: int, step: int, rank: int = 0) -> None:
    """Derive every global random state from (seed, step, rank), so that none has to be saved.

    Sample order, crops and masks do not use it (they depend on seed, epoch and sample alone):
    what does is drop-path and the initial weights.
    """
    value = int(np.random.SeedSequence([seed, step, rank]).generate_state(1)[0])
    random.seed(value)
    np.random.seed(value)
    torch.manual_seed(value)
