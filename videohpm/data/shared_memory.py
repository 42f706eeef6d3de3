"""Clips on their way from the workers to the run: memory that both see, used again and again.

Memory that is new costs more than copying into it: its pages are found and cleared one by one, for
a clip of 16 frames of 224² as long as cropping and resizing it. So workers write clips to places
that stay, the run copies them out, and the place is another part's.
"""

from __future__ import annotations

import itertools
import logging
import math
import shutil
import weakref
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from videohpm.data.bad_files import BadFile
from videohpm.data.batches import Batch, collate_all_but_clips
from videohpm.errors import UserError

SHARED = Path("/dev/shm")
"""Where Linux keeps the memory that processes share."""
USABLE = 0.9
LARGER = "make it larger (docker run --shm-size 16g, or --ipc host)"
FULL_MEMORY = (
    f"data.workers: shared memory is full ({SHARED}); {LARGER}, or give fewer data.workers or a "
    "smaller data.prefetch"
)
KEPT = 2
"""Batches of which :class:`Reused` keeps the memory when they are gone."""
_log = logging.getLogger(__name__)
_numbers = itertools.count()
_slots: weakref.WeakValueDictionary[int, Slots] = weakref.WeakValueDictionary()


def shared_prefetch(wanted: int, workers: int, size: int, processes: int) -> int:
    """How many parts each worker may keep ready in the shared memory that is free.

    Args:
        wanted: how many there should be.
        size: bytes of a part.
        processes: of this machine that need as much.

    Raises UserError where there is no room for a single one.
    """
    if not SHARED.is_dir():  # not Linux: no such limit
        return wanted
    free = shutil.disk_usage(SHARED).free
    room = (int(free * USABLE / (processes * size)) - 1) // workers
    if room < 1:
        raise UserError(
            f"data.workers: {workers} for each of {processes} processes keep at least "
            f"{processes * slot_count(workers, 1) * size / 1e9:.2f} GB in shared memory, and "
            f"{SHARED} has {free / 1e9:.2f} GB free; {LARGER}, or give fewer workers"
        )
    if room < wanted:
        _log.warning(
            "data.prefetch: %s has %.2f GB free, so workers keep %d of %d parts of a batch ready; "
            "%s",
            *(SHARED, free / 1e9, room, wanted, LARGER),
        )
    return min(room, wanted)


def slot_count(workers: int, prefetch: int) -> int:
    """Parts that are under way at once, at most: a worker gets its next before one is copied."""
    return workers * prefetch + 1


class Slots:
    """Places in shared memory, each for the clips of one part: uint8 (samples, R, T, H, W, 3).

    The run takes a slot for a part before a worker is asked to make it, and frees it when the
    clips are copied out.
    """

    def __init__(self, count: int, shape: tuple[int, ...]):
        memory = torch.UntypedStorage._new_shared(count * math.prod(shape))
        self.memory = torch.empty(0, dtype=torch.uint8).set_(memory).view(count, *shape)
        self.free_all()
        self.number = next(_numbers)
        _slots[self.number] = self

    def take(self) -> int:
        """A free one."""
        return self.free.popleft()

    def free_all(self) -> None:
        """No part is under way."""
        self.free = deque(range(len(self.memory)))


@dataclass
class Part:
    """A part of a batch as a worker sends it: a slot's number and few bytes more."""

    slots: int
    slot: int
    shuffle_ids: np.ndarray
    labels: np.ndarray
    index: np.ndarray
    bad: list[BadFile]

    @property
    def clips(self) -> Tensor:
        """The slot itself, uint8 (samples, R, T, H, W, 3), until it is freed."""
        return _slots[self.slots].memory[self.slot]

    def free(self) -> None:
        """The clips are copied: the slot may be written to."""
        _slots[self.slots].free.append(self.slot)

    def pin_memory(self) -> Batch:
        """A batch in pinned memory, whose pages torch uses again. Called by torch's thread."""
        clips = self.clips.pin_memory()
        self.free()
        return Batch(
            clips=_channels_first(clips),
            shuffle_ids=torch.from_numpy(self.shuffle_ids).pin_memory(),
            labels=torch.from_numpy(self.labels).pin_memory(),
            index=torch.from_numpy(self.index),
            bad=self.bad,
        )


class PartMaker:
    """A data set of parts of batches, for workers: asked for (slot, keys)."""

    def __init__(self, dataset: Any, slots: Slots):
        self.dataset, self.slots = dataset, slots

    def __getitems__(self, asked: tuple[int, list]) -> Part:
        slot, keys = asked
        items = []
        for place, key in zip(self.slots.memory[slot], keys, strict=True):
            item = self.dataset[key]
            place.copy_(item.pop("clips").permute(0, 2, 3, 4, 1))
            items.append(item)
        ids, labels, index, bad = collate_all_but_clips(items, self.slots.memory.shape[2])
        return Part(self.slots.number, slot, ids.numpy(), labels.numpy(), index.numpy(), bad)


class Reused:
    """Memory for one large array after another: what the last tensor has left is used again."""

    def __init__(self):
        self.left: deque[np.ndarray] = deque(maxlen=KEPT)

    def empty(self, shape: tuple[int, ...]) -> Tensor:
        """uint8, of any values."""
        size = math.prod(shape)
        memory = self.left.pop() if self.left else np.empty(0, np.uint8)
        if memory.size != size:
            memory = np.empty(size, np.uint8)
        lent = memory[:]  # torch holds this view as long as any tensor needs it
        weakref.finalize(lent, self.left.append, memory).atexit = False
        return torch.from_numpy(lent).view(shape)


def gathered(parts: Iterable[Part | Any], count: int, reused: Reused) -> list:
    """The ``count`` parts of a batch as ``parts`` gives them; those in slots as one batch.

    Their clips are copied out part by part, so that slots are free again at once.
    """
    whole, found = torch.empty(0), []
    for number, part in enumerate(parts):
        if isinstance(part, Part):
            if number == 0:
                whole = reused.empty((count, *part.clips.shape))
            whole[number].copy_(part.clips)
            part.free()
        found.append(part)
    if not found or not isinstance(found[0], Part):
        return found

    def joined(name: str) -> Tensor:
        return torch.from_numpy(np.concatenate([getattr(part, name) for part in found]))

    return [
        Batch(
            clips=_channels_first(whole.flatten(0, 1)),
            shuffle_ids=joined("shuffle_ids"),
            labels=joined("labels"),
            index=joined("index"),
            bad=[bad for part in found for bad in part.bad],
        )
    ]


def _channels_first(clips: Tensor) -> Tensor:
    """(samples, R, T, H, W, 3) as (samples * R, 3, T, H, W): a view."""
    return clips.flatten(0, 1).permute(0, 4, 1, 2, 3)
