"""Which samples there are: from a folder or a manifest file to a compact table.

A Manifest keeps its columns in NumPy arrays and its paths in one byte string: the workers share
that memory, where a list of a million Python strings would be copied into each of them page by
page as reference counts are touched.
"""

import csv
import difflib
import logging
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from videohpm.errors import UserError

VIDEO_SUFFIXES = frozenset(
    [".mp4", ".avi", ".mkv", ".webm", ".mov", ".m4v", ".mpg", ".mpeg", ".flv", ".wmv", ".ts"]
    + [".3gp", ".ogv", ".mts", ".m2ts", ".vob"]
)
IMAGE_SUFFIXES = frozenset(
    [".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm"]
)
KINDS = ("auto", "video", "image")
_READERS = (None, "decord", "pyav")
_COLUMNS = ("path", "label", "frames", "reader", "height", "width")
_LINE = "\0line"  # the line numbers of the rows, beside the columns: no header has this name
_log = logging.getLogger(__name__)


_TABLE = ("_starts", "_ends", "_labels", "_frames", "_readers", "_heights", "_widths")


@dataclass(frozen=True)
class Sample:
    """One file. ``label`` is a class number, ``size`` (height, width) as displayed.

    None is unlabelled, uncounted, not yet decided, unknown.
    """

    path: str
    label: int | None = None
    frames: int | None = None
    reader: str | None = None
    size: tuple[int, int] | None = None


class Manifest:
    """A table of samples: ``len(manifest)``, ``manifest[i]``, ``.classes``, ``.kind``, ``.base``.

    ``classes`` are the labels' names in order (None where they have none or there are no labels),
    ``kind`` is "video" or "image", relative paths belong to the folder ``base``.
    """

    def __init__(
        self,
        paths: Sequence[str],
        *,
        base: str | os.PathLike = "",
        labels: Sequence[int | None] | None = None,
        frames: Sequence[int | None] | None = None,
        readers: Sequence[str | None] | None = None,
        heights: Sequence[int | None] | None = None,
        widths: Sequence[int | None] | None = None,
        classes: list[str] | None = None,
        kind: str = "video",
    ):
        encoded = [os.fsencode(path) for path in paths]
        ends = np.cumsum([len(path) for path in encoded], dtype=np.int64)
        self._text = np.frombuffer(b"".join(encoded), dtype=np.uint8)
        self._starts = ends - np.array([len(path) for path in encoded], dtype=np.int64)
        self._ends = ends
        self._labels = _column(labels, len(encoded), -1, np.int32)
        self._frames = _column(frames, len(encoded), 0, np.int32)
        codes = [_READERS.index(reader or None) for reader in readers] if readers else None
        self._readers = _column(codes, len(encoded), 0, np.int8)
        self._heights = _column(heights, len(encoded), 0, np.int32)
        self._widths = _column(widths, len(encoded), 0, np.int32)
        self.base, self.classes, self.kind = os.fspath(base), classes, kind

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, index: int) -> Sample:
        label, frames = int(self._labels[index]), int(self._frames[index])
        size = int(self._heights[index]), int(self._widths[index])
        return Sample(
            path=os.path.join(self.base, self.name(index)),
            label=label if label >= 0 else None,
            frames=frames if frames > 0 else None,
            reader=_READERS[self._readers[index]],
            size=size if min(size) > 0 else None,
        )

    def name(self, index: int) -> str:
        """The path as the manifest has it, relative to ``base`` where it was relative."""
        if not -len(self) <= index < len(self):  # an int loop over a Manifest ends here
            raise IndexError(f"sample {index} of {len(self)}")
        return os.fsdecode(self._text[self._starts[index] : self._ends[index]].tobytes())

    @property
    def labels(self) -> np.ndarray:
        """(len,) int32, -1 where there is none."""
        return self._labels

    def subset(self, indices: Iterable[int] | np.ndarray) -> "Manifest":
        """The rows ``indices`` (or where a bool array is True), sharing this table's text."""
        rows = np.asarray(indices if isinstance(indices, np.ndarray) else list(indices))
        if rows.dtype != bool:
            rows = rows.astype(np.int64)
        part = object.__new__(Manifest)
        part.__dict__.update(self.__dict__)
        for name in _TABLE:
            setattr(part, name, getattr(self, name)[rows])
        return part


def find_samples(
    root: str | os.PathLike | None,
    manifest: str | os.PathLike | None = None,
    *,
    labels: bool = False,
    kind: str = "auto",
    classes: list[str] | None = None,
) -> Manifest:
    """The samples under the folder ``root``, or those that a manifest file lists.

    Without ``manifest``, ``root`` is searched recursively, in a fixed order; with ``labels`` its
    first-level folders are the classes. ``root`` may itself be a manifest file.

    A manifest is a CSV file with a header (``path`` and optionally ``label``, ``frames``,
    ``reader``, ``height``, ``width``; other columns are left alone), or lines of ``path label`` or
    ``path frames label`` separated by spaces (``path`` alone without labels). Relative paths belong
    to ``root``, or else to the manifest's folder. Labels are numbers from 0, or names; with
    ``classes`` (names in order) both are checked against it.

    ``kind`` is the sort of file, by the suffix where "auto". Raises UserError.
    """
    if kind not in KINDS:
        raise UserError(f"data.kind: {kind!r} is not one of {', '.join(KINDS)}")
    if root is None and manifest is None:
        raise UserError("data.root: neither a folder nor a manifest is given; set one of them")
    if root is not None and manifest is None and Path(root).is_file():
        root, manifest = None, root
    if root is not None and not Path(root).is_dir():
        raise UserError(f"data.root: {root} is not a folder; check the path")
    if manifest is None:
        return _from_folder(Path(root), labels, kind, classes)
    if not Path(manifest).is_file():
        raise UserError(f"data.manifest: {manifest} does not exist; check the path")
    base = Path(root) if root is not None else Path(manifest).parent
    return _from_file(Path(manifest), base, labels, kind, classes)


# --- folders -------------------------------------------------------------------------------------


def _from_folder(root: Path, labels: bool, kind: str, classes: list[str] | None) -> Manifest:
    suffixes = {"video": VIDEO_SUFFIXES, "image": IMAGE_SUFFIXES}.get(
        kind, VIDEO_SUFFIXES | IMAGE_SUFFIXES
    )
    paths = [path for path in walk(root) if os.path.splitext(path)[1].lower() in suffixes]
    if not paths:
        what = "videos or images" if kind == "auto" else f"{kind}s"
        raise UserError(f"data.root: no {what} under {root} (told by suffix, as .mp4 or .jpg)")
    kind = _kind_of(paths, kind, f"data.root: {root}")
    if not labels:
        return Manifest(paths, base=root, kind=kind)
    for path in paths:
        if os.sep not in path:
            raise UserError(f"data.root: {path} lies in {root}; labels need a folder per class")
    names = [path.split(os.sep, 1)[0] for path in paths]
    numbers, classes = _number_names(names, classes, f"data.root: {root}")
    return Manifest(paths, base=root, labels=numbers, classes=classes, kind=kind)


def walk(root: Path) -> Iterable[str]:
    """Files below ``root`` in sorted order, relative; links are followed, each folder once."""
    seen = set()
    for folder, below, files in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            below.clear()
            continue
        seen.add(real)
        below[:] = sorted(name for name in below if not name.startswith("."))
        for name in sorted(files):
            if not name.startswith("."):
                yield os.path.relpath(os.path.join(folder, name), root)


def _kind_of(paths: Sequence[str], kind: str, where: str) -> str:
    if kind != "auto":
        return kind
    images = sum(os.path.splitext(path)[1].lower() in IMAGE_SUFFIXES for path in paths)
    if 0 < images < len(paths):
        raise UserError(f"{where} holds images and videos; choose with kind: video or kind: image")
    return "image" if images else "video"


# --- manifest files ------------------------------------------------------------------------------


def _from_file(
    file: Path, base: Path, labels: bool, kind: str, classes: list[str] | None
) -> Manifest:
    rows = read_rows(file)
    if labels and "label" not in rows:
        raise UserError(f"data.manifest: {file} has no labels; add a column named label")
    paths, where = rows["path"], f"data.manifest: {file}"
    _check_rows(where, base, rows)
    numbers = None
    if labels:
        numbers, classes = _number_labels(rows, classes, where)
    return Manifest(
        paths,
        base=base,
        labels=numbers,
        frames=_whole_numbers(rows, "frames", where),
        readers=_reader_names(rows, where),
        heights=_whole_numbers(rows, "height", where),
        widths=_whole_numbers(rows, "width", where),
        classes=classes if labels else None,
        kind=_kind_of(paths, kind, where),
    )


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
    rows: dict[str, list] = {name: [] for name in header} | {_LINE: []}
    for number, line in numbered[1:]:
        fields = next(csv.reader([line]))
        if len(fields) != len(header):
            raise UserError(
                f"data.manifest: {file} line {number}: {len(fields)} fields, the header has "
                f"{len(header)} ({', '.join(header)})"
            )
        for name, field in zip(header, fields, strict=True):
            rows[name].append(field.strip())
        rows[_LINE].append(number)
    if not rows[_LINE]:
        raise UserError(f"data.manifest: {file} has a header and no rows")
    return rows


def _space_rows(file: Path, numbered: list) -> dict[str, list]:
    """``path``, ``path label`` or ``path frames label``; a path may hold spaces itself."""
    first = numbered[0][1].split()
    if len(first) > 2 and first[-2].isdigit():
        names = ("path", "frames", "label")
    elif len(first) == 1 or os.path.splitext(numbered[0][1].strip())[1].lower() in (
        VIDEO_SUFFIXES | IMAGE_SUFFIXES
    ):
        names = ("path",)
    else:
        names = ("path", "label")
    rows: dict[str, list] = {name: [] for name in names} | {_LINE: []}
    for number, line in numbered:
        fields = line.strip().rsplit(maxsplit=len(names) - 1) if len(names) > 1 else [line.strip()]
        if len(fields) != len(names):
            raise UserError(
                f"data.manifest: {file} line {number}: {len(fields)} fields, the first line has "
                f"{len(names)} ({' '.join(names)})"
            )
        for name, field in zip(names, fields, strict=True):
            rows[name].append(field)
        rows[_LINE].append(number)
    return rows


def _check_rows(where: str, base: Path, rows: dict[str, list]) -> None:
    """Reports repeated rows; stops at empty or contradicting ones and where no file is found."""
    first: dict[str, int] = {}
    repeated = []
    labels = rows.get("label")
    for row, path in enumerate(rows["path"]):
        if not path:
            raise UserError(f"{where} line {rows[_LINE][row]}: the path is empty")
        before = first.setdefault(path, row)
        if before != row:
            repeated.append(row)
            if labels and labels[before] != labels[row]:
                raise UserError(
                    f"{where} line {rows[_LINE][row]}: {path} has label {labels[row]} here and "
                    f"{labels[before]} on line {rows[_LINE][before]}; keep one"
                )
    if repeated:
        _log.warning(
            "%s: %d rows repeat an earlier one (first: line %d, %s); each counts as a sample",
            *(where, len(repeated), rows[_LINE][repeated[0]], rows["path"][repeated[0]]),
        )
    # A few files stand for all: asking for every one of a million on a network disk takes minutes.
    some = rows["path"][:: max(1, len(rows["path"]) // 8)][:9]
    if not any((base / path).exists() for path in some):
        raise UserError(
            f"{where}: none of its files is found, such as {base / some[0]}; set root to the "
            f"folder that the paths start from"
        )


def _whole_numbers(rows: dict[str, list], name: str, where: str) -> list[int] | None:
    if name not in rows:
        return None
    numbers = []
    for line, field in zip(rows[_LINE], rows[name], strict=True):
        if field and not (field.isdecimal() and 0 < int(field) < 2**31):
            raise UserError(f"{where} line {line}: {name} {field!r} is not a whole number over 0")
        numbers.append(int(field) if field else 0)
    return numbers


def _reader_names(rows: dict[str, list], where: str) -> list[str | None] | None:
    for number, field in zip(rows[_LINE], rows.get("reader", ()), strict=False):
        if (field or None) not in _READERS:
            raise UserError(f"{where} line {number}: reader {field!r} is not decord or pyav")
    return rows.get("reader")


def _number_labels(
    rows: dict[str, list], classes: list[str] | None, where: str
) -> tuple[list[int], list[str] | None]:
    fields = rows["label"]
    for number, field in zip(rows[_LINE], fields, strict=True):
        if not field:
            raise UserError(f"{where} line {number}: the label is empty")
    if not all(field.isdecimal() for field in fields):
        odd = next(i for i, field in enumerate(fields) if not field.isdecimal())
        if classes is None and sum(field.isdecimal() for field in fields) * 2 > len(fields):
            raise UserError(
                f"{where} line {rows[_LINE][odd]}: label {fields[odd]!r} is not a whole number "
                f"from 0, as most others are"
            )
        return _number_names(fields, classes, where, rows[_LINE])
    numbers = [int(field) for field in fields]
    limit = len(classes) if classes is not None else 2**31
    for line, number in zip(rows[_LINE], numbers, strict=True):
        if number >= limit:
            raise UserError(f"{where} line {line}: label {number} of {limit} classes (from 0)")
    return numbers, classes


def _number_names(
    names: list[str], classes: list[str] | None, where: str, lines: list[int] | None = None
) -> tuple[list[int], list[str]]:
    classes = sorted(set(names)) if classes is None else list(classes)
    number = {name: i for i, name in enumerate(classes)}
    for row, name in enumerate(names):
        if name not in number:
            at = f" line {lines[row]}" if lines else ""
            raise UserError(f"{where}{at}: class {name!r} is not among the {len(classes)} known")
    return [number[name] for name in names], classes


def _column(values: Sequence | None, length: int, missing: int, dtype) -> np.ndarray:
    if values is None:
        return np.full(length, missing, dtype)
    if len(values) != length:
        raise ValueError(f"a column of {len(values)} values for {length} paths")
    return np.array([missing if value is None else value for value in values], dtype)
