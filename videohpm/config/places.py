"""Where recipes (``configs/``) and what is known of data sets (``datasets/``) are."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]
SHIPPED = PACKAGE / "shipped"
"""The copy that an installed package has, which setup.py makes when it is built."""
HOME = SHIPPED if SHIPPED.is_dir() else PACKAGE.parent
"""The folder with configs/ and datasets/: the checkout, or that copy."""


def find(path: str | Path) -> Path:
    """``path``, or where there is none the one of that name in :data:`HOME`."""
    elsewhere = HOME / path
    return elsewhere if not Path(path).exists() and elsewhere.exists() else Path(path)
