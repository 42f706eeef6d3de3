"""Global batches: which samples each rank reads when, and the batches made of them.

Global batch k holds the same samples, crops and mask shuffle ids whatever the number of ranks,
workers or accumulation steps, and after a resume.
"""

import logging
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Sampler, default_collate

from videohpm.data.clips import BadFile, ClipDataset
from videohpm.data.loader import Loader
from videohpm.errors import UserError

_log = logging.getLogger(__name__)


class Batch(NamedTuple):
    """One micro-batch; B counts clips: samples times repeats, a sample's repeats side by side.

    ``index`` is the row of the manifest that each clip was cut from.
    """

    clips: Tensor  # uint8 (B, 3, T, H, W)
    shuffle_ids: Tensor  # int64 (B, units), each row a random permutation
    labels: Tensor  # int64 (B,), -1 for none
    index: Tensor  # int64 (B,)
    bad: list[BadFile]  # files replaced while the batch was made

    def to(self, device: torch.device | str) -> "Batch":
        """Clips, shuffle ids and labels on ``device``, without waiting; ``index`` stays behind."""
        moved = {
            name: getattr(self, name).to(device, non_blocking=True)
            for name in ("clips", "shuffle_ids", "labels")
        }
        return self._replace(**moved)


def collate(items: list[dict]) -> Batch:
    """Items with equally many repeats each, as one batch."""
    repeats = torch.tensor([len(item["clips"]) for item in items])
    return Batch(
        # In a worker default_collate writes to shared memory at once: no second copy to send it.
        clips=default_collate([item["clips"] for item in items]).flatten(0, 1),
        shuffle_ids=default_collate([item["shuffle_ids"] for item in items]).flatten(0, 1),
        labels=torch.tensor([item["label"] for item in items]).repeat_interleave(repeats),
        index=torch.tensor([item["index"] for item in items]).repeat_interleave(repeats),
        bad=[bad for item in items for bad in item["bad"]],
    )


class GlobalBatchSampler(Sampler):
    """Lists of keys (epoch, index), one for each micro-batch of one rank, step after step.

    All samples form one endless stream: position p is sample ``order(epoch)[p % n]`` of epoch
    p // n, shuffled anew each epoch from (seed, epoch). Step k takes positions k*global_batch up to
    (k+1)*global_batch; micro-batch a of rank r takes the (a*world + r)-th piece of them, so the
    union over ranks and micro-batches is the global batch. An epoch may end inside a step, and a
    data set may be smaller than the global batch.

    ``global_batch`` counts samples: with repeats the optimiser sees that many times more clips.
    ``steps`` is the step to stop before (None: never), ``start_step`` the first one given.
    """

    def __init__(
        self,
        n_samples: int,
        global_batch: int,
        *,
        rank: int = 0,
        world: int = 1,
        grad_accum_steps: int = 1,
        seed: int = 0,
        start_step: int = 0,
        steps: int | None = None,
    ):
        if n_samples < 1:
            raise ValueError("n_samples: no samples to draw from")
        pieces = world * grad_accum_steps
        if global_batch < 1 or global_batch % pieces:
            raise ValueError(
                f"global_batch: {global_batch} does not divide into {world} ranks times "
                f"{grad_accum_steps} accumulation steps; make it a multiple of {pieces}"
            )
        if not 0 <= rank < world:
            raise ValueError(f"rank: {rank} is not one of {world}")
        self.n_samples, self.global_batch, self.seed = n_samples, global_batch, seed
        self.rank, self.world, self.grad_accum_steps = rank, world, grad_accum_steps
        self.start_step, self.steps = start_step, steps

    @property
    def micro_batch(self) -> int:
        """Samples in one micro-batch of one rank."""
        return self.global_batch // (self.world * self.grad_accum_steps)

    def __len__(self) -> int:
        if self.steps is None:
            raise TypeError("the stream has no end")
        return max(self.steps - self.start_step, 0) * self.grad_accum_steps

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        step, size = self.start_step, self.micro_batch
        while self.steps is None or step < self.steps:
            for micro in range(self.grad_accum_steps):
                piece = micro * self.world + self.rank
                first = step * self.global_batch + piece * size
                yield [self._key(first + i) for i in range(size)]
            step += 1

    def _key(self, position: int) -> tuple[int, int]:
        epoch, place = divmod(position, self.n_samples)
        return epoch, int(_order(self.seed, epoch, self.n_samples)[place])


@lru_cache(maxsize=2)
def _order(seed: int, epoch: int, n_samples: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(n_samples)


def make_loader(
    dataset: ClipDataset,
    sampler: GlobalBatchSampler,
    *,
    workers: int | None = None,
    pin_memory: bool = False,
) -> Loader:
    """Batches in the sampler's order; ``workers`` defaults to the data set's configuration."""
    workers = dataset.config.workers if workers is None else workers
    return Loader(
        dataset,
        sampler,
        collate,
        workers=workers,
        prefetch=dataset.config.prefetch,
        pin_memory=pin_memory,
    )


class BadFileTracker:
    """Names each unreadable file once and stops the run where there are too many.

    The share is of distinct bad files among distinct files seen; while few have been seen, among
    the first thousand (or the whole data set, where smaller), so that one bad file in the first
    batch stops nothing.
    """

    def __init__(self, n_samples: int, max_bad_fraction: float):
        self._seen = np.zeros(n_samples, dtype=bool)
        self._bad = np.zeros(n_samples, dtype=bool)
        self.max_bad_fraction = max_bad_fraction

    @property
    def seen(self) -> int:
        """Distinct files that were read, or tried."""
        return int(self._seen.sum())

    @property
    def bad(self) -> int:
        """Distinct files that could not be read."""
        return int(self._bad.sum())

    @property
    def bad_files(self) -> np.ndarray:
        """bool, for each sample of the data set whether its file could not be read."""
        return self._bad

    def update(self, batch: Batch) -> list[BadFile]:
        """Counts a batch and returns the bad files it names for the first time.

        Raises UserError where bad files exceed the share.
        """
        self._seen[batch.index.numpy()] = True
        new = []
        for file in batch.bad:
            self._seen[file.index] = True
            if not self._bad[file.index]:
                self._bad[file.index] = True
                new.append(file)
                _log.warning("replaced an unreadable file: %s: %s", file.path, file.reason)
        base = max(self.seen, min(len(self._seen), 1000)) if new else 0
        if new and self.bad > self.max_bad_fraction * base:
            raise UserError(
                f"data.max_bad_fraction: {self.bad} of {base} files cannot be read, more than "
                f"{self.max_bad_fraction:.2%} (last: {new[-1].path}: {new[-1].reason}); mend or "
                f"remove them, or raise the share"
            )
        return new
