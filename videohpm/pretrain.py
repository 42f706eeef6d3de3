"""Pre-training: the step, readable as the algorithm, and what surrounds it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from videohpm import checkpoint, evaluate, hpm, training, visualize
from videohpm.config import PretrainConfig
from videohpm.data import Batch, batches_ahead, make_dataset, normalise
from videohpm.engine import TorchEngine, collectives, distributed, process_group, seed_step
from videohpm.errors import UserError
from videohpm.hpm import LossTeacher, Scorer, Target
from videohpm.interop.frozen import encoders_of
from videohpm.interop.start import StartReport, start_from
from videohpm.models import MaskedAutoencoder
from videohpm.plan.count import probe_period
from videohpm.plan.fit import fit_pretraining
from videohpm.report.verdict import kept_rows, logged_rows, verdict
from videohpm.tracking import Tracker
from videohpm.training import TrainingRun

FIXED_CLIPS, DRAWN_CLIPS = 8, 2
STARTED = "init.txt"
"""In the run folder: what became of every tensor of ``model.init``."""


def train_step(
    engine: TorchEngine,
    scorer: Scorer | None,
    target: Target,
    batches: Iterable[Batch],
    config: PretrainConfig,
    *,
    hard_ratio: float,
    momentum: float,
    lr: float,
    mining: hpm.MiningStatistics | None = None,
) -> dict[str, Tensor]:
    """One optimiser step of Hard Patches Mining; at ``hard_ratio`` 0, and without a predictor, of
    VideoMAE.

    Args:
        scorer: how hard each tube is; None for random masks.
        target: what the decoder is to predict.
        batches: the micro-batches of the step.
        hard_ratio: α, the share of masked units that the scorer chooses.
        momentum: of the teacher's moving average.
        mining: adds up what masks and losses say about mining.

    Returns:
        Scalars, left on the device: reading them waits for it.
    """
    grid = config.model.grid()
    metrics = []
    for batch in batches:
        clips = batch.clips.to(engine.device, non_blocking=True)
        clips = normalise(clips, config.data.mean, config.data.std)
        with engine.autocast():
            mask = hpm.draw_mask(scorer, clips, batch.shuffle_ids, grid, config.mask, hard_ratio)
            out = engine(clips, mask)
            targets = target(clips, mask)
        losses = hpm.TOKEN_LOSSES[config.model.target_loss](out.pixels, targets)
        loss = hpm.mean_loss(losses, mask)
        metrics.append({"loss": losses.detach().mean()})
        hardness = target.hardness(losses.detach(), out.pixels.detach(), targets, clips, mask)
        del targets  # as large as the prediction, and the backward pass does not need it
        unit_hardness = hardness if mask.tubes is None else hpm.loss_per_tube(hardness, mask)
        if mining is not None:
            mining.update(mask, unit_hardness, batch.index)
        if mask.scores is not None:
            asked = mask.scores.gather(1, mask.decoded if mask.tubes is None else mask.tubes)
            metrics[-1]["teacher_rank_correlation"] = hpm.rank_correlation(asked, unit_hardness)
        if out.scores is not None:
            if out.scores.shape == unit_hardness.shape:  # else the predictor scores tokens
                hardness = unit_hardness
            predictor_loss = hpm.OBJECTIVES[config.hpm.objective](out.scores, hardness)
            loss = loss + config.hpm.weight * predictor_loss
            metrics[-1]["predictor_loss"] = predictor_loss.detach()
            metrics[-1]["rank_correlation"] = hpm.rank_correlation(out.scores, hardness)
        engine.backward(loss)
    norm = engine.step(lr)
    if scorer is not None and engine.step_applied:
        scorer.after_step(engine.model, momentum)
    means = {name: torch.stack([part[name] for part in metrics]).mean() for name in metrics[0]}
    return means if norm is None else means | {"gradient_norm": norm}


def schedule(
    config: PretrainConfig, step: int, steps: int, steps_per_epoch: float
) -> dict[str, float]:
    """Hard share, teacher momentum and learning rate of optimiser step ``step`` (from 0)."""
    mining = config.hpm
    start, end, ramp = mining.momentum_ramp(steps, steps_per_epoch)
    return {
        "hard_ratio": hpm.configured_hard_ratio(mining, step / steps),
        "momentum": hpm.teacher_momentum(step / ramp if ramp else 1.0, start, end),
        "lr": config.optim.lr_at(step, steps, steps_per_epoch),
    }


def load_init(model: MaskedAutoencoder, config: PretrainConfig) -> StartReport | None:
    """Load ``model.init``; None without one, and where the run goes on from a checkpoint."""
    run, init, data = config.run, config.model.init, config.data
    if init is None or checkpoint.going_on_from(Path(run.dir), run.resume) is not None:
        return None
    pixels = {"mean": data.mean, "std": data.std}
    return start_from(model, init, config.model.init_parts, pixels)


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
        self.target = hpm.TARGETS[config.model.target](
            grid, config, encoders_of(lambda: self.teacher)
        )
        seed_step(config.run.seed, 0)
        architecture = config.model_config(self.target.dim)
        self.model = MaskedAutoencoder(architecture, config.engine.checkpoint_activations)
        self.started = load_init(self.model, config)
        self.scorer = hpm.SCORERS[config.scorer](self.model, config)
        self.teacher = self.scorer if isinstance(self.scorer, LossTeacher) else None
        if config.hpm.center_scores and self.scorer is not None:
            self.scorer = hpm.CenteredScorer(
                self.scorer, config.hpm.center_momentum, collectives.all_reduce_device
            )
        self.evaluate_every = config.run.picture_every
        self.units = hpm.unit_count(grid, config.mask.unit)
        self.labelled = evaluate.labelled_manifest(config)
        self.probe: evaluate.OnlineProbe | None = None
        self.sampling = None
        if (sampling := hpm.CLIP_SAMPLINGS.get(config.mask.use)) is not None:
            batch = check_read_ahead(config, len(data))
            self.sampling = sampling(len(data), batch, self._share, collectives.all_gather)
        ema_modules: dict[str, nn.Module] = {"teacher": self.teacher} if self.teacher else {}
        super().__init__(config, data, self.model, ema_modules)
        center = self.restored.get("score_center")
        sizes = grid.num_tubes, grid.num_tokens  # else it is of a grid of another size
        if isinstance(self.scorer, hpm.CenteredScorer) and center and len(center) in sizes:
            self.scorer.center = torch.tensor(center)
        if self.sampling is not None:
            self.sampling.start(self.done)
        self.mining = hpm.MiningStatistics(
            self.units, device=self.engine.device, clips=self.sampling
        )
        for part in (self.scorer, self.target):
            if isinstance(part, nn.Module) and part is not self.teacher:
                part.to(self.engine.device)

    def run(self) -> None:
        """Train until the last step; the pictures show the same clips every time."""
        keys = [(0, i % len(self.data)) for i in range(FIXED_CLIPS)]
        self.fixed = training.read_once(self.data, keys, self.config.data.readers)
        self.probe = self._make_probe()
        self.rows = kept_rows(logged_rows(self.folder, self.done))
        if self.started is not None and self.engine.rank == 0:
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / STARTED).write_text(f"{self.started}\n")
            print(self.started, flush=True)
        super().run()

    def _make_probe(self) -> evaluate.OnlineProbe | None:
        """What looks at the run while it trains: at clips from all of the data set."""
        config, samples = self.config, len(self.data)
        self.probe_every = probe_period(config)
        if not self.probe_every:
            return None
        rows = evaluate.Rows(min(config.probe.clips, samples))
        keys = [(0, int(row) * samples // rows.count) for row in rows.padded]
        found = training.read_once(self.data, keys, config.data.readers)
        one_each = slice(None, None, config.data.repeats)
        clips, shuffle_ids = found.clips[one_each], found.shuffle_ids[one_each]
        labelled = None
        if self.labelled is not None:
            labelled = evaluate.read_labelled(self.labelled, config)
        sketch = self.restored.get("probe_sketch")
        return evaluate.OnlineProbe(config, clips, shuffle_ids, rows, self.target, labelled, sketch)

    def train(self, batches: Iterable[Batch], step: int) -> dict[str, Tensor]:
        """See :func:`train_step`."""
        method = self.engine, self.scorer, self.target
        schedule = self.schedule(step)
        metrics = train_step(*method, batches, self.config, **schedule, mining=self.mining)
        if self.sampling is not None:
            self.sampling.end_step(self.done + 1)
        return metrics

    def _share(self, step: float) -> float:
        return hpm.configured_hard_ratio(self.config.hpm, step / self.steps)

    def order_weights(self, epoch: int) -> np.ndarray | None:
        """See :class:`videohpm.hpm.ClipSampling`."""
        return None if self.sampling is None else self.sampling.weights(epoch)

    def save(self) -> None:
        """Write a checkpoint; also of how hard each clip has been, where that matters."""
        if self.sampling is not None:
            self.sampling.add_up()
        super().save()

    def _averages(self) -> dict[str, nn.Module]:
        sampling = {} if self.sampling is None else {"clip_hardness": self.sampling}
        return super()._averages() | sampling

    def schedule(self, step: int) -> dict[str, float]:
        """:func:`schedule` at step ``step`` (from 0) of this run."""
        return schedule(self.config, step, self.steps, self.steps_per_epoch)

    def step_metrics(self, step: int) -> dict[str, float | None]:
        """The schedules, whether the teacher mines, and how far it is from the student."""
        metrics: dict[str, float | None] = dict(self.schedule(step))
        metrics |= hpm.mining_metrics(collectives.all_reduce_tensor(self.mining.sums().cpu()))
        self.mining.reset()
        if self.scorer is None and self.sampling is None:
            metrics["hard_ratio"] = 0.0
        if not self.config.hpm.enabled:
            metrics["predictor_loss"] = None
        if self.teacher is None:
            del metrics["momentum"]
        else:
            metrics["teacher_distance"] = float(self.teacher.distance(self.model))
        if self.probe is not None and self._due(self.probe_every):
            with self.watch.paused():
                metrics |= self.probe.measure(self.engine, self.model)
        return metrics

    def logged(self, tracker: Tracker, row: dict[str, float | None]) -> None:
        """Say whether the run learns, where it was just looked at."""
        self.rows = kept_rows([*self.rows, row])
        if row.get("mean_colour_loss") is not None:
            tracker.message(f"step {self.done}: {verdict(self.rows)}")

    def state(self) -> dict:
        """Also the running mean of scores, where they are centered: exact as decimal numbers."""
        state = super().state()
        if isinstance(self.scorer, hpm.CenteredScorer) and self.scorer.center is not None:
            state["score_center"] = self.scorer.center.tolist()
        if self.probe is not None:
            state["probe_sketch"] = self.probe.sketch
        return state

    def description(self) -> dict:
        """How the teacher is made, for whoever loads it."""
        return {} if self.teacher is None else {"teacher": self.teacher.config}

    def evaluate(self, tracker: Tracker, step: int) -> None:
        """Draw what the model makes of the fixed clips, and measure it."""
        config, hard_ratio = self.config, self.schedule(step)["hard_ratio"]
        grid, mean, std = config.model.grid(), config.data.mean, config.data.std
        clips, shuffle_ids = self.fixed.clips.to(self.engine.device), self.fixed.shuffle_ids
        clips = normalise(clips, mean, std)
        scorer, target = self.scorer, self.target
        if isinstance(scorer, nn.Module):
            scorer.eval()
        with self.engine.eval_mode(), self.engine.autocast():
            mask = hpm.draw_mask(
                scorer, clips, shuffle_ids, grid, config.mask, hard_ratio, decode_all=True
            )
            inspection = visualize.inspect(
                self.model, clips, mask, scorer, target, shuffle_ids,
                mean=mean, std=std, hard_ratio=hard_ratio, loss=config.model.target_loss,
            )  # fmt: skip
        if isinstance(scorer, nn.Module):
            scorer.train()
        if self.engine.rank > 0:  # it was needed only where the weights are divided
            return
        with distributed.working():
            self._draw(inspection, tracker)

    def _draw(self, inspection: visualize.Inspection, tracker: Tracker) -> None:
        drawn = inspection.first(DRAWN_CLIPS)
        tracker.image(self.done, "reconstruction", visualize.training_picture(drawn))
        label = visualize.run_label(self.folder, self.config, drawn)
        tracker.image(self.done, "hidden", visualize.hidden_picture(drawn, label))
        animation = visualize.training_animation(drawn)
        size = animation.shape[1], animation.shape[2]
        tracker.animation(self.done, "loss_map", visualize.gif_bytes(animation), size)
        folder = self.folder / "diagnostics"
        folder.mkdir(exist_ok=True)
        text = json.dumps(visualize.diagnostics(inspection))
        (folder / f"step_{self.done:08d}.json").write_text(text + "\n")


def check_read_ahead(config: PretrainConfig, samples: int) -> int:
    """Samples of a global batch; UserError where an epoch is shorter than what is read ahead."""
    batch, accumulation = config.optim.global_batch_size, config.engine.accumulation
    micro_batch = batch // (distributed.world_size() * accumulation)
    ahead = batches_ahead(micro_batch, config.data.readers, config.data.prefetch)
    steps = 2 + -(-ahead // accumulation)
    if samples < steps * batch:
        raise UserError(
            f"mask.use: sample needs {steps * batch} samples or more, because the order of an "
            f"epoch is decided {steps} steps before, and here are {samples}; give fewer "
            "data.workers, or a smaller data.prefetch or optim.global_batch_size"
        )
    return batch


def pretrain(config: PretrainConfig) -> Path:
    """Train as ``config`` says and return the run folder; a run that was stopped goes on."""
    with process_group(config.engine, config.optim.global_batch_size):
        run = Pretraining(fit_pretraining(config))
        if run.done < run.steps:
            run.run()
            outcome = f"{run.steps} steps done"
        else:
            outcome = training.nothing_to_do(run.steps)
        if run.engine.rank == 0:
            print(f"{run.folder}: {outcome}")
    return run.folder
