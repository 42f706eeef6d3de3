"""CSV files as written here: complete when they appear, and read back as they were.

Spreadsheets compute what begins like a formula, and names of files may come from anywhere. So a
path that would is written ``./=name``, which is the same file, and any other text gets an
apostrophe before it; :func:`plain_field` takes both off again. Numbers stay as they are.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from videohpm.writing import complete

FORMULA = re.compile(r"'*[=+\-@\t\r]")
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE)


def write_table(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write ``rows`` under ``header``; None is a blank.

    Names of files keep the bytes that they have on disk. Rows with a carriage return are quoted,
    which older releases of Python leave out.
    """
    with (
        complete(path) as partial,
        partial.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file,
    ):
        plain = csv.writer(file, lineterminator="\n")
        quoted = csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_ALL)
        for row in chain([header], rows):
            odd = any(isinstance(field, str) and "\r" in field for field in row)
            fields = [_inert(name, field) for name, field in zip(header, row, strict=True)]
            (quoted if odd else plain).writerow(fields)


def plain_field(column: str, field: str) -> str:
    """A field as it was before :func:`write_table` made a text of what looks like a formula.

    >>> plain_field("class", "'=1+1"), plain_field("class", "'tis"), plain_field("path", "./-1.mp4")
    ('=1+1', "'tis", '-1.mp4')
    """
    mark = "./" if column == "path" else "'"
    rest = field.removeprefix(mark)
    return rest if FORMULA.match(rest) else field


def _inert(column: str, field: Any) -> Any:
    if not isinstance(field, str) or not FORMULA.match(field) or NUMBER.fullmatch(field):
        return field
    if column == "path":
        return field if field.startswith("'") else f"./{field}"
    return f"'{field}"
