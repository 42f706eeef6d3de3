"""From the loader to the device: micro-batch by micro-batch, copied beside the computing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Generic, TypeVar

import torch

B = TypeVar("B")


class Feed(Generic[B]):
    """The batches of a loader, one step's worth at a time; a step never holds all of its own.

    On a GPU a stream of its own copies the next batch while the last one is computed with.

    Args:
        batches: each on ``device``, where its copy was begun on the stream of the moment.
        waiting: entered while the loader is waited for.
    """

    def __init__(
        self,
        batches: Iterator[B],
        device: torch.device,
        waiting: Callable[[], AbstractContextManager],
    ):
        self.batches, self.device, self.waiting = batches, device, waiting
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self.ahead: B | None = None
        self.begun = False

    def step(self, count: int) -> Iterator[B]:
        """The next ``count`` batches, fewer where the loader ends."""
        for _ in range(count):
            batch = self._fetch() if self.ahead is None else self.ahead
            if batch is None:
                return
            self.ahead = None
            if self.stream is not None:
                self._hand_over(batch, self.stream)
                if self.begun:  # the first step begins with the first batch
                    self.ahead = self._fetch()
            self.begun = True
            yield batch

    def _fetch(self) -> B | None:
        beside = nullcontext() if self.stream is None else torch.cuda.stream(self.stream)
        with self.waiting(), beside:  # the loader copies the parts of a batch
            return next(self.batches, None)

    def _hand_over(self, batch, copying: torch.cuda.Stream) -> None:
        """Have the computing wait for the copy, and the copy's memory for the computing."""
        computing = torch.cuda.current_stream(self.device)
        computing.wait_stream(copying)
        for value in batch:
            if isinstance(value, torch.Tensor) and value.device.type == "cuda":
                value.record_stream(computing)
