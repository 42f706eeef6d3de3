"""Manifest files: from their text to checked columns."""

import csv
import io
import json
import logging
import os
import re
from pathlib import Path

from videohpm.data.class_labels import LINE
from videohpm.data.frame_folders import is_frame_folder
from videohpm.data.readers import READERS
from videohpm.data.spaced_lines import COLUMNS, SLIPS, cut_lines, has_media_suffix
from videohpm.data.spaced_lines import IMAGE_SUFFIXES as IMAGE_SUFFIXES
from videohpm.data.spaced_lines import VIDEO_SUFFIXES as VIDEO_SUFFIXES
from videohpm.data.tables import plain_field
from videohpm.errors import UserError

MOST_CHARACTERS = 4096
"""No path, number or name of a class is longer."""
FEW_FRAMES = 16
"""Where all videos of a list without a header seem to be shorter, this is reported."""
MOST_LOOKED_AT = 1000
"""So many files of a list are looked for before none counts as found."""
UTF_16 = ("\udcff\udcfe", "\udcfe\udcff")
"""How a file in that encoding begins, read as UTF-8."""
_log = logging.getLogger(__name__)


def read_columns(file: Path) -> dict[str, list[str]]:
    """The columns of a manifest file as text, also those that reading samples has no use for."""
    return {name: column for name, column in read_rows(file).items() if name != LINE}


def read_rows(file: Path) -> dict[str, list]:
    """The columns of a manifest file as text, and the line of each row under a name of our own.

    Of a CSV file all columns, also those that reading samples has no use for. Raises UserError.
    """
    try:
        # Line ends stay: a quoted field may hold them, as names of files do.
        with file.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as opened:
            text = opened.read()
    except OSError as error:
        raise UserError(f"data.manifest: {file} cannot be read ({error.strerror})") from None
    # Not splitlines: U+2028 and the like end no line, and are legal in names of files.
    text = text if "\n" in text else text.replace("\r", "\n")
    lines = text.replace("\r\n", "\n").split("\n")
    numbered = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not numbered:
        raise UserError(f"data.manifest: {file} is empty")
    if file.suffix.lower() == ".jsonl":
        return _json_rows(file, numbered)
    line, first = numbered[0]
    if first.startswith(UTF_16):
        raise UserError(f"data.manifest: {file} is text in UTF-16; save it as UTF-8")
    if first.count("\0") > 1:  # one is that of a row
        raise UserError(f"data.manifest: {file} is no text; a list has a path in each line")
    try:
        header = _named([field.strip().lower() for field in _fields(first)])
    except csv.Error as error:
        raise UserError(f"data.manifest: {file} line {line}: {error}") from None
    if _is_header(header):
        return _comma_rows(file, header, _records(file, text))
    halves = _named([field.strip() for field in first.lower().split(";")])
    if _is_header(halves):  # as spreadsheets write CSV where the comma is in numbers
        return _comma_rows(file, halves, _records(file, text, ";"))
    spaced = _named(first.lower().split())
    if "path" in spaced and set(spaced) <= set(COLUMNS):
        return _headed_rows(file, spaced, numbered[1:], "\t" if "\t" in first else None)
    tabbed = _named([field.strip() for field in first.strip().lower().split("\t")])
    if _is_header(tabbed):
        return _headed_rows(file, tabbed, numbered[1:], "\t")
    if _is_plain_list(first):
        return _listed_rows(file, [(number, fields) for number, fields in _records(file, text)])
    before_tab, tab, _ = first.strip().partition("\t")
    comma = "," in first and not (tab and has_media_suffix(before_tab))
    if comma and not re.split(r"[ \t]+", first.rstrip())[-1].isdigit():
        return _comma_rows(file, header, _records(file, text))
    return _listed_rows(file, cut_lines(file, numbered))


def _named(header: list[str]) -> list[str]:
    """A header with ``path`` for ``file_name``, as Hugging Face's folders call it."""
    if "path" in header:
        return header
    return ["path" if name == "file_name" else name for name in header]


def _is_header(fields: list[str]) -> bool:
    """Whether these are names of columns, and not a file and its class, which may be "path"."""
    return "path" in fields and not any(map(has_media_suffix, fields))


def _json_rows(file: Path, numbered: list[tuple[int, str]]) -> dict[str, list]:
    """Rows of a JSON object a line, as in Hugging Face's metadata.jsonl; a list is of labels."""
    objects = []
    for number, line in numbered:
        try:
            found = json.loads(line)
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise UserError(f"data.manifest: {file} line {number}: this is not a JSON object")
        names = _named([name.strip().lower() for name in found])
        fields = dict(zip(names, found.values(), strict=True))
        labels = fields.get("label")
        for label in labels if isinstance(labels, list) else ():
            if isinstance(label, str) and (";" in label or "|" in label):
                raise UserError(
                    f"data.manifest: {file} line {number}: class {label[:60]!r}: the names of a "
                    "list of labels cannot hold ; or |; rename it"
                )
        objects.append((number, {name: _json_field(value) for name, value in fields.items()}))
    header = dict.fromkeys(name for _, fields in objects for name in fields)
    if "path" not in header:
        raise UserError(f"data.manifest: {file}: no line names a file as path or file_name")
    records = [(number, [fields.get(name, "") for name in header]) for number, fields in objects]
    return _by_column(file, tuple(header), records, "the header")


def _json_field(value: object) -> str:
    """A value as a CSV file would have it."""
    if isinstance(value, list):
        return ";".join(map(_json_field, value)) or "-"
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value)


def _headed_rows(
    file: Path, header: list[str], numbered: list, separator: str | None
) -> dict[str, list]:
    """The rows below a header without commas; ``separator`` None is any number of spaces."""
    records = [
        (number, [field.strip() for field in line.strip(" ").split(separator)])
        for number, line in numbered
    ]
    return _comma_rows(file, header, [(0, header), *records])


def _fields(line: str) -> list[str]:
    """The fields of a first line, which may be of a list whose names hold carriage returns."""
    return next(csv.reader([line.replace("\r", " ")]))


def _records(file: Path, text: str, delimiter: str = ",") -> list[tuple[int, list[str]]]:
    """The rows of a CSV text, each with the number of its first line; blank ones are left out."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    records, before = [], 0
    try:
        for fields in reader:
            if any(field.strip() for field in fields) or len(fields) > 1:
                records.append((before + 1, [field.strip(" \t") for field in fields]))
            before = reader.line_num
    except csv.Error as error:
        raise UserError(f"data.manifest: {file} line {reader.line_num}: {error}") from None
    return records


def _is_plain_list(line: str) -> bool:
    """Whether a line is of the form ``path, label``, in a file without a header."""
    path, *more = _fields(line)
    numbers = all(re.fullmatch(r"-?\d+(\.0*)?", field.strip()) for field in more)
    media = has_media_suffix(path) and not any(has_media_suffix(field) for field in more)
    return bool(more) and bool(path.strip()) and (numbers or media)


def _comma_rows(file: Path, header: list[str], records: list) -> dict[str, list]:
    if "path" not in header:
        raise UserError(
            f"data.manifest: {file} line {records[0][0]}: a comma-separated file starts with a "
            f"header that has a column path; this has {', '.join(header)}"
        )
    for name in header:
        if header.count(name) > 1:
            raise UserError(f"data.manifest: {file}: column {name!r} is there more than once")
        if SLIPS.get(name, name) not in header:
            raise UserError(f"data.manifest: {file}: column {name!r}; rename it to {SLIPS[name]!r}")
    rows = _by_column(file, tuple(header), records[1:], "the header")
    for name in rows.keys() - {LINE}:
        rows[name] = [plain_field(name, field) for field in rows[name]]
    return rows


def _listed_rows(file: Path, records: list) -> dict[str, list]:
    """Rows without a header: ``path``, ``path label`` or ``path frames label``.

    ``path 0 -1`` is a list of whole videos for pre-training, without labels.
    """
    line, (_, *more) = records[0]
    if more == ["0", "-1"]:
        rows = _by_column(file, ("path", *more), records, "the first line")
        if set(rows["0"]) == {"0"} and set(rows["-1"]) == {"-1"}:
            return {"path": rows["path"], LINE: rows[LINE]}
    numbers = sum(re.fullmatch(r"-?\d+", field) is not None for field in more)
    if len(more) > 2 or (len(more) == 2 and (not more[0].isdigit() or more[1].startswith("-"))):
        raise UserError(
            f"data.manifest: {file} line {line}: {len(more)} fields after the path, {numbers} of "
            "them numbers; a list holds path, path label or path frames label: keep one label, or "
            "name the columns in a header (path,label,frames)"
        )
    names = {0: ("path",), 1: ("path", "label"), 2: ("path", "frames", "label")}[len(more)]
    rows = _by_column(file, names, records, "the first line")
    counts = [int(field) for field in rows.get("frames", ()) if field.isdecimal()]
    if counts and max(counts) < FEW_FRAMES:
        _log.warning(
            "data.manifest: %s: the column after the path is taken for the number of frames (no "
            "more than %d); if it is a label, write a header: path,label",
            *(file, max(counts)),
        )
    return rows


def _by_column(file: Path, names: tuple[str, ...], records: list, model: str) -> dict[str, list]:
    rows: dict[str, list] = {name: [] for name in names} | {LINE: []}
    for number, fields in records:
        if len(fields) != len(names):
            separator = ", " if model == "the header" else " "
            raise UserError(
                f"data.manifest: {file} line {number}: {len(fields)} fields, {model} has "
                f"{len(names)} ({separator.join(names)})"
            )
        for name, field in zip(names, fields, strict=True):
            if name in COLUMNS and (len(field) > MOST_CHARACTERS or "\0" in field):
                what = "a NUL character" if "\0" in field else f"{len(field)} characters"
                raise UserError(
                    f"data.manifest: {file} line {number}: {name} has {what}; correct or remove "
                    "this row"
                )
            rows[name].append(field)
        rows[LINE].append(number)
    if not rows[LINE]:
        raise UserError(f"data.manifest: {file} has a header and no rows")
    return rows


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
                    f"line {rows[LINE][before]}; keep one (several classes: one row of A;B, with "
                    "task multi_label)"
                )
    if repeated:
        _log.warning(
            "%s: %d rows repeat an earlier one (first: line %d, %s); each counts as a sample",
            *(where, len(repeated), rows[LINE][repeated[0]], rows["path"][repeated[0]]),
        )
    # A few files stand for all: asking for every one of a million on a network disk takes minutes.
    some = rows["path"][:: max(1, len(rows["path"]) // 8)][:9]
    for path in some:
        if os.path.isdir(base / path) and not is_frame_folder(base / path):
            raise UserError(
                f"{where}: {path} is a folder without pictures; list videos, or folders that hold "
                "the frames of one video each"
            )
    if not any(os.path.exists(base / path) for path in some):
        _look_further(where, base, rows["path"])


def _look_further(where: str, base: Path, paths: list[str]) -> None:
    """UserError where none of many files is there: a few that are missing say little of a list."""
    some = paths[:: -(-len(paths) // MOST_LOOKED_AT)]
    if not any(os.path.exists(base / path) for path in some):
        which = "its files" if len(some) == len(paths) else f"{len(some)} of its {len(paths)} files"
        raise UserError(
            f"{where}: none of {which} is found, such as {base / some[0]}; set root to the folder "
            "that the paths start from"
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
