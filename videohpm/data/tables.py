"""CSV files as written here: complete when they appear, and read back as they were."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any


def write_table(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write ``rows`` under ``header``; None is a blank.

    Names of files keep the bytes that they have on disk. Rows with a carriage return are quoted,
    which older releases of Python leave out.
    """
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        plain = csv.writer(file, lineterminator="\n")
        quoted = csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_ALL)
        for row in chain([header], rows):
            odd = any(isinstance(field, str) and "\r" in field for field in row)
            (quoted if odd else plain).writerow(row)
    partial.replace(path)
