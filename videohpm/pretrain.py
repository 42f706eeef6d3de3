"""Pre-training: the step, readable as the algorithm, and what surrounds it."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor, nn

from videohpm import hpm, training, visualize
from videohpm.config import PretrainConfig
from videohpm.data import Batch, make_dataset, normalise
from videohpm.engine import TorchEngine, process_group, seed_step
from videohpm.hpm import LossTeacher
from videohpm.models import MaskedAutoencoder
from videohpm.tracking import Tracker
from videohpm.training import TrainingRun

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
    mining = config.hpm
    ramp = mining.momentum_progress(step, steps_per_epoch)
    return {
        "hard_ratio": hpm.hard_ratio(step / steps, mining.hard_ratio_start, mining.hard_ratio_end),
        "momentum": hpm.teacher_momentum(ramp, mining.momentum_start, mining.momentum_end),
        "lr": config.optim.lr_at(step, steps, steps_per_epoch),
    }


class Pretraining(TrainingRun):
    """Pre-training as ``config`` says; see :class:`videohpm.training.TrainingRun`."""

    config: PretrainConfig

    def __init__(self, config: PretrainConfig):
        grid = config.model.grid()
        data = make_dataset(
            config.data,
            frames=grid.frames,
            size=(grid.height, grid.width),
            units=hpm.unit_count(grid, config.mask.unit),
            seed=config.run.seed,
        )
        seed_step(config.run.seed, 0)
        self.model = MaskedAutoencoder(**config.model_arguments())
        self.teacher = None
        ema_modules: dict[str, nn.Module] = {}
        if config.hpm.enabled:
            steps = config.hpm.teacher_samples_per_tube or None
            self.teacher = LossTeacher(self.model, steps, config.hpm.score_readout)
            ema_modules["teacher"] = self.teacher
        self.evaluate_every = config.run.picture_every
        super().__init__(config, data, self.model, ema_modules)

    def run(self) -> None:
        """Train until the last step; the pictures show the same clips every time."""
        keys = [(0, i % len(self.data)) for i in range(FIXED_CLIPS)]
        self.fixed = training.read_once(self.data, keys, self.config.data.workers)
        super().run()

    def train(self, batches: list[Batch], step: int) -> dict[str, Tensor]:
        """See :func:`train_step`."""
        schedule = self.schedule(step)
        return train_step(self.engine, self.teacher, batches, self.config, **schedule)

    def schedule(self, step: int) -> dict[str, float]:
        """:func:`schedule` at step ``step`` (from 0) of this run."""
        return schedule(self.config, step, self.steps, self.steps_per_epoch)

    def step_metrics(self, step: int) -> dict[str, float | None]:
        """The schedules, and how far the teacher is from the student."""
        schedule = self.schedule(step)
        if self.teacher is None:
            return {"hard_ratio": 0.0, "lr": schedule["lr"], "relative_loss": None}
        return {**schedule, "teacher_distance": float(self.teacher.distance(self.model))}

    def description(self) -> dict:
        """How the teacher is made, for whoever loads it."""
        return {} if self.teacher is None else {"teacher": self.teacher.config}

    def evaluate(self, tracker: Tracker, step: int) -> None:
        """Draw what the model makes of the fixed clips, and measure it."""
        config, hard_ratio = self.config, self.schedule(step)["hard_ratio"]
        mean, std = config.data.mean, config.data.std
        clips = normalise(self.fixed.clips.to(self.engine.device), mean, std)
        with self.engine.eval_mode(), self.engine.autocast():
            mask = choose_mask(self.teacher, clips, self.fixed.shuffle_ids, config, hard_ratio)
            inspection = visualize.inspect(
                self.model, clips, mask, self.teacher, mean=mean, std=std, hard_ratio=hard_ratio
            )
        if self.engine.rank > 0:  # it was needed only where the weights are divided
            return
        drawn = inspection.first(DRAWN_CLIPS)
        tracker.image(self.done, "reconstruction", visualize.training_picture(drawn))
        animation = visualize.training_animation(drawn)
        size = animation.shape[1], animation.shape[2]
        tracker.animation(self.done, "loss_map", visualize.gif_bytes(animation), size)
        folder = self.folder / "diagnostics"
        folder.mkdir(exist_ok=True)
        text = json.dumps(visualize.diagnostics(inspection))
        (folder / f"step_{self.done:08d}.json").write_text(text + "\n")


def pretrain(config: PretrainConfig) -> Path:
    """Train as ``config`` says and return the run folder; a run that was stopped goes on."""
    with process_group(config.engine, config.optim.global_batch_size):
        run = Pretraining(config)
        if run.done < run.steps:
            run.run()
            outcome = f"{run.steps} steps done"
        else:
            outcome = training.nothing_to_do(run.steps)
        if run.engine.rank == 0:
            print(f"{run.folder}: {outcome}")
    return run.folder
