"""Run in each rank by the tests of several ranks: what only the running process can tell."""

from __future__ import annotations

import ctypes
import gc
import inspect
import itertools
import json
import os
import resource
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from pretended import PretendedGpus

from videohpm import __main__, evaluate, pretrain
from videohpm.cli import main
from videohpm.config import (
    HPMConfig,
    MaskConfig,
    ModelConfig,
    OnlineProbeConfig,
    OptimConfig,
    PretrainConfig,
    RunConfig,
)
from videohpm.data import DataConfig
from videohpm.engine import EngineConfig, collectives, distributed, process_group
from videohpm.engine.settings import UNSHARDED_BELOW
from videohpm.errors import Preempted, UserError
from videohpm.evaluate import views
from videohpm.pretrain import train_step

SPOILT = 3

SECTIONS = {
    "run": RunConfig, "data": DataConfig, "model": ModelConfig, "mask": MaskConfig,
    "hpm": HPMConfig, "optim": OptimConfig, "engine": EngineConfig,
    "probe": OnlineProbeConfig,
}  # fmt: skip


def read(plain: dict) -> PretrainConfig:
    """A configuration from what YAML holds."""
    return PretrainConfig(**{name: SECTIONS[name](**values) for name, values in plain.items()})


def resident_bytes(module: torch.nn.Module) -> int:
    """Bytes of weights that this process keeps: whole ones, and under ZeRO-3 shards."""
    kept = [parameter.data for parameter in module.parameters()]
    kept += [p.ds_tensor for p in module.parameters() if hasattr(p, "ds_tensor")]
    return sum(tensor.numel() * tensor.element_size() for tensor in kept)


def program(words: list[str]) -> int:
    """The command line from its first line, as ``python -m videohpm`` runs it.

    FILE_LIMIT in the environment: bytes that a file may hold, as on a disk that is full.
    """
    if "FILE_LIMIT" in os.environ:
        limit = int(os.environ["FILE_LIMIT"])
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    sys.argv[1:] = words
    return __main__.main()


def dies(words: list[str], rank: int, group: int) -> int:
    """:func:`program`; a rank is killed where it makes its ``group``-th process group, from 0."""
    made, make = itertools.count(), torch.distributed.new_group

    def new_group(*args, **kwargs):
        if os.environ["RANK"] == str(rank) and next(made) == group:
            os.kill(os.getpid(), signal.SIGKILL)
        return make(*args, **kwargs)

    torch.distributed.new_group = new_group
    return program(words)


def stands_still(words: list[str], rank: int, mark: str) -> int:
    """:func:`program`; a rank reads its second video, says so and is stopped (SIGSTOP)."""
    reads, read = itertools.count(), views.read_views

    def read_views(*args, **kwargs):
        if os.environ["RANK"] == str(rank) and next(reads) == 1:
            Path(mark).touch()
            os.kill(os.getpid(), signal.SIGSTOP)
        return read(*args, **kwargs)

    views.read_views = read_views
    return program(words)


def reads_slowly(words: list[str], rank: int, seconds: float) -> int:
    """:func:`program`; each video of a rank takes so long to read."""
    read = views.read_views

    def read_views(*args, **kwargs):
        time.sleep(seconds if os.environ["RANK"] == str(rank) else 0)
        return read(*args, **kwargs)

    views.read_views = read_views
    return program(words)


class Watch:
    """Stands in for the training step: looks at what this rank keeps before each, and spoils one.

    The gradient of step :data:`SPOILT` is infinite, and only on the last rank.
    """

    def __init__(self):
        self.kept: list[dict[str, int]] = []
        self.schedules: list[dict[str, float]] = []
        self.spoilt: dict[str, bool] = {}

    def __call__(self, engine, teacher, target, batches, config, *, mining, **schedule):
        self.look(engine, teacher)
        self.schedules.append(schedule)
        if len(self.schedules) != SPOILT:
            return train_step(engine, teacher, target, batches, config, **schedule, mining=mining)
        if engine.rank == engine.world - 1:
            backward = engine.backward
            engine.backward = lambda loss: backward(loss * float("inf"))
        before = all_weights(engine, teacher)
        said = train_step(engine, teacher, target, batches, config, **schedule, mining=mining)
        engine.__dict__.pop("backward", None)
        same = map(torch.equal, before, all_weights(engine, teacher))
        self.spoilt = {"moved": engine.step_applied, "same": all(same)}
        return said

    def look(self, engine, teacher) -> None:
        """Note what this rank keeps at this moment."""
        divided = [
            p.ds_shape
            for module in (engine.model, teacher)
            for p in module.parameters()
            if hasattr(p, "ds_tensor") and p.ds_numel > UNSHARDED_BELOW
        ]
        self.kept.append(
            {
                "student": resident_bytes(engine.model),
                "teacher": resident_bytes(teacher),
                "whole": live_tensors(divided),
            }
        )


def live_tensors(shapes: list[torch.Size]) -> int:
    """How many tensors of these shapes this process still refers to, whoever does."""
    gc.collect()
    tensors = [thing for thing in gc.get_objects() if issubclass(type(thing), torch.Tensor)]
    return sum(tensor.shape in shapes for tensor in tensors)


def all_weights(engine, teacher) -> list[torch.Tensor]:
    """Student's and teacher's, whole. Every rank must ask."""
    return [engine.full_tensor(p) for p in (*engine.model.parameters(), *teacher.parameters())]


def between_steps(plain: dict, out: str) -> None:
    """Train as ``plain`` says; write what :class:`Watch` saw, and the encoder's features."""
    config = read(plain)
    pretrain.train_step = watch = Watch()
    with process_group(config.engine, config.optim.global_batch_size):
        training = pretrain.Pretraining(config)
        training.run()
        engine = training.engine
        watch.look(engine, training.teacher)
        clips = torch.load(Path(out) / "clips.pt")
        with engine.eval_mode() as model:
            features = model.encoder(clips)
        torch.save(features, Path(out) / f"features{engine.rank}.pt")
        facts = watch.spoilt | {"kept": watch.kept, "schedules": watch.schedules}
        facts |= {"skipped": engine.skipped, "updates": engine.updates()}
        facts["planned"] = [training.schedule(step) for step in range(config.run.steps)]
        (Path(out) / f"facts{engine.rank}.json").write_text(json.dumps(facts))


def a_loss_that_is_not_finite(arguments: list[str], step: int, rank: int, out: str) -> int:
    """The command line, where the loss of one step is not a number on one rank only.

    The samples behind it go to the file ``out``.
    """
    done = itertools.count(1)

    def spoilt(engine, teacher, target, batches, config, **schedule):
        batches = list(batches)
        said = train_step(engine, teacher, target, batches, config, **schedule)
        if (next(done), engine.rank) == (step, rank):
            said["loss"] = said["loss"] * float("nan")
            indices = [int(index) for batch in batches for index in batch.index]
            Path(out).write_text(json.dumps(indices))
        return said

    pretrain.train_step = spoilt
    return main(arguments)


def wait_for_a_device() -> None:
    """As a wait for a GPU does: native code that lets go of Python's lock, and never returns."""
    ctypes.CDLL(None).pause()


def stuck_on_a_device(arguments: list[str]) -> int:
    """The command line, where every rank waits for its device in the first step."""

    def stuck(*_, **__):
        print("waiting", flush=True)
        wait_for_a_device()

    pretrain.train_step = stuck
    return main(arguments)


def fails_on_the_last_rank(arguments: list[str], kind: str, text: str) -> int:
    """The command line, where the last rank fails in the second step and the others are stuck."""
    kinds = {"user": UserError, "memory": torch.OutOfMemoryError, "bug": KeyError}
    done = itertools.count(1)

    def step(engine, *rest, **options):
        if next(done) < 2:
            return train_step(engine, *rest, **options)
        if engine.rank == engine.world - 1:
            raise kinds[kind](text)
        wait_for_a_device()

    pretrain.train_step = step
    return main(arguments)


def never_finite(arguments: list[str]) -> int:
    """The command line, where no gradient is finite and every loss is."""

    def step(engine, *rest, **options):
        if "backward" not in engine.__dict__:
            backward = engine.backward
            engine.backward = lambda loss: backward(loss * float("inf"))
        return train_step(engine, *rest, **options)

    pretrain.train_step = step
    return main(arguments)


def ends_while_others_step(arguments: list[str], kind: str) -> int:
    """The command line, where the last rank ends in the second step and the others exchange theirs.

    They notice by the connection that it broke, before they hear why.
    """
    errors = {
        "signal": Preempted("stopped by SIGTERM"),
        "interrupt": KeyboardInterrupt(),
        "user": UserError("data.root: made up"),
    }
    done = itertools.count(1)

    def step(engine, *rest, **options):
        if next(done) == 2 and engine.rank == engine.world - 1:
            raise errors[kind]
        return train_step(engine, *rest, **options)

    pretrain.train_step = step
    return main(arguments)


def train_each(runs: list[dict]) -> None:
    """Train as each of ``runs`` says, one after another in the same processes."""
    configs = [read(plain) for plain in runs]
    with process_group(configs[0].engine, configs[0].optim.global_batch_size):
        for config in configs:
            pretrain.Pretraining(config).run()


def on_pretended_gpus(out: str) -> None:
    """Join, and exchange all that is not gradients, where torch says that there are GPUs.

    What goes over the group that NCCL would have, and what over others, is written down.
    """
    patch = pytest.MonkeyPatch()
    gpus, begin, backends = PretendedGpus(patch), dist.init_process_group, []
    over: dict[str, list[str]] = {"over nccl": [], "over gloo": []}

    def init_process_group(backend, **options):
        backends.append(backend)
        begin("gloo", **options)

    def noted(name: str):
        call = getattr(dist, name)

        def collective(*args, **kwargs):
            group = call_group(call, args, kwargs)
            default = group is None or group is dist.group.WORLD
            over["over nccl" if default else "over gloo"].append(name)
            return call(*args, **kwargs)

        return collective

    patch.setattr(dist, "init_process_group", init_process_group)
    for name in ("all_reduce", "all_gather", "all_gather_object", "broadcast_object_list"):
        patch.setattr(dist, name, noted(name))
    rank = distributed.rank()
    processes = evaluate.init_eval_processes(torch.device("cuda", rank), 60.0)
    gathered = processes.gather(f"results of {rank}")
    flags = np.array([rank == 0])
    collectives.raise_on_all_ranks(None)
    collectives.from_first_rank("checkpoint")
    collectives.all_gather([rank])
    collectives.assert_equal_across_ranks("step", 1)
    collectives.all_reduce_sum(rank)
    collectives.all_reduce_min(rank)
    collectives.all_reduce_tensor(torch.ones(2))
    collectives.all_reduce_any(flags)
    collectives.all_reduce_mean({"loss": torch.ones(())})
    work, _ = collectives.any_rank_async(False)
    work.wait()
    facts = {"backends": backends, "current": [str(d) for d in gpus.current]}
    facts |= {"gathered": gathered} | over
    (Path(out) / f"facts{rank}.json").write_text(json.dumps(facts))
    processes.destroy_process_group()


def call_group(call, args: tuple, kwargs: dict):
    """The group that a collective is asked for."""
    return inspect.signature(call).bind(*args, **kwargs).arguments.get("group")
