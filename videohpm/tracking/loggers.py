"""Where the metrics and pictures of a run go: one small class for each place.

To add a logger, write a subclass of :class:`Logger` here and give it a line in :data:`LOGGERS`:
every run has it. Those of :data:`videohpm.config.run.LOGGERS` are there where ``run.loggers`` names
them.
"""

from __future__ import annotations

import json
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import TextIO

import numpy as np

from videohpm.config import RunConfig
from videohpm.config.run import LOGGERS as CHOICES
from videohpm.progress import make_screen
from videohpm.tracking.logger import LoggedRun, Logger, Metrics
from videohpm.tracking.remote import (
    Detached,
    Experiment,
    MLflow,
    trackio_settings,
    wandb_settings,
)

MODULE = "tensorboard."
"""Where the class of TensorBoard's own thread is."""


class JsonLines(Logger):
    """``metrics.jsonl``: one JSON object for each logged step, with all digits.

    Null is what the run does not measure, and a number that is not finite: JSON has no nan.
    """

    def __init__(self, run: LoggedRun):
        file = run.folder / "metrics.jsonl"
        drop_lines_after(file, run.start_step)
        # Line buffered, and a line is written at once: a reader sees complete lines only.
        self.file = file.open("a", encoding="utf-8", buffering=1)

    def log(self, step: int, metrics: Metrics) -> None:
        row: dict[str, float | None] = {"step": step}
        for name, value in metrics.items():
            row[name] = value if value is not None and math.isfinite(value) else None
        self.file.write(json.dumps(row, allow_nan=False) + "\n")

    def close(self) -> None:
        self.file.close()


class Pictures(Logger):
    """``pictures/NAME_STEP.png``."""

    def __init__(self, run: LoggedRun):
        self.folder = run.folder / "pictures"
        self.folder.mkdir(parents=True, exist_ok=True)

    def image(self, step: int, name: str, image: np.ndarray) -> None:
        from PIL import Image

        file = self.folder / f"{name}_{step:07d}.png"
        unfinished = file.with_suffix(".tmp")
        Image.fromarray(image).save(unfinished, format="PNG")
        unfinished.replace(file)


class TensorBoard(Logger):
    """``tensorboard/``: curves, pictures and animations."""

    failed: OSError | None = None
    """What the thread that writes ended with."""

    def __init__(self, run: LoggedRun):
        # Imported here: it takes a second, and ranks without loggers never need it.
        from torch.utils.tensorboard import SummaryWriter

        self.unhooked = threading.excepthook
        threading.excepthook = self._thread_failed
        # What an interrupted run wrote from purge_step on is hidden.
        self.writer = SummaryWriter(
            str(run.folder / "tensorboard"), purge_step=run.start_step + 1 if run.start_step else 0
        )

    def log(self, step: int, metrics: Metrics) -> None:
        for name, value in metrics.items():
            if value is not None:
                self.writer.add_scalar(name, value, step)

    def image(self, step: int, name: str, image: np.ndarray) -> None:
        self.writer.add_image(name, image, step, dataformats="HWC")

    def animation(self, step: int, name: str, gif: bytes, size: tuple[int, int]) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue]

        # add_video would want moviepy; TensorBoard plays a GIF that is declared as an image.
        image = Summary.Image(height=size[0], width=size[1], colorspace=3, encoded_image_string=gif)
        summary = Summary(value=[Summary.Value(tag=name, image=image)])
        self.writer._get_file_writer().add_summary(summary, step)

    def close(self) -> None:
        try:
            self.writer.close()
        finally:
            threading.excepthook = self.unhooked
        if self.failed is not None:  # and nothing was logged since then that would have raised it
            raise self.failed

    def _thread_failed(self, args: threading.ExceptHookArgs) -> None:
        """A full disk in the thread that writes: raised again where the next number is logged."""
        if isinstance(args.exc_value, OSError) and type(args.thread).__module__.startswith(MODULE):
            self.failed = args.exc_value
        else:
            self.unhooked(args)


class Console(Logger):
    """A progress bar with the last metrics on a terminal, one plain line a log elsewhere.

    Shows the first of the metrics, as many as fit, and always ``clips_per_second`` and
    ``data_wait``.

    Args:
        stream: standard output if None.
        clock: seconds, for the time left.
    """

    def __init__(
        self,
        run: LoggedRun,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.screen = make_screen(stream or sys.stdout, run.total_steps, run.start_step, clock)

    def log(self, step: int, metrics: Metrics) -> None:
        measured = {name: value for name, value in metrics.items() if value is not None}
        self.screen.log(step, measured)

    def advance(self, step: int) -> None:
        self.screen.advance(step)

    def message(self, text: str) -> None:
        self.screen.message(text)

    def close(self) -> None:
        self.screen.close()


_wandb = partial(Experiment, "wandb", wandb_settings)
_trackio = partial(Experiment, "trackio", trackio_settings)

LOGGERS: dict[str, Callable[[LoggedRun], Logger]] = {
    "jsonl": JsonLines,
    "pictures": Pictures,
    "tensorboard": TensorBoard,
    "wandb": partial(Detached, "wandb", _wandb),
    "trackio": partial(Detached, "trackio", _trackio),
    "mlflow": partial(Detached, "mlflow", MLflow),
    "console": Console,  # the last: see Tracker.close
}


def make_loggers(run: LoggedRun, names: Iterable[str] | None = None) -> list[Logger]:
    """The loggers of a run; makes the run folder.

    Args:
        names: in :data:`LOGGERS`; by default all but those that ``run.loggers`` does not choose.
    """
    if names is None:
        chosen = run.config.get("run", {}).get("loggers", RunConfig.loggers)
        names = [name for name in LOGGERS if name not in CHOICES or name in chosen]
    run.folder.mkdir(parents=True, exist_ok=True)
    return [LOGGERS[name](run) for name in names]


def drop_lines_after(file: Path, step: int) -> None:
    """Keep the lines of a metrics file up to ``step``; torn lines, and all others, go.

    The file is replaced in one move: an interruption leaves the old one or the new one.
    """
    if not file.exists():
        return
    unfinished = file.with_suffix(".tmp")
    with file.open("rb") as old, unfinished.open("wb") as new:
        for line in old:
            try:
                keep = json.loads(line)["step"] <= step
            except (ValueError, KeyError, TypeError):
                continue  # a torn line
            if keep:
                new.write(line.rstrip(b"\n") + b"\n")
        new.flush()
        os.fsync(new.fileno())
    unfinished.replace(file)
