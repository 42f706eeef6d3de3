"""Manifest files: from their text to checked columns."""

import csv
import difflib
import logging
import os
from pathlib import Path

from videohpm.data.class_labels import LINE
from videohpm.data.readers import READERS
from videohpm.errors import UserError

VIDEO_SUFFIXES = frozenset(
    [".mp4", ".avi", ".mkv", ".webm", ".mov", ".m4v", ".mpg", ".mpeg", ".flv", ".wmv", ".ts"]
    + [".3gp", ".ogv", ".mts", ".m2ts", ".vob"]
)
IMAGE_SUFFIXES = frozenset(
    [".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm"]
)
_COLUMNS = ("path", "label", "frames", "reader", "height", "width")
_log = logging.getLogger(__name__)


def read_columns(file: Path) -> dict[str, list[str]]:
    """The columns of a manifest file as text, also those that reading samples has no use for."""
    return {name: column for name, column in read_rows(file).items() if name != LINE}


def read_rows(file: Path) -> dict[str, list]:
    """The columns of a manifest file as text, and the line of each row under a name of our own.

    Of a CSV file all columns, also those that reading samples has no use for. Raises UserError.
    """
    try:
        lines = file.read_text(encoding="utf-8-sig", errors="surrogateescape").splitlines()
    except OSError as error:
        raise UserError(f"data.manifest: {file} cannot be read ({error.strerror})") from None
    numbered = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not numbered:
        raise UserError(f"data.manifest: {file} is empty")
    header = [field.strip().lower() for field in next(csv.reader([numbered[0][1]]))]
    if "path" in header or ("," in numbered[0][1] and not numbered[0][1].split()[-1].isdigit()):
        return _comma_rows(file, header, numbered)
    return _space_rows(file, numbered)


def _comma_rows(file: Path, header: list[str], numbered: list) -> dict[str, list]:
    if "path" not in header:
        raise UserError(
            f"data.manifest: {file} line {numbered[0][0]}: a comma-separated file starts with a "
            f"header that has a column path; this has {', '.join(header)}"
        )
    for name in header:
        if header.count(name) > 1:
            raise UserError(f"data.manifest: {file}: column {name!r} is there more than once")
        near = difflib.get_close_matches(name, _COLUMNS, 1, cutoff=0.75)
        if near and name not in _COLUMNS:
            raise UserError(f"data.manifest: {file}: column {name!r}; rename it to {near[0]!r}")
    rows: dict[str, list] = {name: [] for name in header} | {LINE: []}
    for number, line in numbered[1:]:
        fields = next(csv.reader([line]))
        if len(fields) != len(header):
            raise UserError(
                f"data.manifest: {file} line {number}: {len(fields)} fields, the header has "
                f"{len(header)} ({', '.join(header)})"
            )
        for name, field in zip(header, fields, strict=True):
            rows[name].append(field.strip())
        rows[LINE].append(number)
    if not rows[LINE]:
        raise UserError(f"data.manifest: {file} has a header and no rows")
    return rows


def _space_rows(file: Path, numbered: list) -> dict[str, list]:
    """``path``, ``path label`` or ``path frames label``; a path may hold spaces itself."""
    first = numbered[0][1].split()
    if len(first) > 2 and first[-2].isdigit():
        names = ("path", "frames", "label")
    elif len(first) == 1 or _has_media_suffix(numbered[0][1]):
        names = ("path",)
    else:
        names = ("path", "label")
    rows: dict[str, list] = {name: [] for name in names} | {LINE: []}
    for number, line in numbered:
        if names == ("path",):
            _refuse_label(file, number, line)
        fields = line.strip().rsplit(maxsplit=len(names) - 1) if len(names) > 1 else [line.strip()]
        if len(fields) != len(names):
            raise UserError(
                f"data.manifest: {file} line {number}: {len(fields)} fields, the first line has "
                f"{len(names)} ({' '.join(names)})"
            )
        for name, field in zip(names, fields, strict=True):
            rows[name].append(field)
        rows[LINE].append(number)
    return rows


def _refuse_label(file: Path, number: int, line: str) -> None:
    """A line with a label in a list whose first line has none: it would be taken for a path."""
    path, *label = line.strip().rsplit(maxsplit=1)
    if label and _has_media_suffix(path) and not _has_media_suffix(line):
        raise UserError(
            f"data.manifest: {file} line {number}: a path and a label ({label[0]}), the first line "
            "has a path only; label all lines or none"
        )


def _has_media_suffix(path: str) -> bool:
    return os.path.splitext(path.strip())[1].lower() in VIDEO_SUFFIXES | IMAGE_SUFFIXES


def check_rows(where: str, base: Path, rows: dict[str, list]) -> None:
    """Reports repeated rows; stops at empty or contradicting ones and where no file is found."""
    first: dict[str, int] = {}
    repeated = []
    labels = rows.get("label")
    for row, path in enumerate(rows["path"]):
        if not path:
            raise UserError(f"{where} line {rows[LINE][row]}: the path is empty")
        before = first.setdefault(path, row)
        if before != row:
            repeated.append(row)
            if labels and labels[before] != labels[row]:
                here, there = (labels[i] or "none" for i in (row, before))
                raise UserError(
                    f"{where} line {rows[LINE][row]}: {path} has label {here} here and {there} on "
                    f"line {rows[LINE][before]}; keep one"
                )
    if repeated:
        _log.warning(
            "%s: %d rows repeat an earlier one (first: line %d, %s); each counts as a sample",
            *(where, len(repeated), rows[LINE][repeated[0]], rows["path"][repeated[0]]),
        )
    # A few files stand for all: asking for every one of a million on a network disk takes minutes.
    some = rows["path"][:: max(1, len(rows["path"]) // 8)][:9]
    if not any((base / path).exists() for path in some):
        raise UserError(
            f"{where}: none of its files is found, such as {base / some[0]}; set root to the "
            f"folder that the paths start from"
        )


def positive_integers(rows: dict[str, list], name: str, where: str) -> list[int] | None:
    if name not in rows:
        return None
    numbers = []
    for line, field in zip(rows[LINE], rows[name], strict=True):
        if field and not (field.isdecimal() and 0 < int(field) < 2**31):
            raise UserError(f"{where} line {line}: {name} {field!r} is not a whole number over 0")
        numbers.append(int(field) if field else 0)
    return numbers


def reader_names(rows: dict[str, list], where: str) -> list[str | None] | None:
    for number, field in zip(rows[LINE], rows.get("reader", ()), strict=False):
        if field and field not in READERS:
            raise UserError(
                f"{where} line {number}: reader {field!r} is not {' or '.join(READERS)}"
            )
    return rows.get("reader")
