"""Pre-training: the loop, readable as the algorithm."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import torch
import yaml
from torch import Tensor

from videohpm import checkpoint, hpm, visualize
from videohpm.config import PretrainConfig, as_plain
from videohpm.data import (
    BadFileLedger,
    Batch,
    GlobalBatchSampler,
    collate,
    make_dataset,
    make_loader,
    normalise,
)
from videohpm.engine import StopRequest, TorchEngine, make_engine, processes, ranks, seed_step
from videohpm.errors import Preempted, RunError, UserError
from videohpm.hpm import LossTeacher
from videohpm.models import MaskedAutoencoder
from videohpm.tracking import Stopwatch, Tracker, describe_machine

FIXED_CLIPS, DRAWN_CLIPS = 8, 2


def train_step(
    engine: TorchEngine,
    teacher: LossTeacher | None,
    batches: list[Batch],
    config: PretrainConfig,
    *,
    hard_share: float,
    momentum: float,
    lr: float,
) -> dict[str, Tensor]:
    """One optimiser step of Hard Patches Mining; without a teacher, of VideoMAE.

    Args:
        batches: the micro-batches of the step.
        hard_share: α, the share of masked units that the teacher chooses.
        momentum: of the teacher's moving average.

    Returns:
        Scalars, left on the device: reading them waits for it.
    """
    grid = config.model.grid()
    statistics = config.data.mean, config.data.std
    said = []
    for batch in batches:
        clips = normalise(batch.clips.to(engine.device, non_blocking=True), *statistics)
        priority = batch.priority.to(engine.device, non_blocking=True)
        with engine.autocast():
            mask = choose_mask(teacher, clips, priority, config, hard_share)
            mask = hpm.decode_part(mask, grid, config.mask.decode_ratio, priority)
            out = engine(clips, mask)
        losses = hpm.reconstruction_loss(
            out.pixels, clips, mask, grid, config.model.target, config.data.std
        )
        loss = losses.mean()
        said.append({"loss": loss.detach()})
        if teacher is not None:
            hardness = losses.detach()
            if config.hpm.predictor == "tube":
                hardness = hpm.loss_per_tube(hardness, mask)
            objective = hpm.OBJECTIVES[config.hpm.objective](out.scores, hardness)
            loss = loss + config.hpm.weight * objective
            said[-1]["relative_loss"] = objective.detach()
            said[-1]["rank_correlation"] = hpm.rank_correlation(out.scores, hardness)
        engine.backward(loss)
    norm = engine.step(lr)
    if teacher is not None and engine.moved:
        teacher.update(engine.model, momentum)
    means = {name: torch.stack([part[name] for part in said]).mean() for name in said[0]}
    return means if norm is None else means | {"gradient_norm": norm}


def choose_mask(
    teacher: LossTeacher | None,
    clips: Tensor,
    priority: Tensor,
    config: PretrainConfig,
    hard_share: float,
) -> hpm.Mask:
    """Hide what the teacher finds hard, as far as ``hard_share`` says, and random units besides.

    A teacher whose share comes to less than one unit is not asked.
    """
    grid, ratio, unit = config.model.grid(), config.mask.ratio, config.mask.unit
    priority = priority.to(clips.device, non_blocking=True)
    masked = hpm.masked_count(hpm.unit_count(grid, unit), ratio)
    if teacher is None or hpm.hard_count(masked, hard_share) == 0:
        return hpm.random_mask(grid, ratio, priority, unit)
    return hpm.hard_mask(teacher(clips), grid, ratio, hard_share, priority, unit)


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
        self.steps_per_epoch = len(self.data) / config.optim.batch
        self.steps = config.run.total_steps(self.steps_per_epoch)
        seed_step(config.run.seed, 0)
        model = MaskedAutoencoder(**config.model_arguments())
        self.teacher = None
        if config.hpm.enabled:
            steps = config.hpm.teacher_steps or None
            self.teacher = LossTeacher(model, steps, config.hpm.teacher_read)
        saved = self._restore(model)
        self.engine = make_engine(model, config.engine, config.optim)
        if self.teacher is not None:
            self.engine.adopt(self.teacher)
        if saved is not None:
            checkpoint.restore_moments(saved, self.engine)
        self.done = 0 if saved is None else saved.step

    def run(self) -> None:
        """Train until the last step; a checkpoint, a picture and metrics are left behind."""
        config, engine = self.config, self.engine
        first = engine.rank == 0
        self.folder.mkdir(parents=True, exist_ok=True)
        if first:
            self._write_settings()
        loader = self._loader()
        ledger = BadFileLedger(len(self.data), config.data.max_bad_share)
        recent = RecentLosses(self.data.manifest)
        fixed = collate([self.data[0, i % len(self.data)] for i in range(FIXED_CLIPS)])
        tracker = Tracker(self.folder, total_steps=self.steps, start_step=self.done, enabled=first)
        watch = Stopwatch(config.optim.batch)
        with tracker, StopRequest() as request:
            batches = iter(loader)
            for step in range(self.done, self.steps):
                with watch.waiting():
                    micro = list(itertools.islice(batches, config.engine.accumulation))
                self._count_bad(ledger, micro)
                seed_step(config.run.seed, step + 1, engine.rank)
                schedule = self.schedule(step - engine.skipped)
                said = train_step(engine, self.teacher, micro, config, **schedule)
                recent.add(step + 1, said["loss"], micro)
                self.done = step + 1
                tracker.advance(self.done)
                if self._due(config.run.log_every):
                    recent.check()
                    said |= watch.lap()
                    tracker.log(self.done, self._metrics(said, schedule, ledger))
                if self._due(config.run.picture_every):
                    self._picture(tracker, fixed, schedule["hard_share"])
                stopped = request.agreed() and self.done < self.steps
                if stopped or self._due(config.run.save_every):
                    recent.check()
                    self.save()
                if stopped:
                    raise Preempted(
                        f"{self.folder}: asked to stop, saved after step {self.done} of "
                        f"{self.steps}; the same command goes on from there"
                    )

    def schedule(self, step: int) -> dict[str, float]:
        """Hard share, teacher momentum and learning rate of optimiser step ``step`` (from 0)."""
        said = self.config.hpm
        return {
            "hard_share": hpm.hard_share(
                step / self.steps, said.hard_share_start, said.hard_share_end
            ),
            "momentum": hpm.teacher_momentum(
                said.momentum_progress(step, self.steps_per_epoch),
                said.momentum_start,
                said.momentum_end,
            ),
            "lr": self.config.optim.lr_at(step, self.steps, self.steps_per_epoch),
        }

    def save(self) -> None:
        """Write a checkpoint of the steps done so far."""
        failure = None
        about = {"steps": self.steps, "samples": len(self.data), "config": as_plain(self.config)}
        try:
            checkpoint.save(
                self.folder, self.done, self.engine, self._followers(), about, self.config.run.keep
            )
        except RunError as error:
            failure = error
        ranks.agree(failure)

    def _followers(self) -> dict[str, LossTeacher]:
        return {} if self.teacher is None else {"teacher": self.teacher}

    def _restore(self, model: MaskedAutoencoder) -> checkpoint.Saved | None:
        """Load the weights of the checkpoint that run.resume means, where there is one."""
        if ranks.rank() == 0:
            checkpoint.tidy(self.folder)
        ranks.agree(None)  # until that is done
        folder = checkpoint.to_resume(self.folder, self.config.run.resume)
        saved = folder and checkpoint.restore(folder, model, self._followers())
        ranks.same("run.dir: steps done", saved.step if saved else 0)
        if saved and saved.state["samples"] != len(self.data):
            raise UserError(
                f"data.root: {len(self.data)} samples, but {folder} was trained on "
                f"{saved.state['samples']}; a run goes on only with the data it began with"
            )
        return saved

    def _due(self, every: int) -> bool:
        return self.done == self.steps or (every > 0 and self.done % every == 0)

    def _loader(self):
        config = self.config
        sampler = GlobalBatchSampler(
            len(self.data),
            config.optim.batch,
            rank=self.engine.rank,
            world=self.engine.world,
            accumulation=config.engine.accumulation,
            seed=config.run.seed,
            start_step=self.done,
            steps=self.steps,
        )
        on_gpu = self.engine.device.type == "cuda"
        return make_loader(self.data, sampler, workers=config.data.workers, pin_memory=on_gpu)

    def _metrics(
        self, said: dict, schedule: dict, ledger: BadFileLedger
    ) -> dict[str, float | None]:
        """Means over all ranks."""
        metrics = ranks.means(said) | schedule
        if self.teacher is None:
            metrics |= {"hard_share": 0.0, "relative_loss": None}
            del metrics["momentum"]
        else:
            metrics["teacher_distance"] = float(self.teacher.distance(self.engine.model))
        if self.engine.skipped:
            metrics["skipped_steps"] = self.engine.skipped
        bad = ranks.united(ledger.bad_files)
        return metrics | {"epoch": self.done / self.steps_per_epoch, "bad_files": int(bad.sum())}

    def _picture(self, tracker: Tracker, fixed: Batch, hard_share: float) -> None:
        """The same clips every time, so that one can watch them being learnt."""
        config = self.config
        statistics = {"mean": config.data.mean, "std": config.data.std}
        clips = normalise(fixed.clips.to(self.engine.device), **statistics)
        with self.engine.looking() as model, self.engine.autocast():
            mask = choose_mask(self.teacher, clips, fixed.priority, config, hard_share)
            seen = visualize.inspect(
                model, clips, mask, self.teacher, **statistics, hard_share=hard_share
            )
        if self.engine.rank > 0:  # it was needed only where the weights are divided
            return
        drawn = seen.first(DRAWN_CLIPS)
        tracker.picture(self.done, "reconstruction", visualize.training_picture(drawn))
        film = visualize.training_film(drawn)
        tracker.film(self.done, "loss_map", visualize.gif_bytes(film), film.shape[1:3])
        folder = self.folder / "diagnostics"
        folder.mkdir(exist_ok=True)
        text = json.dumps(visualize.diagnostics(seen))
        (folder / f"step_{self.done:08d}.json").write_text(text + "\n")

    def _count_bad(self, ledger: BadFileLedger, batches: list[Batch]) -> None:
        """Name new unreadable files in bad_files.jsonl; UserError where they are too many."""
        for batch in batches:
            for bad in ledger.update(batch):
                line = json.dumps({"path": bad.path, "reason": bad.reason}) + "\n"
                with (self.folder / "bad_files.jsonl").open("a") as file:
                    file.write(line)

    def _write_settings(self) -> None:
        text = yaml.safe_dump(as_plain(self.config), sort_keys=False)
        (self.folder / "config.yaml").write_text(text)
        describe_machine(self.folder / "environment.json")


class RecentLosses:
    """Losses not looked at yet, with the samples behind them.

    They are read only when something is logged or saved, so that steps do not wait for the device.
    """

    def __init__(self, manifest):
        self.manifest = manifest
        self.kept: list[tuple[int, Tensor, list[Batch]]] = []

    def add(self, step: int, loss: Tensor, batches: list[Batch]) -> None:
        """Remember the loss of a step and its batches."""
        self.kept.append((step, loss, [batch.index for batch in batches]))

    def check(self) -> None:
        """RunError on every rank, naming the step and its samples, where a loss is not finite."""
        failures = [self._failure(*kept) for kept in self.kept if not torch.isfinite(kept[1])]
        ranks.agree(failures[0] if failures else None)
        self.kept.clear()

    def _failure(self, step: int, loss: Tensor, indices: list[Tensor]) -> RunError:
        names = [self.manifest[int(i)].path for index in indices for i in index]
        return RunError(
            f"step {step}: the loss is {float(loss)}; stopped, earlier checkpoints are "
            f"kept. Samples of this step: {', '.join(dict.fromkeys(names))}"
        )


def pretrain(config: PretrainConfig) -> Path:
    """Train as ``config`` says and return the run folder; a run that was stopped goes on."""
    with processes(config.engine, config.optim.batch):
        training = Pretraining(config)
        if training.done < training.steps:
            training.run()
            said = f"{training.steps} steps done"
        else:
            said = (
                f"all {training.steps} steps are done; for more give a larger --run.steps, to "
                "start anew another --run.dir"
            )
        if training.engine.rank == 0:
            print(f"{training.folder}: {said}")
    return training.folder
