"""What all training runs do around their loop: start where one ended, read, save, leave word."""

from __future__ import annotations

import json
from pathlib import Path

import torch
import yaml
from torch import Tensor, nn

from videohpm import checkpoint
from videohpm.config import RunConfig, as_plain
from videohpm.data import BadFileTracker, Batch, ClipDataset, GlobalBatchSampler, make_loader
from videohpm.data.loader import Loader
from videohpm.engine import TorchEngine, distributed
from videohpm.errors import Preempted, RunError, UserError
from videohpm.tracking import describe_machine

# A run's config has sections run, data, optim and engine, whatever else it has.


def restore(
    run: RunConfig, samples: int, model: nn.Module, ema_modules: dict[str, nn.Module]
) -> checkpoint.Saved | None:
    """Load the weights of the checkpoint that run.resume means, where there is one.

    Args:
        samples: of the data set; UserError where the checkpoint was trained on another number.
        ema_modules: what is saved beside the model, by name.

    Raises UserError where run.dir cannot be written to, too.
    """
    failure = None
    if distributed.rank() == 0:
        try:
            checkpoint.check_writable(Path(run.dir), "run.dir")
            checkpoint.tidy(Path(run.dir))
        except UserError as error:
            failure = error
    distributed.raise_on_all_ranks(failure)  # and wait until that is done
    folder = checkpoint.to_resume(Path(run.dir), run.resume)
    saved = folder and checkpoint.restore(folder, model, ema_modules)
    distributed.assert_equal_across_ranks("run.dir: steps done", saved.step if saved else 0)
    if saved and saved.state["samples"] != samples:
        raise UserError(
            f"data.root: {samples} samples, but {folder} was trained on "
            f"{saved.state['samples']}; a run goes on only with the data it began with"
        )
    return saved


def training_batches(
    data: ClipDataset, config, engine: TorchEngine, first: int, last: int
) -> Loader:
    """This rank's micro-batches of steps ``first`` (from 0) up to ``last``, not included."""
    sampler = GlobalBatchSampler(
        len(data),
        config.optim.global_batch_size,
        rank=engine.rank,
        world=engine.world,
        grad_accum_steps=config.engine.grad_accum_steps,
        seed=config.run.seed,
        start_step=first,
        steps=last,
    )
    on_gpu = engine.device.type == "cuda"
    return make_loader(data, sampler, workers=config.data.workers, pin_memory=on_gpu)


def save(
    config, step: int, engine: TorchEngine, ema_modules: dict[str, nn.Module], about: dict
) -> None:
    """Write a checkpoint; RunError on every rank where one cannot."""
    failure = None
    about = about | {"config": as_plain(config)}
    try:
        checkpoint.save(Path(config.run.dir), step, engine, ema_modules, about, config.run.keep)
    except RunError as error:
        failure = error
    distributed.raise_on_all_ranks(failure)


def write_settings(config) -> None:
    """config.yaml and environment.json of a run that begins or goes on."""
    folder = Path(config.run.dir)
    text = yaml.safe_dump(as_plain(config), sort_keys=False)
    (folder / "config.yaml").write_text(text)
    describe_machine(folder / "environment.json")


def reading_faults(ledger: BadFileTracker, loader: Loader) -> dict[str, int]:
    """Metrics over all ranks: files found unreadable, and, if any, readers that died."""
    found = {"bad_files": int(distributed.all_reduce_any(ledger.bad_files).sum())}
    deaths = distributed.all_reduce_sum(loader.deaths)
    return found | {"reader_deaths": deaths} if deaths else found


def name_bad_files(folder: Path, ledger: BadFileTracker, batches: list[Batch]) -> None:
    """New unreadable files, in bad_files.jsonl; UserError where they are too many."""
    for batch in batches:
        for bad in ledger.update(batch):
            line = json.dumps({"path": bad.path, "reason": bad.reason}) + "\n"
            with (folder / "bad_files.jsonl").open("a") as file:
                file.write(line)


def asked_to_stop(folder: Path, done: int, steps: int) -> Preempted:
    """What a run ends with that was asked to stop and has saved."""
    return Preempted(
        f"{folder}: asked to stop, saved after step {done} of {steps}; the same command goes on "
        "from there"
    )


def nothing_to_do(steps: int) -> str:
    """What is said where the run was finished before."""
    return (
        f"all {steps} steps are done; for more give a larger --run.steps, to start anew another "
        "--run.dir"
    )


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
        distributed.raise_on_all_ranks(failures[0] if failures else None)
        self.kept.clear()

    def _failure(self, step: int, loss: Tensor, indices: list[Tensor]) -> RunError:
        names = [self.manifest[int(i)].path for index in indices for i in index]
        return RunError(
            f"step {step}: the loss is {float(loss)}; stopped, earlier checkpoints are "
            f"kept. Samples of this step: {', '.join(dict.fromkeys(names))}"
        )
