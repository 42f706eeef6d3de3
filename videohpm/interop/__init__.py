"""Published checkpoints in, other layouts out, every tensor accounted for."""

from videohpm.config import ReadOptions
from videohpm.interop.convert import READERS, WRITERS, convert, read_weights
from videohpm.interop.core import Weights
from videohpm.interop.export import export
from videohpm.interop.report import ConversionReport

__all__ = [
    "READERS",
    "WRITERS",
    "ReadOptions",
    "ConversionReport",
    "Weights",
    "convert",
    "export",
    "read_weights",
]
