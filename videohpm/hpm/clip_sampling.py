"""Which clips are seen more often: those that have been hard beside the others of their step."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

MOMENTUM = 0.5
"""Of a sample's running hardness, which moves once each time that the sample is seen."""


class ClipSampling(nn.Module):
    """How often each sample is in an epoch, by its running hardness.

    Hardness is divided by the mean of the global batch, so that what was seen long ago, when all
    losses were larger, is not taken for hard. Weights rise evenly with the rank from 1 − α to
    1 + α. The order of an epoch is asked for while the one before is trained on, and follows from
    what was known when that one began: the two first epochs hold every sample once.

    What is kept are buffers, which a checkpoint saves; all processes have the same.

    Args:
        samples: of the data set.
        batch: samples of a global batch.
        share: α at a step; the configuration allows 0 to 0.5.
        all_gather: the lists of all processes, in order; None in one process.

    Attributes:
        hardness: (samples,) running hardness, 1 on average; 0 of what has not been seen.
        past: (2, samples) the same when the order of an even and of an odd epoch was decided.
    """

    hardness: Tensor
    past: Tensor

    def __init__(
        self,
        samples: int,
        batch: int,
        share: Callable[[float], float],
        all_gather: Callable[[list], list[list]] | None = None,
    ):
        super().__init__()
        self.samples, self.batch, self.share = samples, batch, share
        self.all_gather = all_gather or (lambda values: [values])
        self.register_buffer("hardness", torch.zeros(samples))
        self.register_buffer("past", torch.zeros(2, samples))
        self._seen: list[tuple[Tensor, Tensor]] = []  # of micro-batches of the step
        self._steps: list[list[tuple[Tensor, Tensor]]] = []  # not added up yet
        self.known = 1
        """The last epoch whose order is decided."""

    def start(self, done: int) -> None:
        """Go on after ``done`` steps."""
        self.known = 1 + done * self.batch // self.samples

    def add(self, index: Tensor, hardness: Tensor) -> None:
        """Note the clips of a micro-batch; nothing is waited for.

        Args:
            index: (B,) the samples that they were cut from, on the CPU.
            hardness: (B, K) of what was masked of each.
        """
        self._seen.append((index, hardness.mean(1)))

    def end_step(self, done: int) -> None:
        """After each step, ``done`` of them by now; every process must call it.

        Where an epoch ended in it, the order of the next but one is decided.
        """
        self._steps.append(self._seen)
        self._seen = []
        ended = done * self.batch // self.samples
        if ended < self.known:
            return
        self.add_up()
        self.known = ended + 1
        self.past[self.known % 2] = self.hardness

    def add_up(self) -> None:
        """Let the running hardness know all steps so far; every process must call it."""
        mine = [[(index.tolist(), hard.tolist()) for index, hard in step] for step in self._steps]
        self._steps = []
        running = self.hardness.numpy()  # the same memory
        for ranks in zip(*self.all_gather(mine), strict=True):
            # In the order of the global batch: the first micro-batch of each rank, then the next.
            pieces = [piece for pieces in zip(*ranks, strict=True) for piece in pieces]
            clips = [clip for piece in pieces for clip in zip(*piece, strict=True)]
            mean = sum(hard for _, hard in clips) / len(clips)
            for sample, hard in clips:
                new, old = hard / (mean or 1.0), float(running[sample])
                running[sample] = MOMENTUM * old + (1 - MOMENTUM) * new if old else new

    def weights(self, epoch: int) -> np.ndarray | None:
        """How often each sample is to be in an epoch, (samples,) of mean 1; None: once each.

        Raises ValueError for an epoch that is not decided yet.
        """
        if epoch > self.known:
            raise ValueError(f"epoch: the order of {epoch} is not known before {epoch - 1} begins")
        share = self.share(epoch * self.samples / self.batch)
        if epoch < 2 or epoch < self.known - 1 or share == 0 or self.samples == 1:
            return None
        past = self.past[epoch % 2].double().numpy()
        rank = np.where(past == 0, 1.0, past).argsort(kind="stable").argsort()
        return 1 + share * (2 * rank / (self.samples - 1) - 1)


CLIP_SAMPLINGS = {"sample": ClipSampling}
"""By ``mask.use``: how often each clip is seen; with any other use each is seen once an epoch."""
