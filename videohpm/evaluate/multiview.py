"""The multi-view test: a classifier's probabilities of a video are the mean over its views."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from videohpm.data import Manifest
from videohpm.evaluate.processes import EvalProcesses
from videohpm.evaluate.protocol import EvalProtocol
from videohpm.evaluate.tasks import OutputTask
from videohpm.evaluate.views import run_views


@dataclass
class Scores:
    """The predictions for each video that could be read, in the order of the manifest."""

    index: np.ndarray
    """(n,) rows of the manifest."""
    labels: np.ndarray
    """(n,) the right classes, -1 where unknown; of other tasks (n, outputs), see ``task``."""
    probabilities: np.ndarray
    """(n, classes) float32: what each view says (softmax, of other tasks another), averaged over
    views."""
    logits: np.ndarray
    """(n, classes) float32: averaged over views."""
    errors: dict[int, str]
    """Why the other rows could not be read."""
    task: OutputTask = OutputTask()
    """What the outputs mean."""

    @property
    def total(self) -> int:
        """Videos to be scored, read or not."""
        return len(self.index) + len(self.errors)

    def metrics(self) -> dict:
        """Metrics over the labelled videos that were read, and how many those are."""
        scored = self.task.metrics(self.probabilities, self.labels)
        return scored | {"scored": len(self.index), "total": self.total}


def score(
    call,
    classes: int,
    manifest: Manifest,
    protocol: EvalProtocol,
    *,
    processes: EvalProcesses,
    device: torch.device,
    rows: np.ndarray | None = None,
    task: OutputTask | None = None,
    **options,
) -> Scores:
    """Every view of every video once, on any number of ranks; the same result on each of them.

    Args:
        call: normalised clips (B, 3, T, H, W) → logits (B, classes).
        rows: of the manifest to score; None for all.
        task: what the outputs mean; None for one class a sample.
        options: batch, workers, decode_timeout, bf16 and progress of
            :func:`videohpm.evaluate.views.run_views`.
    """
    rows, task = np.arange(len(manifest)) if rows is None else rows, task or OutputTask()
    index, probabilities, logits, errors = [], [], [], {}
    for view_output in run_views(
        call, manifest, rows, protocol, processes=processes, device=device, **options
    ):
        if view_output.output is None:
            errors[view_output.index] = view_output.error
            continue
        index.append(view_output.index)
        probabilities.append(task.predicted(view_output.output).mean(0).numpy())
        logits.append(view_output.output.mean(0).numpy())
    local = (
        np.array(index, dtype=np.int64),
        np.array(probabilities, dtype=np.float32).reshape(len(index), classes),
        np.array(logits, dtype=np.float32).reshape(len(index), classes),
        errors,
    )
    parts = processes.gather(local)
    index, probabilities, logits = (np.concatenate([p[i] for p in parts]) for i in range(3))
    order = np.argsort(index)
    index = index[order]
    return Scores(
        index=index,
        labels=task.truth(manifest, index, classes),
        probabilities=probabilities[order],
        logits=logits[order],
        errors=dict(sorted((k, v) for part in parts for k, v in part[3].items())),
        task=task,
    )
