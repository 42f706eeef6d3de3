"""Run in each rank by the tests of several ranks: what only the running process can tell."""

from __future__ import annotations

import ctypes
import gc
import itertools
import json
from pathlib import Path

import torch

from videohpm import pretrain
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
from videohpm.engine import EngineConfig, process_group
from videohpm.engine.settings import UNSHARDED_BELOW
from videohpm.errors import UserError
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


def train_each(runs: list[dict]) -> None:
    """Train as each of ``runs`` says, one after another in the same processes."""
    configs = [read(plain) for plain in runs]
    with process_group(configs[0].engine, configs[0].optim.global_batch_size):
        for config in configs:
            pretrain.Pretraining(config).run()
