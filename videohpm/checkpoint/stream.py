"""safetensors files written tensor by tensor, so that memory never holds a full model."""

from __future__ import annotations

import json
import math
import os
from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

from videohpm.checkpoint import checksums

NAMES = {
    torch.float32: "F32",
    torch.float64: "F64",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


MOST_WAITING = 1 << 29
"""Bytes of tensors that are kept in memory, beyond the last one, until their checksum is known."""


class TensorFile:
    """A safetensors file whose contents are announced first and then added in any order.

    Checksums are computed in a thread of their own, while the disk is written to and waited for, so
    that they cost next to no time. Whatever is added must not change until the file is closed.

    Args:
        layout: dtype and shape of each tensor by name.
    """

    def __init__(self, path: Path, layout: Mapping[str, tuple[torch.dtype, torch.Size]]):
        self.layout = layout
        self.checksums = dict.fromkeys(layout, checksums.EMPTY)
        self.missing, self.header = set(layout), self._header()
        self.file = path.open("wb")
        self.file.write(self._head())
        self.begin = self.file.tell()
        self.thread = ThreadPoolExecutor(1, "checksums")
        self.waiting: deque[tuple[str, Future[str], int]] = deque()
        self.held = 0

    def add(self, name: str, tensor: Tensor) -> None:
        """Write one of the announced tensors."""
        start, end = self.header[name]["data_offsets"]
        data = checksums.as_bytes(tensor)
        if data.nbytes != end - start:
            raise ValueError(f"{name}: {data.nbytes} bytes, announced were {end - start}")
        known = self.thread.submit(checksums.checksum, name, tensor)
        self.waiting.append((name, known, data.nbytes))
        self.held += data.nbytes
        self.file.seek(self.begin + start)
        self.file.write(data)
        self.missing.discard(name)
        while self.held - self.waiting[-1][2] > MOST_WAITING:
            self._take_checksum()

    def close(self) -> None:
        """Finish the file; ValueError where something announced was not added."""
        self.file.flush()
        os.fsync(self.file.fileno())  # meanwhile the thread computes
        while self.waiting:
            self._take_checksum()
        self.thread.shutdown()
        self.file.seek(0)
        self.file.write(self._head())
        self.file.close()
        if self.missing:
            raise ValueError(f"{self.file.name}: {sorted(self.missing)[0]} was not written")

    def abandon(self) -> None:
        """Leave the file as it is. Raises OSError for what is left in its buffer."""
        self.thread.shutdown(cancel_futures=True)
        self.file.close()

    def _take_checksum(self) -> None:
        name, known, size = self.waiting.popleft()
        self.held -= size
        self.checksums[name] = known.result()

    def _header(self) -> dict[str, dict]:
        """Type, shape and place of each tensor. Wide types first, so that all are aligned."""
        header, end = {}, 0
        for name, (dtype, shape) in sorted(
            self.layout.items(), key=lambda item: -item[1][0].itemsize
        ):
            start, end = end, end + math.prod(shape) * dtype.itemsize
            header[name] = {
                "dtype": NAMES[dtype],
                "shape": list(shape),
                "data_offsets": [start, end],
            }
        return header

    def _head(self) -> bytes:
        """What precedes the tensors: as long with checksums as before they are known."""
        header = {"__metadata__": checksums.metadata(self.checksums)} | self.header
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        return len(text).to_bytes(8, "little") + text
