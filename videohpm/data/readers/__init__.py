"""Readers: each returns frames of a video by position, and says which files it may read.

A reader is a module of this package with the functions of :class:`Reader`, and a line in
``READERS``; its first line says what it reads. Which files one may read is decided by what it was
measured to read right, frame by frame against a sequential decode, and by what its packets say:
never by its name alone.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from videohpm.data.index import VideoIndex
from videohpm.data.readers import decord, intra, pyav, torchcodec


class Reader(Protocol):
    """What ``videohpm.data`` asks of a reader. Its library is imported at the first use."""

    def available(self) -> str | None:
        """None where the reader can be used on this machine, else why not, in one line."""
        ...

    def can_read(self, index: VideoIndex) -> bool:
        """Whether the reader returns the frames of a sequential decode for such a file."""
        ...

    def read(
        self, path: str, positions: list[int], target: tuple[int, int] | None
    ) -> np.ndarray | None:
        """Frames as uint8 (n, H, W, 3) RGB, upright, or None where another reader should read.

        It is the reader that looks at what the file is (``container.check_first_bytes``, which
        ``open_video`` calls): a playlist under the name of a video must not lead to other files.

        Args:
            positions: ascending and distinct, from 0, in display order.
            target: (height, width) of the upright frames to scale to; None: as they are.

        Raises DecodeError.
        """
        ...


READERS: dict[str, Reader] = {
    "intra": intra,
    "torchcodec": torchcodec,
    "decord": decord,
    "pyav": pyav,
}
"""By name, in the order in which they are asked: the fastest first. What a manifest's column
``reader`` may name."""
FALLBACK = "pyav"
"""Reads all that decodes, and what another reader fails on."""


def choose_reader(index: VideoIndex) -> str:
    """The name of the first reader that is available and may read the file."""
    for name, reader in READERS.items():
        if reader.available() is None and reader.can_read(index):
            return name
    return FALLBACK


def list_readers() -> str:
    """``videohpm data readers``: a line for each, in the order in which they are asked."""
    width = max(map(len, READERS))
    lines = []
    for name, reader in READERS.items():
        missing = reader.available()
        what = f"not here: {missing}" if missing else (reader.__doc__ or "").partition("\n")[0]
        lines.append(f"{name:<{width}}  {what}")
    return "\n".join(lines)
