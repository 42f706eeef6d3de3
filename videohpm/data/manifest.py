"""Which samples there are: from a folder or a manifest file to a compact table.

A Manifest keeps its columns in NumPy arrays and its paths in one byte string: the workers share
that memory, where a list of a million Python strings would be copied into each of them page by
page as reference counts are touched.
"""

import logging
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from videohpm.config.data import KINDS
from videohpm.config.tasks import CLASSIFY, MULTI_LABEL, REGRESS
from videohpm.data.class_labels import (
    number_labels,
    number_names,
    number_only,
    report_unlabelled,
)
from videohpm.data.label_sets import number_sets, numbers_of
from videohpm.data.manifest_parser import (
    check_rows,
    positive_integers,
    read_rows,
    reader_names,
)
from videohpm.data.readers import READERS
from videohpm.data.sample_files import ANY, files_in, kind_of, of_kind
from videohpm.data.spaced_lines import has_media_suffix
from videohpm.errors import UserError

Labels = bool | Literal["optional"]
METADATA = ("metadata.csv", "metadata.jsonl")
"""What Hugging Face's videofolder calls the list of a folder."""
_READERS = (None, *READERS)
_log = logging.getLogger(__name__)
_TABLE = ("_starts", "_ends", "_labels", "_frames", "_readers", "_heights", "_widths",
          "_set_starts", "_set_ends", "_values")  # fmt: skip


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

    Beside one class a sample (``labels``) it may have several (``label_sets``) or one number
    (``values``).

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
        sets: Sequence[Sequence[int]] | None = None,
        values: Sequence[float] | None = None,
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
        # Of a million samples these are memory, too: they are there only where they are used.
        self._sets = self._set_starts = self._set_ends = self._values = None
        if sets is not None:
            self._sets = np.array([label for each in sets for label in each], dtype=np.int32)
            counts = _column([len(each) for each in sets], len(encoded), 0, np.int64)
            self._set_ends = np.cumsum(counts)
            self._set_starts = self._set_ends - counts
        if values is not None:
            self._values = _column(values, len(encoded), np.nan, np.float64)

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
        """The path as in the manifest file, relative to ``base`` where it was relative."""
        if not -len(self) <= index < len(self):  # iterating over a Manifest ends here
            raise IndexError(f"sample {index} of {len(self)}")
        return os.fsdecode(self._text[self._starts[index] : self._ends[index]].tobytes())

    @property
    def labels(self) -> np.ndarray:
        """(len,) int32, -1 where there is none."""
        return self._labels

    @property
    def largest(self) -> int:
        """The largest class number of any sample, of one class or of several; -1 without any."""
        several = -1 if self._sets is None else int(self._sets.max(initial=-1))
        return max(several, int(self._labels.max(initial=-1)))

    @property
    def values(self) -> np.ndarray:
        """(len,) float64: the number of each sample, nan where there is none."""
        return np.full(len(self), np.nan) if self._values is None else self._values

    def label_sets(self, rows: np.ndarray, classes: int) -> np.ndarray:
        """(len(rows), classes) bool: which classes each of these samples has."""
        found = np.zeros((len(rows), classes), dtype=bool)
        if self._sets is None or self._set_starts is None or self._set_ends is None:
            return found
        for place, row in enumerate(rows.tolist()):
            found[place, self._sets[self._set_starts[row] : self._set_ends[row]]] = True
        return found

    def renumbered(self, classes: list[str]) -> "Manifest":
        """The same samples, their labels numbered as in ``classes``: all the names, in any order.

        Without class names: KeyError, as for a name that is not there.
        """
        if self.classes is None:
            raise KeyError("the labels of this manifest have no names")
        position = {name: i for i, name in enumerate(classes)}
        numbers = np.array([position[name] for name in self.classes] + [-1], np.int32)
        table = self.subset(np.arange(len(self)))
        table._labels, table.classes = numbers[self._labels], list(classes)  # -1: the last
        if self._sets is not None:
            table._sets = numbers[self._sets]
        return table

    def share(self, reader: str | None) -> float:
        """Share of the samples that are to be read by ``reader``; None: not known yet."""
        return float((self._readers == _READERS.index(reader)).mean())

    def read_by(self, reader: str) -> "Manifest":
        """The same samples, all to be read by ``reader``."""
        table = self.subset(np.arange(len(self)))
        table._readers = np.full(len(self), _READERS.index(reader), np.int8)
        return table

    def subset(self, indices: Iterable[int] | np.ndarray) -> "Manifest":
        """The rows ``indices`` (or where a bool array is True), sharing this table's text."""
        rows = np.asarray(indices if isinstance(indices, np.ndarray) else list(indices))
        if rows.dtype != bool:
            rows = rows.astype(np.int64)
        part = object.__new__(Manifest)
        part.__dict__.update(self.__dict__)
        for name in _TABLE:
            column = getattr(self, name)
            setattr(part, name, None if column is None else column[rows])
        return part


def find_samples(
    root: str | os.PathLike | None,
    manifest: str | os.PathLike | None = None,
    *,
    labels: Labels = False,
    kind: str = "auto",
    classes: list[str] | None = None,
    numbered: bool = False,
    task: str = CLASSIFY,
) -> Manifest:
    """The samples under the folder ``root``, or those that a manifest file lists.

    Without ``manifest``, ``root`` is searched recursively, in a fixed order; with ``labels`` its
    first-level folders are the classes. ``root`` may itself be a manifest file.

    ``labels`` is True where every sample needs one, "optional" where samples without one (an empty
    field, -1) stay unlabelled (a warning counts them), False where labels are not read.

    A manifest is a file with a header (``path`` and optionally ``label``, ``frames``, ``reader``,
    ``height``, ``width``, in any order, between commas, semicolons or tabs; other columns are left
    alone), or lines of ``path label`` or ``path frames label`` separated by spaces (``path`` alone
    without labels). A file ``.jsonl`` holds an object with these names a line. Relative paths
    belong to ``root``, or else to the manifest's folder. A folder's metadata.csv or metadata.jsonl
    with a column ``label`` (Hugging Face's videofolder) goes before its folders as classes.

    Labels are numbers from 0, or names. With ``classes`` (names in order, of a model or of the
    training data) names are looked up there, and numbers are positions there, unless names of
    classes are numbers: then numbers are names too. ``numbered`` is for classes known by number
    only: class folders and labels must be those numbers. Which numbers there are is then for the
    caller to check.

    ``task`` says what a label is: a class; with multi_label several (``a;b``), with regress one
    number; these need a list of all labels.

    ``kind`` is the sort of file, by the suffix where "auto"; files of both sorts are refused there,
    and kept where it is "any", for those who look at each file. With "frames" each folder that
    holds pictures is a video; a manifest may list such folders without. Raises UserError.
    """
    if kind not in (*KINDS, ANY):
        raise UserError(f"data.kind: {kind!r} is not one of {', '.join(KINDS)}")
    folder = Path(root) if root is not None else None
    file = Path(manifest) if manifest is not None else None
    if file is None and folder is not None and folder.is_file():
        folder, file = None, folder
    if folder is not None and not folder.is_dir():
        raise UserError(f"data.root: {folder} is not a folder; check the path")
    if file is not None:
        _check_is_list(file, "data.root" if manifest is None else "data.manifest")
        return _from_file(file, folder or file.parent, labels, kind, classes, numbered, task)
    lists = [folder / name for name in METADATA] if folder is not None and labels else []
    listed = next(filter(_has_labels, lists), None)
    if folder is not None and listed is not None:
        _log.warning("data.root: labels are those of %s, not the folders", listed)
        return _from_file(listed, folder, labels, kind, classes, numbered, task)
    if folder is None:
        raise UserError("data.root: neither a folder nor a manifest is given; set one of them")
    if task != CLASSIFY and labels:
        raise UserError(f"data.root: {folder}: task {task} needs a list with a column label")
    return _from_folder(folder, labels, kind, classes, numbered)


def _check_is_list(file: Path, field: str) -> None:
    """UserError where ``field`` names what can be no list."""
    if file.is_dir():
        raise UserError(f"{field}: {file} is a folder; give it as data.root")
    if has_media_suffix(file.name):
        raise UserError(f"{field}: {file} is no list; give a folder of videos, or a list")
    if not file.is_file():
        raise UserError(f"{field}: {file} does not exist; check the path")


# --- folders -------------------------------------------------------------------------------------


def _from_folder(
    root: Path, labels: Labels, kind: str, classes: list[str] | None, numbered: bool
) -> Manifest:
    paths = list(files_in(root, kind))
    kind = kind_of(paths, kind, f"data.root: {root}")
    inside = [path for path in paths if os.sep in path]
    if not labels or (labels == "optional" and not inside):
        return Manifest(paths, base=root, kind=kind)
    if len(inside) < len(paths):
        stray = next(path for path in paths if os.sep not in path)
        if labels != "optional":
            raise UserError(f"data.root: {stray} lies in {root}; labels need a folder per class")
        _log.warning(
            "data.root: %d of %d files lie in %s itself (first: %s); they count as unlabelled",
            *(len(paths) - len(inside), len(paths), root, stray),
        )
    names = [path.split(os.sep, 1)[0] for path in inside]
    if numbered:
        numbers, classes = number_only(names, f"data.root: {root}"), None
    else:
        numbers, classes = number_names(names, classes, f"data.root: {root}")
    ordered = iter(numbers)
    found = [next(ordered) if os.sep in path else None for path in paths]
    return Manifest(paths, base=root, labels=found, classes=classes, kind=kind)


# --- manifest files ------------------------------------------------------------------------------


def _from_file(
    file: Path,
    base: Path,
    labels: Labels,
    kind: str,
    classes: list[str] | None,
    numbered: bool,
    task: str,
) -> Manifest:
    where = f"data.manifest: {file}"
    rows = of_kind(read_rows(file), kind, where)
    if labels is True and "label" not in rows:
        raise UserError(
            f"data.manifest: {file} has no labels (its first path is {rows['path'][0][:80]!r}); "
            "add a column named label, or a label behind each path after a space, tab or comma"
        )
    paths = rows["path"]
    check_rows(where, base, rows)
    numbers = sets = values = None
    if labels and "label" in rows and task == MULTI_LABEL:
        sets, classes = number_sets(rows, classes, where, numbered=numbered)
    elif labels and "label" in rows and task == REGRESS:
        values, classes = numbers_of(rows, where), None
    elif labels and "label" in rows:
        numbers, classes = number_labels(
            rows, classes, where, required=labels is True, numbered=numbered
        )
    else:
        report_unlabelled(rows, where)
    return Manifest(
        paths,
        base=base,
        labels=numbers,
        frames=positive_integers(rows, "frames", where),
        readers=reader_names(rows, where),
        heights=positive_integers(rows, "height", where),
        widths=positive_integers(rows, "width", where),
        classes=classes if numbers is not None or sets is not None else None,
        kind=kind_of(paths, kind, where),
        sets=sets,
        values=values,
    )


def _column(values: Sequence | None, length: int, missing: float, dtype) -> np.ndarray:
    if values is None:
        return np.full(length, missing, dtype)
    if len(values) != length:
        raise ValueError(f"a column of {len(values)} values for {length} paths")
    return np.array([missing if value is None else value for value in values], dtype)


def _has_labels(file: Path) -> bool:
    """Whether a list is there, and has a column of labels."""
    return file.is_file() and "label" in read_rows(file)
