"""The loop that all training runs share: resume, read, step, log, evaluate, save, stop."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor, nn

from videohpm import checkpoint
from videohpm.config import OptimConfig, as_plain
from videohpm.config.machine import local_world_size
from videohpm.data import (
    BadFileTracker,
    Batch,
    ClipDataset,
    GlobalBatchSampler,
    append_bad_files,
    collate,
    join_batches,
    make_loader,
    replace_bad_files,
)
from videohpm.data.advice import WaitingAdvice
from videohpm.data.loader import Loader
from videohpm.engine import (
    StopRequest,
    TorchEngine,
    collectives,
    distributed,
    make_engine,
    seed_step,
)
from videohpm.engine.feed import Feed
from videohpm.errors import Preempted, RunError
from videohpm.tracking import LoggedRun, Stopwatch, Tracker, describe_machine, make_loggers
from videohpm.training.losses import RecentLosses
from videohpm.training.resume import restore

_log = logging.getLogger(__name__)

BAD_FILES = "bad_files.jsonl"
NOTHING = torch.empty(0)


class TrainingRun(ABC):
    """One training run; a subclass defines a step and what is done between steps.

    Args:
        config: has sections run, data, optim and engine, whatever else it has.
        model: with the weights to start from, where no checkpoint is resumed.
        ema_modules: averages of the model's weights, by the name they are saved under; what is
            saved of each is its submodule ``model``.

    Attributes:
        steps: optimiser steps from the first to the last.
        done: those that have been done.
        evaluate_every: steps between two calls of :meth:`evaluate`; 0 for one after the last step
            only, None for none.

    Raises UserError for what the user can mend, before anything is written, and RunError where the
    loss is no longer finite.
    """

    evaluate_every: int | None = None

    def __init__(
        self, config: Any, data: ClipDataset, model: nn.Module, ema_modules: dict[str, nn.Module]
    ):
        self.config, self.folder, self.data = config, Path(config.run.dir), data
        self.ema_modules = ema_modules
        self.steps_per_epoch = len(data) / config.optim.global_batch_size
        self.steps = config.run.total_steps(self.steps_per_epoch)
        if distributed.rank() == 0:
            _warn_of_warmup(config.optim, self.steps, self.steps_per_epoch)
        saved = restore(config, len(data), self.steps, model, self._averages())
        self.engine = make_engine(model, config.engine, config.optim)
        for module in ema_modules.values():
            self.engine.attach_ema(module)
        if saved is not None:
            checkpoint.restore_moments(saved, self.engine)
        self.done = 0 if saved is None else saved.step
        self.restored: dict = {} if saved is None else saved.state
        self.bad_files = BadFileTracker(len(data), config.data.max_bad_fraction)
        if "bad_files" in self.restored:
            self.bad_files.restore(self.restored["bad_files"])

    @abstractmethod
    def train(self, batches: Iterable[Batch], step: int) -> dict[str, Tensor]:
        """Do one optimiser step; returns scalars, left on the device, among them ``loss``.

        Args:
            batches: its micro-batches, on the engine's device, each read when it is asked for.
            step: the steps before it that moved the weights; ``done`` counts skipped ones too.
        """

    @abstractmethod
    def step_metrics(self, step: int) -> dict[str, float | None]:
        """What else is logged of a step: its schedules, and what takes time to measure.

        None for what this run does not measure.
        """

    @abstractmethod
    def evaluate(self, tracker: Tracker, step: int) -> None:
        """Between two steps, as often as ``evaluate_every`` says: draw pictures, or validate."""

    def logged(self, tracker: Tracker, row: dict[str, float | None]) -> None:  # noqa: B027
        """Called with each line of the log: what is to be told of it."""

    def order_weights(self, epoch: int) -> np.ndarray | None:
        """How often each sample is to be in an epoch; None: once. See GlobalBatchSampler."""
        return None

    def state(self) -> dict:
        """Plain values that a checkpoint keeps, besides the step and the configuration."""
        bad_files = self.bad_files.state()
        return {"steps": self.steps, "samples": len(self.data), "bad_files": bad_files}

    def description(self) -> dict:
        """Plain values that config.json of a checkpoint holds beside the model's."""
        return {}

    def run(self) -> None:
        """Train until the last step; metrics, pictures and checkpoints are left behind."""
        config, engine, first = self.config, self.engine, self.engine.rank == 0
        self.folder.mkdir(parents=True, exist_ok=True)
        if first:
            write_settings(config)
            if self.done == 0 or "bad_files" in self.restored:
                replace_bad_files(self.folder / BAD_FILES, self.bad_files.files.values())
        loader = training_batches(
            self.data, config, engine, self.done, self.steps, self.order_weights
        )
        recent, advice = RecentLosses(self.data.manifest, config), WaitingAdvice(self.data)
        self.watch = watch = Stopwatch(config.optim.global_batch_size * config.data.repeats)
        logged = LoggedRun(self.folder, self.steps, self.done, as_plain(config))
        with Tracker(make_loggers(logged) if first else []) as tracker, StopRequest() as request:
            feed = Feed(iter(loader), engine.device, watch.waiting)
            while self.done < self.steps:
                seed_step(config.run.seed, self.done + 1, engine.rank)
                step, read = self.done - engine.skipped, []
                batches = noting(feed.step(config.engine.accumulation), read)
                metrics = self.train(batches, step)
                self._note_bad_files(read)
                self.done += 1
                watch.count_step()
                recent.add(self.done, metrics, read)
                recent.count_skipped(self.done, engine.step_applied)
                tracker.advance(self.done)
                if self._due(config.run.log_every):
                    recent.check()
                    means = collectives.all_reduce_mean(metrics | watch.lap())
                    faults = self._reading_faults(loader)
                    row = means | self._metrics(step) | faults
                    tracker.log(self.done, row)
                    self.logged(tracker, row)
                    if waits := advice.after(means["data_wait"]):
                        tracker.message(waits)
                if self.evaluate_every is not None and self._due(self.evaluate_every):
                    recent.check()
                    with watch.paused():
                        self.evaluate(tracker, step)
                        distributed.wait_for_all()
                stopped = request.should_stop() and self.done < self.steps
                if stopped or self._due(config.run.save_every):
                    recent.check()
                    with watch.paused():
                        self.save()
                if stopped:
                    raise asked_to_stop(self.folder, self.done, self.steps)

    def save(self) -> None:
        """Write a checkpoint of the steps done so far; RunError on every rank where it fails."""
        failure = None
        self._share_bad_files()
        state = self.state() | {"config": as_plain(self.config)}
        arguments = self.folder, self.done, self.engine, self._averages(), state
        try:
            with distributed.working():
                checkpoint.save(*arguments, self.config.run.keep, self.description())
        except RunError as error:
            failure = error
        collectives.raise_on_all_ranks(failure)

    def _note_bad_files(self, batches: list[Batch]) -> None:
        """Count batches; one process names their bad files at once, several when they share."""
        new = [file for batch in batches for file in self.bad_files.update(batch)]
        if self.engine.rank == 0:
            append_bad_files(self.folder / BAD_FILES, new)
        if self.engine.world == 1:
            self.bad_files.check()

    def _share_bad_files(self) -> None:
        """Let every rank know what all have met: one writes, and all stop where they are many."""
        found = collectives.all_gather(self.bad_files.unshared)
        seen = collectives.all_reduce_any(self.bad_files.seen_flags)
        new = self.bad_files.merge(seen, [file for part in found for file in part])
        if self.engine.rank == 0:
            append_bad_files(self.folder / BAD_FILES, new)
        self.bad_files.check()

    def _reading_faults(self, loader: Loader) -> dict[str, float | None]:
        """Metrics over all ranks: files found unreadable, and, if any, readers that died."""
        self._share_bad_files()
        deaths = collectives.all_reduce_sum(loader.deaths)
        found: dict[str, float | None] = {"bad_files": self.bad_files.bad}
        return found | ({"reader_deaths": deaths} if deaths else {})

    def _averages(self) -> dict[str, nn.Module]:
        return {name: module.get_submodule("model") for name, module in self.ema_modules.items()}

    def _due(self, every: int) -> bool:
        return self.done == self.steps or (every > 0 and self.done % every == 0)

    def _metrics(self, step: int) -> dict[str, float | None]:
        metrics = self.step_metrics(step)
        if self.engine.skipped:
            metrics["skipped_steps"] = self.engine.skipped
        return metrics | {"epoch": self.done / self.steps_per_epoch}


def training_batches(
    data: ClipDataset,
    config: Any,
    engine: TorchEngine,
    first: int,
    last: int,
    weights: Callable[[int], np.ndarray | None],
) -> Loader:
    """This rank's micro-batches of steps ``first`` (from 0) up to ``last``, not included."""
    sampler = GlobalBatchSampler(
        len(data),
        config.optim.global_batch_size,
        rank=engine.rank,
        world=engine.world,
        grad_accum_steps=config.engine.accumulation,
        seed=config.run.seed,
        start_step=first,
        steps=last,
        weights=weights,
    )
    return make_loader(
        data,
        sampler,
        pin_memory=engine.device.type == "cuda",
        processes=local_world_size(),
        join=partial(join_batches, device=engine.device),
    )


def noting(batches: Iterable[Batch], read: list[Batch]) -> Iterator[Batch]:
    """``batches``; what they were read from is added to ``read``, without the clips."""
    for batch in batches:
        read.append(batch._replace(clips=NOTHING, shuffle_ids=NOTHING, labels=NOTHING))
        yield batch


def read_once(data: ClipDataset, keys: list[tuple[int, int]], workers: int) -> Batch:
    """The items of ``keys`` as one batch, read as training reads.

    With ``workers`` that is in a process of its own: a file whose decoder crashes it is replaced.
    In one process whatever their number, so that no other file is taken for the one that did it.
    """
    return next(iter(Loader(data, [keys], collate, workers=min(workers, 1))))


def write_settings(config: Any) -> None:
    """config.yaml and environment.json of a run that begins or goes on."""
    folder = Path(config.run.dir)
    text = yaml.safe_dump(as_plain(config), sort_keys=False)
    (folder / "config.yaml").write_text(text)
    describe_machine(folder / "environment.json", distributed.world_size())


def asked_to_stop(folder: Path, done: int, steps: int) -> Preempted:
    """The error that ends a run which was asked to stop and has saved."""
    return Preempted(
        f"{folder}: asked to stop, saved after step {done} of {steps}; the same command goes on "
        "from there"
    )


def nothing_to_do(steps: int) -> str:
    """What is printed where the run was finished before."""
    return (
        f"all {steps} steps are done; for more give a larger --run.steps, to start anew another "
        "--run.dir"
    )


def _warn_of_warmup(optim: OptimConfig, steps: int, steps_per_epoch: float) -> None:
    warmup = optim.warmup(steps_per_epoch)
    if warmup < steps or steps < 2:
        return
    field = "warmup_epochs" if optim.warmup_steps is None else "warmup_steps"
    _log.warning(
        "optim.%s: the warm-up (%d steps) is as long as the run (%d), so that the learning rate "
        "rises to the end and never falls; a tenth of the run is usual",
        *(field, warmup, steps),
    )
