"""From the loader to the device: micro-batch by micro-batch, copied beside the computing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Generic, Protocol, TypeVar

import torch


class Movable(Protocol):
    """A batch: :class:`videohpm.data.Batch`."""

    def to(self, device: torch.device | str, /) -> Movable: ...


B = TypeVar("B", bound=Movable)


class Feed(Generic[B]):
    """The batches of a loader on the engine's device, one step's worth at a time.

    On a GPU a stream of its own copies the next batch while the last one is computed with; the
    loader's batches must lie in pinned memory for that. A step never holds all its micro-batches.

    Args:
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
        with self.waiting():
            batch = next(self.batches, None)
        if batch is None or self.stream is None:
            return batch
        with torch.cuda.stream(self.stream):
            return batch.to(self.device)  # pyright: ignore[reportReturnType]: the same type

    def _hand_over(self, batch, copying: torch.cuda.Stream) -> None:
        """Have the computing wait for the copy, and the copy's memory for the computing."""
        computing = torch.cuda.current_stream(self.device)
        computing.wait_stream(copying)
        for value in batch:
            if isinstance(value, torch.Tensor) and value.device.type == "cuda":
                value.record_stream(computing)
