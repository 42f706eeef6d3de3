"""What a run leaves behind and shows while it works.

A run folder holds ``metrics.jsonl`` (one JSON object for each logged step), ``tensorboard/`` (the
same as curves) and ``pictures/`` (PNG). On a terminal a progress bar shows the last numbers;
elsewhere each logged step is one plain line.
"""

from __future__ import annotations

import json
import math
import os
import platform
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import TextIO

import numpy as np

from videohpm.progress import make_screen

PACKAGES = ("videohpm", "torch", "torchvision", "timm", "numpy", "av", "decord", "deepspeed")


class Stopwatch:
    """Clips a second, and the share of the time spent waiting for data.

    Args:
        clips: clips of one optimiser step, over all ranks.
        clock: seconds.
    """

    def __init__(self, clips: int, clock: Callable[[], float] = time.perf_counter):
        self.clips, self.clock = clips, clock
        self.start, self.steps, self.waited = clock(), 0, 0.0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Around what fetches the data of one step."""
        begun = self.clock()
        yield
        self.waited += self.clock() - begun
        self.steps += 1

    def lap(self) -> dict[str, float]:
        """``clips_per_second`` and ``data_wait`` (0 to 1) since the last call."""
        now = self.clock()
        seconds = max(now - self.start, 1e-9)
        lap = {
            "clips_per_second": self.steps * self.clips / seconds,
            "data_wait": min(1.0, self.waited / seconds),
        }
        self.start, self.steps, self.waited = now, 0, 0.0
        return lap


class Tracker:
    """Writes metrics and pictures into a run folder and shows them.

    Use it in a ``with`` statement, or call :meth:`close`.

    Args:
        run_dir: the run folder; made where missing.
        total_steps: of the whole run.
        start_step: the steps a resumed run has behind it. Whatever an interrupted run logged
            after them is dropped, because those steps will be done again.
        console: show progress; False writes the files only.
        enabled: False makes every method do nothing: for all ranks but the first.
        stream: where progress goes; standard output if None.
        clock: seconds, for the time left.
    """

    def __init__(
        self,
        run_dir: str | os.PathLike,
        *,
        total_steps: int,
        start_step: int = 0,
        console: bool = True,
        enabled: bool = True,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.enabled, self.screen = enabled, None
        if not enabled:
            return
        self.folder = Path(run_dir)
        (self.folder / "pictures").mkdir(parents=True, exist_ok=True)
        file = self.folder / "metrics.jsonl"
        drop_lines_after(file, start_step)
        # Line buffered, and a line is written at once: a reader sees whole lines only.
        self.lines = file.open("a", encoding="utf-8", buffering=1)
        # Imported here: it takes a second, and ranks without a tracker never need it.
        from torch.utils.tensorboard import SummaryWriter

        # What an interrupted run wrote from purge_step on is hidden.
        self.curves = SummaryWriter(
            str(self.folder / "tensorboard"), purge_step=start_step + 1 if start_step else 0
        )
        if console:
            self.screen = make_screen(stream or sys.stdout, total_steps, start_step, clock)

    def log(self, step: int, metrics: Mapping[str, float | None]) -> None:
        """Write and show the metrics of a step.

        Args:
            step: optimiser steps done.
            metrics: numbers or 0-d tensors (reading a tensor waits for its device), or None for
                what this run does not measure: null in ``metrics.jsonl``, and not shown. The screen
                shows the first of them, as many as fit, and always ``clips_per_second`` and
                ``data_wait``. A number that is not finite becomes null in ``metrics.jsonl``,
                because JSON has no nan.
        """
        if not self.enabled:
            return
        if "step" in metrics:
            raise ValueError("metrics: 'step' is taken by the step itself")
        measured = {name: value for name, value in metrics.items() if value is not None}
        numbers = {name: _plain_number(value) for name, value in measured.items()}
        finite = {name: value for name, value in numbers.items() if math.isfinite(value)}
        row = {"step": step} | {name: finite.get(name) for name in metrics}
        self.lines.write(json.dumps(row, allow_nan=False) + "\n")
        for name, value in numbers.items():
            self.curves.add_scalar(name, value, step)
        if self.screen:
            self.screen.log(step, numbers)

    def advance(self, step: int) -> None:
        """Move the progress bar; cheap enough for every step."""
        if self.screen:
            self.screen.advance(step)

    def picture(self, step: int, name: str, image: np.ndarray) -> None:
        """Write ``image``, uint8 (H, W, 3), as pictures/NAME_STEP.png and to TensorBoard."""
        if not self.enabled:
            return
        if not re.fullmatch(r"[\w.-]+", name):
            raise ValueError(f"name: {name!r}; give letters, digits, '_', '-' and '.' only")
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise ValueError(f"image: {image.dtype} {image.shape}; give uint8 (H, W, 3)")
        from PIL import Image

        file = self.folder / "pictures" / f"{name}_{step:07d}.png"
        unfinished = file.with_suffix(".tmp")
        Image.fromarray(image).save(unfinished, format="PNG")
        unfinished.replace(file)
        self.curves.add_image(name, image, step, dataformats="HWC")

    def animation(self, step: int, name: str, gif: bytes, size: tuple[int, int]) -> None:
        """Show an animated GIF of ``size`` (height, width) pixels in TensorBoard."""
        if not self.enabled:
            return
        from tensorboard.compat.proto.summary_pb2 import Summary

        # add_video would want moviepy; TensorBoard plays a GIF that says it is an image.
        image = Summary.Image(height=size[0], width=size[1], colorspace=3, encoded_image_string=gif)
        self.curves.file_writer.add_summary(
            Summary(value=[Summary.Value(tag=name, image=image)]), step
        )

    def message(self, text: str) -> None:
        """Show a line of text, above the progress bar where there is one."""
        if self.screen:
            self.screen.message(text)

    def close(self) -> None:
        """End the bar and finish the files; a second call does nothing."""
        if self.screen:
            self.screen.close()
        if self.enabled:
            self.lines.close()
            self.curves.close()
        self.enabled, self.screen = False, None

    def __enter__(self) -> Tracker:
        return self

    def __exit__(self, *_) -> None:
        self.close()


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


def describe_machine(file: Path) -> None:
    """Write the versions and devices that a run depends on as JSON; no host or user names."""
    import torch

    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    facts = {
        "python": platform.python_version(),
        "system": platform.system(),
        "machine": platform.machine(),
        "packages": versions,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "cuda": torch.version.cuda,
        "gpus": gpus,
    }
    file.write_text(json.dumps(facts, indent=2) + "\n")


def _plain_number(value: object) -> float:
    """An int, a bool or a float; numpy and torch scalars lose their wrapping."""
    number = value.item() if hasattr(value, "item") else value
    if not isinstance(number, (bool, int, float)):
        raise TypeError(f"metrics: {value!r} is not a number")
    return number
