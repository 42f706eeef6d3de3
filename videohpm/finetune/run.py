"""Fine-tuning: the step, validation, the best weights, and the test at the end."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor, nn

from videohpm import checkpoint, evaluate, training
from videohpm.checkpoint import BEST
from videohpm.config import FinetuneConfig
from videohpm.config.dataset_info import read_dataset_info
from videohpm.config.tasks import LOWER_IS_BETTER, best_by
from videohpm.data import Batch, Manifest, find_samples, normalise
from videohpm.engine import TorchEngine, distributed, process_group, seed_step
from videohpm.errors import UserError
from videohpm.finetune.augment import check_policy
from videohpm.finetune.average import WeightAverage
from videohpm.finetune.best import best_is_lost, replace_best
from videohpm.finetune.clips import final_protocol, training_clips, validation_samples
from videohpm.finetune.labels import check_flip
from videohpm.finetune.start import start_classifier, warn_of_pixels
from videohpm.finetune.task import TASKS, Task
from videohpm.plan.fit import fit_finetuning
from videohpm.tracking import Tracker
from videohpm.training import TrainingRun

ONE_VIEW = {"clips": 1, "crops": 1}


def train_step(
    engine: TorchEngine,
    task: Task,
    batches: Iterable[Batch],
    config: FinetuneConfig,
    *,
    step: int,
    lr: float,
) -> dict[str, Tensor]:
    """One optimiser step: mix the clips, run the model, compare its outputs with the targets.

    Args:
        task: what the targets are, and how the outputs are compared with them.
        batches: the micro-batches of the step.
        step: its number, from which the mixing is drawn.

    Returns:
        Scalars, left on the device: reading them waits for it.
    """
    metrics = []
    for batch in batches:
        batch = batch.to(engine.device)
        clips = normalise(batch.clips, config.data.mean, config.data.std)
        clips, targets = task.targets(clips, batch, step)
        with engine.autocast():
            outputs = engine(clips)
        loss = task.loss(outputs.float(), targets)
        engine.backward(loss)
        metrics.append({"loss": loss.detach()} | task.step_metrics(outputs, targets))
    norm = engine.step(lr)
    means = {name: torch.stack([part[name] for part in metrics]).mean() for name in metrics[0]}
    return means if norm is None else means | {"gradient_norm": norm}


class Finetuning(TrainingRun):
    """Fine-tuning as ``config`` says; see :class:`videohpm.training.TrainingRun`."""

    config: FinetuneConfig

    def __init__(self, config: FinetuneConfig):
        info = read_dataset_info(config.dataset) if config.dataset else None
        check_flip(config.data.flip, info)
        manifest = find_samples(
            config.data.root,
            config.data.manifest,
            labels=True,
            kind=config.data.kind,
            classes=info.classes if info else None,
            task=config.task,
        )
        self.task: Task = TASKS[config.task](config, manifest, info)
        self.best_by = best_by(config.task, config.validation.best_by)
        self.validation = validation_samples(config, self.task.names)
        if self.validation is not None:
            self.task.check(self.validation)
        warn_of_pixels(config)
        seed_step(config.run.seed, 0)
        recompute = config.engine.checkpoint_activations
        self.model = start_classifier(config.model, self.task.outputs, recompute)
        data = training_clips(config, manifest, self.model.grid)
        self.protocol = final_protocol(config, info, self.model.grid)
        config = fit_finetuning(config, self.model)
        config.check_batch(distributed.world_size())
        self.average = WeightAverage(self.model, config.ema) if config.ema else None
        ema_modules: dict[str, nn.Module] = (
            {} if self.average is None else {"average": self.average}
        )
        super().__init__(config, data, self.model, ema_modules)
        if self.validation is not None:
            self.evaluate_every = config.validation.period(self.steps_per_epoch)
        self.best: dict = self.restored.get("best", {})
        if self.best and best_is_lost(self.folder):
            self.best = {}
        self.processes = evaluate.init_eval_processes(
            self.engine.device, self.config.engine.timeout
        )

    def train(self, batches: Iterable[Batch], step: int) -> dict[str, Tensor]:
        """See :func:`train_step`; then the average follows."""
        metrics = train_step(
            self.engine, self.task, batches, self.config, step=self.done, lr=self._lr(step)
        )
        if self.average is not None and self.engine.step_applied:
            self.average.update(self.model, step)
        return metrics

    def step_metrics(self, step: int) -> dict[str, float | None]:
        """The learning rate."""
        return {"lr": self._lr(step)}

    def _lr(self, step: int) -> float:
        return self.config.optim.lr_at(step, self.steps, self.steps_per_epoch)

    def evaluate(self, tracker: Tracker, step: int) -> None:
        """Validate."""
        tracker.log(self.done, self.validate())

    def validate(self) -> dict[str, float]:
        """Score the validation set with one view a video; keep the weights if they are the best."""
        assert self.validation is not None, "there is nothing to validate on"
        # Ranks have unlike numbers of videos, so each needs the model for itself.
        model = self.engine.unsharded_copy(self._tested_model())
        one_view = self.protocol.changed(None, ONE_VIEW)
        metrics = self._score(model, self.validation, one_view).metrics()
        value = metrics[self.best_by]
        sign = -1 if self.best_by in LOWER_IS_BETTER else 1
        before = self.best.get("value")
        if value is not None and (before is None or sign * value > sign * before):
            self.best = {"step": self.done, "value": value, "by": self.best_by}
            self._keep_best(metrics)
        return self.task.validation_metrics(metrics)

    def test(self) -> dict:
        """Test on all views of each validation video, and write the result."""
        assert self.validation is not None, "there is nothing to test on"
        which, best_step = self.config.test_weights, self.best.get("step")
        if which == "best" and not self.best:
            raise UserError(
                f"test_weights: best, but {self.folder} has none: they are lost, or no validation "
                f"could measure validation.best_by {self.best_by}; give --test_weights last"
            )
        if which == "best":
            model = checkpoint.load_model(self.folder / BEST).to(self.engine.device)
            folder = self.folder / BEST
            tested = f"the best weights in validation (step {best_step}), chosen on these samples"
        else:
            model = self.engine.unsharded_copy(self._tested_model())
            folder, tested = self.folder, f"the last weights (step {self.done})"
        scores = self._score(model, self.validation, self.protocol, "test")
        source = self.config.validation.manifest or self.config.validation.root
        metadata = {"model": str(folder), "data": source, "test_weights": which}
        metadata |= {"best_step": best_step, "steps": self.steps}
        if self.processes.is_main:
            results = self.folder, scores, self.validation, self.protocol, metadata
            with distributed.working():
                summary = self.task.write_results(*results)
            print(f"{summary}; tested: {tested}")
        return scores.metrics() | {"views": self.protocol.views}

    def save(self) -> None:
        """Write a checkpoint of the steps done so far."""
        if self.validation is None:
            self._keep_best({})
        super().save()

    def description(self) -> dict:
        """Class names, and how clips are cut and normalised."""
        return evaluate.classifier_metadata(self.protocol, self.task.names, self.task.meaning)

    def state(self) -> dict:
        """Also which weights have been the best."""
        return super().state() | {"best": self.best}

    def _tested_model(self) -> nn.Module:
        return self.model if self.average is None else self.average.model

    def _score(
        self,
        model: nn.Module,
        samples: Manifest,
        protocol: evaluate.EvalProtocol,
        progress: str | None = None,
    ):
        training = model.training
        scores = self.task.score(
            model.eval(),
            samples,
            protocol,
            processes=self.processes,
            device=self.engine.device,
            batch=self.config.test.batch,
            workers=self.config.data.readers,
            decode_timeout=self.config.data.decode_timeout,
            bf16=self.engine.precision == "bf16",
            progress=progress,
        )
        model.train(training)
        return scores

    def _keep_best(self, metrics: dict) -> None:
        metadata = evaluate.classifier_metadata(
            self.protocol, self.task.names, self.task.meaning
        ) | {
            "step": self.done,
            "metrics": {name: value for name, value in metrics.items() if value is not None},
        }
        with distributed.working():
            replace_best(self.folder, self.engine, self._tested_model(), metadata)


def finetune(config: FinetuneConfig) -> Path:
    """Fine-tune as ``config`` says and return the run folder; a run that was stopped goes on."""
    check_policy(config.augment.rand_augment)
    with process_group(config.engine, config.optim.global_batch_size):
        run = Finetuning(config)
        if run.done < run.steps:
            run.run()
            outcome = f"{run.steps} steps done, the best weights are in {BEST}/"
        else:
            outcome = training.nothing_to_do(run.steps)
        if run.validation is not None:
            run.test()
        if run.engine.rank == 0:
            print(f"{run.folder}: {outcome}")
    return run.folder
