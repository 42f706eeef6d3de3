"""Global batches: which samples each rank reads when, and the batches made of them.

Global batch k holds the same samples, crops and mask shuffle ids whatever the number of ranks,
workers or accumulation steps, and after a resume.
"""

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Sampler

from videohpm.data.bad_files import BadFile


class Batch(NamedTuple):
    """One micro-batch; B counts clips: samples times repeats, a sample's repeats side by side.

    ``index`` is the row of the manifest that each clip was cut from.
    """

    clips: Tensor  # uint8 (B, 3, T, H, W), the channels last in memory
    shuffle_ids: Tensor  # int64 (B, units), each row a random permutation
    labels: Tensor  # int64 (B,), -1 for none
    index: Tensor  # int64 (B,)
    bad: list[BadFile]  # files replaced while the batch was made

    def to(self, device: torch.device | str) -> "Batch":
        """Clips, shuffle ids and labels on ``device``, without waiting; ``index`` stays."""
        moved = {
            name: getattr(self, name).to(device, non_blocking=True)
            for name in ("clips", "shuffle_ids", "labels")
        }
        return self._replace(**moved)


def collate(items: list[dict]) -> Batch:
    """Items with equally many repeats each, as one batch.

    Clips lie in memory with their channels last, as decoders and torch's resizing of bytes have
    them: so they are copied as they are, and the device puts them in order.
    """
    clips = torch.cat([item["clips"].permute(0, 2, 3, 4, 1) for item in items])
    rest = collate_all_but_clips(items, len(clips) // len(items))
    return Batch(clips.permute(0, 4, 1, 2, 3), *rest)


def collate_all_but_clips(
    items: list[dict], repeats: int
) -> tuple[Tensor, Tensor, Tensor, list[BadFile]]:
    """Shuffle ids, labels, rows and bad files of a batch."""
    labels, index = (
        torch.tensor([item[name] for item in items]).repeat_interleave(repeats)
        for name in ("label", "index")
    )
    shuffle_ids = torch.cat([item["shuffle_ids"] for item in items])
    return shuffle_ids, labels, index, [bad for item in items for bad in item["bad"]]


def join_batches(parts: list[Batch], device: torch.device | str = "cpu") -> Batch:
    """Parts of a batch, in order, as one batch on ``device``.

    On a GPU each part is copied there by itself, without waiting where it lies in pinned memory.
    """
    if len(parts) == 1:
        return parts[0].to(device)
    moved = [part.to(device) for part in parts]
    joined = (torch.cat(values) for values in zip(*(part[:4] for part in moved), strict=True))
    return Batch(*joined, bad=[bad for part in parts for bad in part.bad])


class GlobalBatchSampler(Sampler):
    """Lists of keys (epoch, index), one for each micro-batch of one rank, step after step.

    All samples form one endless stream: position p is sample ``order(epoch)[p % n]`` of epoch
    p // n, shuffled anew each epoch from (seed, epoch). Step k takes positions k*global_batch up to
    (k+1)*global_batch; micro-batch a of rank r takes the (a*world + r)-th piece of them, so the
    union over ranks and micro-batches is the global batch. An epoch may end inside a step, and a
    data set may be smaller than the global batch.

    ``global_batch`` counts samples: with repeats the optimiser sees that many times more clips.
    ``steps`` is the step to stop before (None: never), ``start_step`` the first one given.
    ``weights`` says of an epoch how often each sample is to be in it (float (n_samples,), mean 1;
    None: once); it is asked when the first key of the epoch is. The second time that a sample is in
    an epoch its key has another number for the epoch (:data:`AGAIN` more), and so another crop.
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
        weights: Callable[[int], np.ndarray | None] = lambda epoch: None,
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
        self.start_step, self.steps, self.weights = start_step, steps, weights
        self._epoch, self._keys = -1, np.empty((0, 2), dtype=np.int64)

    @property
    def micro_batch(self) -> int:
        """Samples in one micro-batch of one rank."""
        return self.global_batch // (self.world * self.grad_accum_steps)

    def __len__(self) -> int:
        if self.steps is None:
            raise TypeError("no length: steps is None, the batches never end")
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
        epoch, row = divmod(position, self.n_samples)
        if epoch != self._epoch:
            weights = self.weights(epoch)
            order = _order(self.seed, epoch, self.n_samples)
            if weights is not None:
                order = weighted_order(self.seed, epoch, weights)
            self._epoch, self._keys = epoch, _keys(epoch, order)
        number, index = self._keys[row].tolist()
        return number, index


AGAIN = 2**40
"""Added to the number of an epoch for samples that are in it once more."""


@lru_cache(maxsize=2)
def _order(seed: int, epoch: int, n_samples: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(n_samples)


def weighted_order(seed: int, epoch: int, weights: np.ndarray) -> np.ndarray:
    """As many samples as there are weights, each as often as its weight says, in random order.

    Systematic sampling: weights are laid end to end, in random order, and every sample is taken
    whose piece holds one of equally spaced points. So a sample of weight w is in the epoch at least
    ⌊w⌋ and at most ⌈w⌉ times, and w times on average.
    """
    rng, count = np.random.default_rng([seed, epoch]), len(weights)
    laid = rng.permutation(count)
    ends = np.cumsum(weights[laid], dtype=np.float64)
    points = (rng.random() + np.arange(count)) * (ends[-1] / count)
    taken = np.minimum(np.searchsorted(ends, points, side="right"), count - 1)
    return rng.permutation(laid[taken])


def _keys(epoch: int, order: np.ndarray) -> np.ndarray:
    """(n, 2): the number of the epoch, more for each time that the sample was there before."""
    by_sample = np.argsort(order, kind="stable")
    ordered = order[by_sample]
    first = np.searchsorted(ordered, ordered, side="left")
    visits = np.empty(len(order), dtype=np.int64)
    visits[by_sample] = np.arange(len(order)) - first
    return np.stack([epoch + visits * AGAIN, order], axis=1)
