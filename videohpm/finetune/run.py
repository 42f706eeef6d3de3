"""Fine-tuning: the loop, validation, the best weights, and the test at the end."""

from __future__ import annotations

import itertools
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from videohpm import checkpoint, evaluate, training
from videohpm.config import FinetuneConfig
from videohpm.data import BadFileTracker, Batch, find_samples, normalise
from videohpm.data.dataset_info import read_dataset_info
from videohpm.engine import (
    StopRequest,
    TorchEngine,
    distributed,
    make_engine,
    process_group,
    seed_step,
)
from videohpm.finetune.augment import check_policy, mix
from videohpm.finetune.average import WeightAverage
from videohpm.finetune.best import replace_best
from videohpm.finetune.clips import final_protocol, training_clips, validation_samples
from videohpm.finetune.labels import check_flip, class_weights, count_classes
from videohpm.finetune.start import start_classifier
from videohpm.tracking import Stopwatch, Tracker

ONE_VIEW = {"clips": 1, "crops": 1}


def train_step(
    engine: TorchEngine,
    batches: list[Batch],
    config: FinetuneConfig,
    *,
    classes: int,
    weights: Tensor | None,
    step: int,
    lr: float,
) -> dict[str, Tensor]:
    """One optimiser step: mix the clips, classify them, compare with the mixed labels.

    Args:
        batches: the micro-batches of the step.
        weights: (classes,), how much each class counts; None for all alike.
        step: its number, from which the mixing is drawn.

    Returns:
        Scalars, left on the device: reading them waits for it.
    """
    said = []
    for batch in batches:
        batch = batch.to(engine.device)
        clips, targets = mix(
            normalise(batch.clips, config.data.mean, config.data.std),
            batch.labels,
            config.augment,
            classes=classes,
            smoothing=config.loss.label_smoothing,
            repeats=config.data.repeats,
            seed=config.run.seed,
            step=step,
        )
        with engine.autocast():
            logits = engine(clips)
        loss = F.cross_entropy(logits.float(), targets, weight=weights)
        engine.backward(loss)
        hits = logits.argmax(1) == targets.argmax(1)
        said.append({"loss": loss.detach(), "train_top1": 100 * hits.float().mean()})
    norm = engine.step(lr)
    means = {name: torch.stack([part[name] for part in said]).mean() for name in said[0]}
    return means if norm is None else means | {"gradient_norm": norm}


class Finetuning:
    """One run: its data, its model, and where it writes.

    Raises UserError for what the user can mend, before anything is written, and RunError where the
    loss is no longer finite.
    """

    def __init__(self, config: FinetuneConfig):
        self.config, self.folder = config, Path(config.run.dir)
        facts = read_dataset_info(config.dataset) if config.dataset else None
        check_flip(config.data.flip, facts)
        manifest = find_samples(
            config.data.root,
            config.data.manifest,
            labels=True,
            kind=config.data.kind,
            classes=facts.classes if facts else None,
        )
        self.labels = manifest.classes
        self.classes = count_classes(manifest.labels, facts, self.labels)
        self.validation = validation_samples(config, self.classes, self.labels)
        seed_step(config.run.seed, 0)
        model = start_classifier(config.model, self.classes, config.engine.checkpoint_activations)
        self.data = training_clips(config, manifest, model.grid)
        self.protocol = final_protocol(config, facts, model.grid)
        self.steps_per_epoch = len(self.data) / config.optim.global_batch_size
        self.steps = config.run.total_steps(self.steps_per_epoch)
        config.check_batch(distributed.world_size())
        self.average = WeightAverage(model, config.ema) if config.ema else None
        saved = training.restore(config.run, len(self.data), model, self._ema_modules())
        self.engine = make_engine(model, config.engine, config.optim)
        if self.average is not None:
            self.engine.attach_ema(self.average.model)
        if saved is not None:
            checkpoint.restore_moments(saved, self.engine)
        self.done = 0 if saved is None else saved.step
        self.best: dict = {} if saved is None else saved.state["best"]
        weights = class_weights(config.loss.class_weights, manifest.labels, self.classes)
        self.weights = None if weights is None else weights.to(self.engine.device)
        self.processes = evaluate.init_eval_processes(self.engine.device)

    def run(self) -> None:
        """Train until the last step, validating on the way."""
        config, engine = self.config, self.engine
        self.folder.mkdir(parents=True, exist_ok=True)
        if engine.rank == 0:
            training.write_settings(config)
        loader = training.training_batches(self.data, config, engine, self.done, self.steps)
        ledger = BadFileTracker(len(self.data), config.data.max_bad_fraction)
        recent = training.RecentLosses(self.data.manifest)
        tracker = Tracker(
            self.folder, total_steps=self.steps, start_step=self.done, enabled=engine.rank == 0
        )
        watch = Stopwatch(config.optim.global_batch_size * config.data.repeats)
        with tracker, StopRequest() as request:
            batches = iter(loader)
            for step in range(self.done, self.steps):
                with watch.waiting():
                    micro = list(itertools.islice(batches, config.engine.grad_accum_steps))
                training.name_bad_files(self.folder, ledger, micro)
                seed_step(config.run.seed, step + 1, engine.rank)
                lr = config.optim.lr_at(step - engine.skipped, self.steps, self.steps_per_epoch)
                said = train_step(
                    engine, micro, config,
                    classes=self.classes, weights=self.weights, step=step, lr=lr,
                )  # fmt: skip
                if self.average is not None and engine.step_applied:
                    self.average.update(engine.model, step - engine.skipped)
                recent.add(step + 1, said["loss"], micro)
                self.done = step + 1
                tracker.advance(self.done)
                if self._due(config.run.log_every):
                    recent.check()
                    said |= watch.lap()
                    faults = training.reading_faults(ledger, loader)
                    tracker.log(self.done, self._metrics(said, lr) | faults)
                if self.validation and self._due(config.validation.period(self.steps_per_epoch)):
                    recent.check()
                    tracker.log(self.done, self.validate())
                    watch.lap()
                stopped = request.agreed() and self.done < self.steps
                if stopped or self._due(config.run.save_every):
                    recent.check()
                    self.save()
                if stopped:
                    raise training.asked_to_stop(self.folder, self.done, self.steps)

    def validate(self) -> dict[str, float]:
        """Score the validation set with one view a video; keep the weights if they are the best."""
        model = self.engine.unsharded_copy(
            self._tested_model()
        )  # ranks have unlike numbers of videos
        scores = self._score(model, self.protocol.changed(None, ONE_VIEW))
        metrics = scores.metrics()
        value = metrics[self.config.validation.best_by]
        if value is not None and value > self.best.get("value", -1.0):
            self.best = {"step": self.done, "value": value, "by": self.config.validation.best_by}
            self._keep_best(metrics)
        names = ("top1", "top5", "mean_class", "scored")
        return {f"validation_{name}": metrics[name] for name in names if metrics[name] is not None}

    def test(self) -> dict:
        """Test the best weights on all views of each validation video, and write the result."""
        best = checkpoint.load_model(self.folder / evaluate.BEST).to(self.engine.device)
        scores = self._score(best, self.protocol, "test")
        source = self.config.validation.manifest or self.config.validation.root
        about = {"model": str(self.folder / evaluate.BEST), "data": source}
        about |= {"best_step": self.best.get("step"), "steps": self.steps}
        summary = scores.metrics() | {"views": self.protocol.views}
        if self.processes.is_main:
            summary = evaluate.write_results(
                self.folder, scores, self.validation, self.protocol, self.labels, about
            )
            print(evaluate.sentence(summary, scores.errors, self.validation))
        return summary

    def save(self) -> None:
        """Write a checkpoint of the steps done so far."""
        if not self.validation:
            self._keep_best({})
        about = {"steps": self.steps, "samples": len(self.data), "best": self.best}
        training.save(self.config, self.done, self.engine, self._ema_modules(), about)

    def _ema_modules(self) -> dict[str, torch.nn.Module]:
        return {} if self.average is None else {"average": self.average.model}

    def _tested_model(self) -> torch.nn.Module:
        return self.engine.model if self.average is None else self.average.model

    def _score(
        self, model: torch.nn.Module, protocol: evaluate.EvalProtocol, progress: str | None = None
    ) -> evaluate.Scores:
        training = model.training
        scores = evaluate.score(
            model.eval(),
            self.classes,
            self.validation,
            protocol,
            processes=self.processes,
            device=self.engine.device,
            batch=self.config.test.batch,
            workers=self.config.data.workers,
            decode_timeout=self.config.data.decode_timeout,
            bf16=self.engine.precision == "bf16",
            progress=progress,
        )
        model.train(training)
        return scores

    def _keep_best(self, metrics: dict) -> None:
        about = evaluate.classifier_metadata(self.protocol, self.labels) | {
            "step": self.done,
            "metrics": {name: value for name, value in metrics.items() if value is not None},
        }
        replace_best(self.folder, self.engine, self._tested_model(), about)

    def _due(self, every: int) -> bool:
        return self.done == self.steps or (every > 0 and self.done % every == 0)

    def _metrics(self, said: dict, lr: float) -> dict[str, float]:
        """Means over all ranks."""
        metrics = distributed.all_reduce_mean(said) | {
            "lr": lr,
            "epoch": self.done / self.steps_per_epoch,
        }
        if self.engine.skipped:
            metrics["skipped_steps"] = self.engine.skipped
        return metrics


def finetune(config: FinetuneConfig) -> Path:
    """Fine-tune as ``config`` says and return the run folder; a run that was stopped goes on."""
    check_policy(config.augment.rand_augment)
    with process_group(config.engine, config.optim.global_batch_size):
        tuning = Finetuning(config)
        if tuning.done < tuning.steps:
            tuning.run()
            said = f"{tuning.steps} steps done, the best weights are in {evaluate.BEST}/"
        else:
            said = training.nothing_to_do(tuning.steps)
        if tuning.validation:
            tuning.test()
        if tuning.engine.rank == 0:
            print(f"{tuning.folder}: {said}")
    return tuning.folder
