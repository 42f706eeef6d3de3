"""Names of classes and files as text that can be drawn."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import matplotlib
from matplotlib.ft2font import FT2Font

from videohpm.errors import printable


def typeface() -> str:
    """The file of the typeface that comes with matplotlib: Latin, Greek, Cyrillic."""
    return str(Path(matplotlib.get_data_path(), "fonts/ttf/DejaVuSans.ttf"))


@lru_cache(maxsize=1)
def _glyphs() -> frozenset[int]:
    return frozenset(FT2Font(typeface()).get_charmap())


def drawable(text: str) -> str:
    r"""``text`` with an escape, such as \u4e2d, for what the typeface lacks."""
    return "".join(
        char if ord(char) in _glyphs() else char.encode("unicode_escape").decode()
        for char in printable(text)
    )
