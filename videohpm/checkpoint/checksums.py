"""Checksums of tensors, kept in the header of their safetensors file: a flipped bit is noticed.

One for each tensor, of its name, type, shape and bytes. They stand in the header's metadata in
alphabetical order of the names, so a file vouches for itself wherever it is copied, and whatever
reads safetensors reads it. Files without them, of earlier versions and of other systems, load too.

The bytes are taken as 64-bit words in rows of :data:`COLUMNS`; the checksum is the CRC-32 of the
sums of the columns, and of what does not fill a row. That takes a third to a fifth of the time of a
CRC-32 of everything. Any one flipped bit or changed word changes the sum of its column. What is
exchanged keeps its columns only where it is whole rows apart: the length of a row is prime, so that
pages of a disk are not.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from videohpm.errors import DamagedError

FIELD = "tensor_checksums"
COLUMNS = 1021
EMPTY = "0" * 8
"""Takes as much room in a header as a checksum."""


def checksum(name: str, tensor: Tensor) -> str:
    """Of a tensor on the CPU and of what it is called: 8 hexadecimal digits."""
    begin = zlib.crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
    data = as_bytes(tensor)
    rows = data.nbytes // (8 * COLUMNS)
    words = np.frombuffer(data, "<i8", rows * COLUMNS).reshape(rows, COLUMNS)
    sums = words.sum(axis=0, dtype="<i8").tobytes()  # they wrap around
    return f"{zlib.crc32(data[8 * words.size :], zlib.crc32(sums, begin)):08x}"


def metadata(checksums: Mapping[str, str]) -> dict[str, str]:
    """The metadata of a safetensors file with these checksums, by name of the tensor."""
    return {"format": "pt", FIELD: " ".join(checksums[name] for name in sorted(checksums))}


def as_bytes(tensor: Tensor) -> memoryview:
    """The contents of a tensor on the CPU, row by row."""
    return tensor.detach().contiguous().view(-1).view(torch.uint8).numpy().data


def is_finite(tensor: Tensor) -> bool:
    """Whether a tensor holds neither NaN nor infinity: many times faster than ``isfinite``."""
    if not tensor.is_floating_point() or not tensor.numel():
        return True
    low, high = torch.aminmax(tensor)
    return bool(torch.isfinite(low) and torch.isfinite(high))


class TensorReader:
    """A safetensors file of weights, each compared with its checksum when it is read.

    Raises DamagedError, naming file and tensor, where it is not as it was written, and for values
    that are not finite.
    """

    def __init__(self, path: Path):
        self.path = path
        try:
            self.file = safe_open(path, "pt")
            self.names = sorted(self.file.keys())
            kept = (self.file.metadata() or {}).get(FIELD)
        except (OSError, SafetensorError, ValueError) as error:
            raise self._unreadable(error) from None
        try:
            written = () if kept is None else zip(self.names, kept.split(), strict=True)
            self.checksums = dict(written)
        except ValueError:
            raise DamagedError(f"{path}: damaged (not a checksum for each tensor)") from None

    def shapes(self) -> dict[str, torch.Size]:
        """The shape of each tensor, as the header has it: nothing else is read."""
        return {name: torch.Size(self.file.get_slice(name).get_shape()) for name in self.names}

    def get(self, name: str) -> Tensor:
        """One of the tensors."""
        try:
            tensor = self.file.get_tensor(name)
        except (OSError, SafetensorError, ValueError, RuntimeError) as error:
            raise self._unreadable(error) from None
        if self.checksums and self.checksums[name] != checksum(name, tensor):
            raise DamagedError(f"{self.path}: damaged ({name} is not what was written)")
        if not is_finite(tensor):
            raise DamagedError(f"{self.path}: not every value of {name} is finite")
        return tensor

    def _unreadable(self, error: Exception) -> DamagedError:
        return DamagedError(f"{self.path}: cannot be read ({' '.join(str(error).split())})")


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a file of weights. Raises as :class:`TensorReader`."""
    reader = TensorReader(path)
    return {name: reader.get(name) for name in reader.names}
