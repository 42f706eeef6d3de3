"""All views of each video, once each, however many processes share the work.

Videos are divided among the ranks by sample, and a video that cannot be read is reported, never
replaced. Every rank makes the same number of forward passes of the same shape: blank clips fill
the gaps. Results then hardly depend on the number of processes, and the ranks of a sharded model
stay in step.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from videohpm.data import (
    DecodeError,
    Manifest,
    Sample,
    count_frames,
    load_clip,
    load_image,
    normalise,
)
from videohpm.data.clips import bounded_read
from videohpm.data.loader import Loader
from videohpm.data.worker_state import WorkerState
from videohpm.engine.feed import Feed
from videohpm.evaluate.processes import EvalProcesses
from videohpm.evaluate.protocol import EvalProtocol
from videohpm.tracking import make_screen

MESSAGE_EVERY = 20.0
"""Seconds between two plain lines of progress."""


@dataclass
class Video:
    """One video with all its views."""

    index: int
    """Row of the manifest."""
    views: Tensor | None
    """uint8 (V, 3, T, H, W); None where it could not be read."""
    spans: np.ndarray | None
    """(V, T) int64: the frame numbers behind each view."""
    error: str | None = None

    def pin_memory(self) -> Video:
        """The same with its views in memory that a GPU copies from by itself."""
        return self if self.views is None else replace(self, views=self.views.pin_memory())


class VideoBatch(NamedTuple):
    """Videos of one round, and their views one after another on the device."""

    clips: Tensor  # uint8 (B, 3, T, H, W), B the same in every round
    videos: list[Video]  # without their views


@dataclass
class ViewOutput:
    """A model's output for each view of one video, (V, …), on the CPU."""

    index: int
    output: Tensor | None
    spans: np.ndarray | None
    error: str | None = None


def read_views(sample: Sample, protocol: EvalProtocol, kind: str) -> tuple[Tensor, np.ndarray]:
    """The views of one file, uint8 (V, 3, T, H, W), and their frame numbers (V, T).

    A video is decoded once for all of them. Raises DecodeError; UserError where an image meets a
    model of videos is the caller's.
    """
    if kind == "image":
        numbers = np.zeros((1, 1), dtype=np.int64)
        clips = [load_image(sample)]
    else:
        numbers = protocol.indices(count_frames(sample))
        wanted, where = np.unique(numbers, return_inverse=True)
        frames = load_clip(sample, wanted)
        clips = [frames[torch.from_numpy(row)] for row in where.reshape(numbers.shape)]
    views = [crop for clip in clips for crop in protocol.cut(clip)]
    spans = numbers.repeat(len(views) // len(numbers), axis=0)
    return torch.stack(views).transpose(1, 2).contiguous(), spans


class ViewDataset(Dataset):
    """Videos by row of a manifest, each with all its views."""

    def __init__(self, manifest: Manifest, protocol: EvalProtocol, decode_timeout: float = 120.0):
        self.manifest, self.protocol, self.decode_timeout = manifest, protocol, decode_timeout
        self.worker_state = WorkerState(len(manifest))

    def __len__(self) -> int:
        return len(self.manifest)

    def __getitem__(self, index: int) -> Video:
        read = (read_views, self.manifest[index], self.protocol, self.manifest.kind)
        try:
            views, spans = bounded_read(self.worker_state, index, self.decode_timeout, *read)
        except DecodeError as error:
            return Video(index, None, None, error.reason)
        return Video(index, views, spans)


def run_views(
    call: Callable[[Tensor], Tensor],
    manifest: Manifest,
    rows: np.ndarray,
    protocol: EvalProtocol,
    *,
    processes: EvalProcesses,
    device: torch.device,
    batch: int = 16,
    workers: int = 0,
    decode_timeout: float = 120.0,
    bf16: bool = False,
    progress: str | None = None,
) -> Iterator[ViewOutput]:
    """Run ``call`` on every view of this rank's share of ``rows``; yields a video at a time.

    Args:
        call: normalised clips (B, 3, T, H, W) → (B, …). B is always the same.
        rows: of the manifest; rank r takes every world-th of them, starting at r.
        batch: clips of one forward pass, at most.
        progress: name of the work on the screen; None shows nothing.
    """
    per_video = protocol.views if manifest.kind == "video" else protocol.crops
    per_batch = max(1, batch // per_video)
    local = rows[processes.rank :: processes.world]
    rounds = math.ceil(math.ceil(len(rows) / processes.world) / per_batch)
    dataset = ViewDataset(manifest, protocol, decode_timeout)
    loader = _loader(dataset, local, per_batch, workers, device)
    shape = per_video, 3, protocol.frames, *protocol.size
    blank = torch.zeros(shape, dtype=torch.uint8, device=device)
    batches = _on_device(iter(loader), rounds, per_batch, blank)
    feed = Feed(batches, device, processes.working)  # decode_timeout bounds what a video may take
    bar = Bar(progress, len(rows), processes)
    for number, (clips, videos) in enumerate(feed.step(rounds)):
        outputs = _forward(call, clips, protocol, batch, bf16).split(per_video)
        processes.progress()
        for video, output in zip(videos, outputs, strict=False):
            output = None if video.error is not None else output
            yield ViewOutput(video.index, output, video.spans, video.error)
        bar.advance(min(len(rows), (number + 1) * per_batch * processes.world))
    bar.close()


def _on_device(
    loader: Iterator[list[Video]], rounds: int, per_batch: int, blank: Tensor
) -> Iterator[VideoBatch]:
    """As many batches as there are rounds, each of ``per_batch`` videos.

    Args:
        loader: gives fewer where other ranks have more videos.
        blank: (V, 3, T, H, W), on the device: stands in for videos that are missing or could not
            be read.
    """
    for _ in range(rounds):
        videos = next(loader, [])
        views = [blank if video.views is None else video.views for video in videos]
        views += [blank] * (per_batch - len(views))
        clips = torch.cat([view.to(blank.device, non_blocking=True) for view in views])
        yield VideoBatch(clips, [replace(video, views=None) for video in videos])


@torch.no_grad()
def _forward(
    call: Callable[[Tensor], Tensor],
    clips: Tensor,
    protocol: EvalProtocol,
    batch: int,
    bf16: bool,
) -> Tensor:
    outputs = []
    for piece in clips.split(batch):
        inputs = normalise(piece, protocol.mean, protocol.std)
        with torch.autocast(clips.device.type, torch.bfloat16, enabled=bf16):
            outputs.append(call(inputs).float())
    return torch.cat(outputs).cpu()


def _loader(
    dataset: ViewDataset, rows: np.ndarray, per_batch: int, workers: int, device: torch.device
) -> Loader:
    """Lists of :class:`Video`; a worker that dies is replaced, and costs no video."""
    batches = [rows[i : i + per_batch].tolist() for i in range(0, len(rows), per_batch)]
    pinned = device.type == "cuda"
    return Loader(dataset, batches, list, workers=workers, pin_memory=pinned)


class Bar:
    """Progress over videos: a bar on a terminal, now and then a line elsewhere."""

    def __init__(self, name: str | None, total: int, processes: EvalProcesses):
        self.name, self.total, self.screen = name, total, None
        if name is not None and processes.is_main:
            self.screen = make_screen(sys.stdout, total, 0, time.monotonic)
        self.reported = time.monotonic()

    def advance(self, done: int) -> None:
        """``done`` videos are through, over all processes."""
        if self.screen is None:
            return
        self.screen.advance(done)
        plain = not hasattr(self.screen, "live")
        if plain and time.monotonic() - self.reported > MESSAGE_EVERY:
            self.screen.message(f"{self.name}: {done} of {self.total}")
            self.reported = time.monotonic()

    def close(self) -> None:
        """End the bar."""
        if self.screen is not None:
            self.screen.close()
