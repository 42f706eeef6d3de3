"""Pre-training: the loop, readable as the algorithm."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import torch
from torch import Tensor

from videohpm import checkpoint, hpm, training, visualize
from videohpm.config import PretrainConfig
from videohpm.data import BadFileTracker, Batch, collate, make_dataset, normalise
from videohpm.engine import (
    StopRequest,
    TorchEngine,
    distributed,
    make_engine,
    process_group,
    seed_step,
)
from videohpm.hpm import LossTeacher
from videohpm.models import MaskedAutoencoder
from videohpm.tracking import Stopwatch, Tracker

FIXED_CLIPS, DRAWN_CLIPS = 8, 2


def train_step(
    engine: TorchEngine,
    teacher: LossTeacher | None,
    batches: list[Batch],
    config: PretrainConfig,
    *,
    hard_ratio: float,
    momentum: float,
    lr: float,
) -> dict[str, Tensor]:
    """One optimiser step of Hard Patches Mining; without a teacher, of VideoMAE.

    Args:
        batches: the micro-batches of the step.
        hard_ratio: α, the share of masked units that the teacher chooses.
        momentum: of the teacher's moving average.

    Returns:
        Scalars, left on the device: reading them waits for it.
    """
    grid = config.model.grid()
    statistics = config.data.mean, config.data.std
    said = []
    for batch in batches:
        clips = normalise(batch.clips.to(engine.device, non_blocking=True), *statistics)
        shuffle_ids = batch.shuffle_ids.to(engine.device, non_blocking=True)
        with engine.autocast():
            mask = choose_mask(teacher, clips, shuffle_ids, config, hard_ratio)
            mask = hpm.subsample_decoded(mask, grid, config.mask.decode_ratio, shuffle_ids)
            out = engine(clips, mask)
        losses = hpm.reconstruction_loss(
            out.pixels, clips, mask, grid, config.model.target, config.data.std
        )
        loss = losses.mean()
        said.append({"loss": loss.detach()})
        if teacher is not None:
            hardness = losses.detach()
            if config.hpm.predictor_unit == "tube":
                hardness = hpm.loss_per_tube(hardness, mask)
            objective = hpm.OBJECTIVES[config.hpm.objective](out.scores, hardness)
            loss = loss + config.hpm.weight * objective
            said[-1]["relative_loss"] = objective.detach()
            said[-1]["rank_correlation"] = hpm.rank_correlation(out.scores, hardness)
        engine.backward(loss)
    norm = engine.step(lr)
    if teacher is not None and engine.step_applied:
        teacher.update(engine.model, momentum)
    means = {name: torch.stack([part[name] for part in said]).mean() for name in said[0]}
    return means if norm is None else means | {"gradient_norm": norm}


def choose_mask(
    teacher: LossTeacher | None,
    clips: Tensor,
    shuffle_ids: Tensor,
    config: PretrainConfig,
    hard_ratio: float,
) -> hpm.Mask:
    """Hide what the teacher finds hard, as far as ``hard_ratio`` says, and random units besides.

    A teacher whose share comes to less than one unit is not asked.
    """
    grid, ratio, unit = config.model.grid(), config.mask.ratio, config.mask.unit
    shuffle_ids = shuffle_ids.to(clips.device, non_blocking=True)
    masked = hpm.masked_count(hpm.unit_count(grid, unit), ratio)
    if teacher is None or hpm.hard_count(masked, hard_ratio) == 0:
        return hpm.random_mask(grid, ratio, shuffle_ids, unit)
    return hpm.hard_mask(teacher(clips), grid, ratio, hard_ratio, shuffle_ids, unit)


def schedule(
    config: PretrainConfig, step: int, steps: int, steps_per_epoch: float
) -> dict[str, float]:
    """Hard share, teacher momentum and learning rate of optimiser step ``step`` (from 0)."""
    said = config.hpm
    ramp = said.momentum_progress(step, steps_per_epoch)
    return {
        "hard_ratio": hpm.hard_ratio(step / steps, said.hard_ratio_start, said.hard_ratio_end),
        "momentum": hpm.teacher_momentum(ramp, said.momentum_start, said.momentum_end),
        "lr": config.optim.lr_at(step, steps, steps_per_epoch),
    }


class Pretraining:
    """One run: what it trains on, what it trains, and where it writes.

    Raises UserError for what the user can mend, before anything is written, and RunError where the
    loss is no longer finite.
    """

    def __init__(self, config: PretrainConfig):
        self.config, self.folder = config, Path(config.run.dir)
        grid = config.model.grid()
        self.data = make_dataset(
            config.data,
            frames=grid.frames,
            size=(grid.height, grid.width),
            units=hpm.unit_count(grid, config.mask.unit),
            seed=config.run.seed,
        )
        self.steps_per_epoch = len(self.data) / config.optim.global_batch_size
        self.steps = config.run.total_steps(self.steps_per_epoch)
        seed_step(config.run.seed, 0)
        model = MaskedAutoencoder(**config.model_arguments())
        self.teacher = None
        if config.hpm.enabled:
            steps = config.hpm.teacher_samples_per_tube or None
            self.teacher = LossTeacher(model, steps, config.hpm.score_readout)
        saved = training.restore(config.run, len(self.data), model, self._ema_modules())
        self.engine = make_engine(model, config.engine, config.optim)
        if self.teacher is not None:
            self.engine.attach_ema(self.teacher)
        if saved is not None:
            checkpoint.restore_moments(saved, self.engine)
        self.done = 0 if saved is None else saved.step

    def run(self) -> None:
        """Train until the last step; a checkpoint, a picture and metrics are left behind."""
        config, engine = self.config, self.engine
        first = engine.rank == 0
        self.folder.mkdir(parents=True, exist_ok=True)
        if first:
            training.write_settings(config)
        loader = training.training_batches(self.data, config, engine, self.done, self.steps)
        ledger = BadFileTracker(len(self.data), config.data.max_bad_fraction)
        recent = training.RecentLosses(self.data.manifest)
        fixed = collate([self.data[0, i % len(self.data)] for i in range(FIXED_CLIPS)])
        tracker = Tracker(self.folder, total_steps=self.steps, start_step=self.done, enabled=first)
        watch = Stopwatch(config.optim.global_batch_size)
        with tracker, StopRequest() as request:
            batches = iter(loader)
            for step in range(self.done, self.steps):
                with watch.waiting():
                    micro = list(itertools.islice(batches, config.engine.grad_accum_steps))
                training.name_bad_files(self.folder, ledger, micro)
                seed_step(config.run.seed, step + 1, engine.rank)
                schedule = self.schedule(step - engine.skipped)
                said = train_step(engine, self.teacher, micro, config, **schedule)
                recent.add(step + 1, said["loss"], micro)
                self.done = step + 1
                tracker.advance(self.done)
                if self._due(config.run.log_every):
                    recent.check()
                    said |= watch.lap()
                    faults = training.reading_faults(ledger, loader)
                    tracker.log(self.done, self._metrics(said, schedule) | faults)
                if self._due(config.run.picture_every):
                    self._picture(tracker, fixed, schedule["hard_ratio"])
                stopped = request.agreed() and self.done < self.steps
                if stopped or self._due(config.run.save_every):
                    recent.check()
                    self.save()
                if stopped:
                    raise training.asked_to_stop(self.folder, self.done, self.steps)

    def schedule(self, step: int) -> dict[str, float]:
        """What :func:`schedule` says of step ``step`` (from 0) of this run."""
        return schedule(self.config, step, self.steps, self.steps_per_epoch)

    def save(self) -> None:
        """Write a checkpoint of the steps done so far."""
        about = {"steps": self.steps, "samples": len(self.data)}
        training.save(self.config, self.done, self.engine, self._ema_modules(), about)

    def _ema_modules(self) -> dict[str, LossTeacher]:
        return {} if self.teacher is None else {"teacher": self.teacher}

    def _due(self, every: int) -> bool:
        return self.done == self.steps or (every > 0 and self.done % every == 0)

    def _metrics(self, said: dict, schedule: dict) -> dict[str, float | None]:
        """Means over all ranks."""
        metrics = distributed.all_reduce_mean(said) | schedule
        if self.teacher is None:
            metrics |= {"hard_ratio": 0.0, "relative_loss": None}
            del metrics["momentum"]
        else:
            metrics["teacher_distance"] = float(self.teacher.distance(self.engine.model))
        if self.engine.skipped:
            metrics["skipped_steps"] = self.engine.skipped
        return metrics | {"epoch": self.done / self.steps_per_epoch}

    def _picture(self, tracker: Tracker, fixed: Batch, hard_ratio: float) -> None:
        """The same clips every time, so that one can watch them being learnt."""
        config = self.config
        statistics = {"mean": config.data.mean, "std": config.data.std}
        clips = normalise(fixed.clips.to(self.engine.device), **statistics)
        with self.engine.eval_mode() as model, self.engine.autocast():
            mask = choose_mask(self.teacher, clips, fixed.shuffle_ids, config, hard_ratio)
            seen = visualize.inspect(
                model, clips, mask, self.teacher, **statistics, hard_ratio=hard_ratio
            )
        if self.engine.rank > 0:  # it was needed only where the weights are divided
            return
        drawn = seen.first(DRAWN_CLIPS)
        tracker.picture(self.done, "reconstruction", visualize.training_picture(drawn))
        film = visualize.training_animation(drawn)
        tracker.animation(self.done, "loss_map", visualize.gif_bytes(film), film.shape[1:3])
        folder = self.folder / "diagnostics"
        folder.mkdir(exist_ok=True)
        text = json.dumps(visualize.diagnostics(seen))
        (folder / f"step_{self.done:08d}.json").write_text(text + "\n")


def pretrain(config: PretrainConfig) -> Path:
    """Train as ``config`` says and return the run folder; a run that was stopped goes on."""
    with process_group(config.engine, config.optim.global_batch_size):
        run = Pretraining(config)
        if run.done < run.steps:
            run.run()
            said = f"{run.steps} steps done"
        else:
            said = training.nothing_to_do(run.steps)
        if run.engine.rank == 0:
            print(f"{run.folder}: {said}")
    return run.folder
