"""safetensors files written tensor by tensor, so that memory never holds a full model."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

NAMES = {
    torch.float32: "F32",
    torch.float64: "F64",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


class TensorFile:
    """A safetensors file whose contents are announced first and then added in any order.

    Args:
        layout: dtype and shape of each tensor by name.
    """

    def __init__(self, path: Path, layout: Mapping[str, tuple[torch.dtype, torch.Size]]):
        header: dict = {"__metadata__": {"format": "pt"}}
        end = 0
        # Wide types first, so that every tensor is aligned.
        for name, (dtype, shape) in sorted(layout.items(), key=lambda item: -item[1][0].itemsize):
            start, end = end, end + math.prod(shape) * dtype.itemsize
            header[name] = {
                "dtype": NAMES[dtype],
                "shape": list(shape),
                "data_offsets": [start, end],
            }
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        self.missing, self.header = set(layout), header
        self.file = path.open("wb")
        self.file.write(len(text).to_bytes(8, "little") + text)
        self.begin = self.file.tell()

    def add(self, name: str, tensor: Tensor) -> None:
        """Write one of the announced tensors."""
        start, end = self.header[name]["data_offsets"]
        data = tensor.contiguous().view(-1).view(torch.uint8).numpy()
        if data.nbytes != end - start:
            raise ValueError(f"{name}: {data.nbytes} bytes, announced were {end - start}")
        self.file.seek(self.begin + start)
        self.file.write(data.data)
        self.missing.discard(name)

    def close(self) -> None:
        """Finish the file; ValueError where something announced was not added."""
        self.file.close()
        if self.missing:
            raise ValueError(f"{self.file.name}: {sorted(self.missing)[0]} was not written")
