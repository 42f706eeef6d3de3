"""Length, seed, logging and checkpoints of a run."""

from __future__ import annotations

import math
from dataclasses import dataclass

from videohpm.config.checks import Section, choice, text_path
from videohpm.errors import ConfigError

DEFAULT_STEPS = 1000
LOGGERS = ("tensorboard", "wandb", "trackio", "mlflow")


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Length, seed, logging and checkpoints of a run.

    Args:
        dir: the run folder, for checkpoints, metrics and pictures.
        steps: length in optimiser steps; give this or epochs (neither: 1000 steps).
        epochs: length in passes over the data set; parts of one are allowed.
        seed: everything random comes from it.
        log_every: steps between two lines of metrics.
        picture_every: steps between two pictures; 0 for one at the end only.
        save_every: steps between two checkpoints; 0 for one at the end only.
        keep: how many checkpoints to keep; older ones are removed, but none that was renamed or
            holds files of your own.
        resume: auto (continue from the newest checkpoint in the run folder, if any), never, or the
            path of a checkpoint to start from (the same command again continues the run).
        loggers: which of tensorboard, wandb, trackio and mlflow get curves and pictures, beside
            metrics.jsonl and pictures/ of the run folder. wandb and mlflow keep what they get in
            the run folder, unless WANDB_API_KEY (or a login) or MLFLOW_TRACKING_URI says where to
            send it. One that fails costs a warning, and never the run.
        project: what wandb, trackio and mlflow put the run under.
    """

    dir: str = "runs/pretrain"
    steps: int | None = None
    epochs: float | None = None
    seed: int = 0
    log_every: int = 50
    picture_every: int = 1000
    save_every: int = 1000
    keep: int = 2
    resume: str = "auto"
    loggers: tuple[str, ...] = ("tensorboard",)
    project: str = "videohpm"

    def __post_init__(self):
        check = Section(self, "run")
        if not self.dir:
            raise ConfigError("run.dir: empty; name a folder")
        text_path("run.dir", self.dir)
        if self.steps is not None and self.epochs is not None:
            raise ConfigError(
                f"run.steps: {self.steps}, but run.epochs is {self.epochs:g}; "
                "set one of the two to null"
            )
        check.at_least(1, "steps", "log_every", "keep")
        check.above_zero("epochs")
        check.at_least(0, "seed", "picture_every", "save_every")
        for name in self.loggers:
            choice("run.loggers", name, LOGGERS)
        if not self.project:
            raise ConfigError("run.project: empty; give a name, such as videohpm")
        if not self.resume:
            raise ConfigError("run.resume: empty; give auto, never or the path of a checkpoint")

    def total_steps(self, steps_per_epoch: float) -> int:
        """Optimiser steps of the run; a begun step of the last epoch counts."""
        if self.epochs is None:
            return self.steps or DEFAULT_STEPS
        # The margin keeps 3 epochs of 10/3 steps, 10.000000000000002, from becoming 11 steps.
        return max(1, math.ceil(self.epochs * steps_per_epoch - 1e-6))
