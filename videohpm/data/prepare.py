"""From a data set's official annotations to manifests, with a report of what does not fit.

The scripts ``datasets/NAME/prepare.py`` of the checkout use it. They read the official files into
 lists of ``Entry``, one list a split; ``write_splits`` finds the files on disk, writes
the manifests and counts what is missing, extra or there twice. Nothing is dropped in silence.
"""

import argparse
import json
import os
import re
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import yaml

from videohpm.config.places import HOME
from videohpm.data.class_labels import whole_number
from videohpm.data.manifest_parser import IMAGE_SUFFIXES, VIDEO_SUFFIXES
from videohpm.data.sample_files import make_folder, walk
from videohpm.data.tables import write_table
from videohpm.errors import UserError, one_line
from videohpm.writing import complete

SUFFIXES = {"video": VIDEO_SUFFIXES, "image": IMAGE_SUFFIXES}
REPORT_BEGINS = '{\n "splits"'
"""By which report.json is known to be written here."""
SHOWN = 3  # examples of a problem in the printed report; report.json has all


class Entry(NamedTuple):
    """One annotated sample: the key that finds its file, and its class (None: not published)."""

    key: str
    label: str | None = None


@dataclass
class Split:
    """What was found of one split: keys of samples under each heading."""

    annotated: int = 0
    found: int = 0
    missing: list[str] = field(default_factory=list)  # annotated, not on disk
    repeated: list[str] = field(default_factory=list)  # annotated again, with the same class
    contradicted: list[str] = field(default_factory=list)  # annotated again, with another class
    in_other_splits: list[str] = field(default_factory=list)  # also in a split that came before
    unlabelled: list[str] = field(default_factory=list)  # without a class, where others have one
    without_classes: bool = False  # no sample on disk has one: the manifest is without labels


@dataclass
class Report:
    """All splits; files that no split names; files that share one key (the first is used)."""

    splits: dict[str, Split]
    extra: list[str]
    same_key: list[str]
    notes: list[str] = field(default_factory=list)  # differences from the published data set

    def lines(self) -> list[str]:
        """The report as it is printed."""
        lines = []
        for name, split in self.splits.items():
            lines.append(f"{name}: {split.found} of {split.annotated} annotated samples on disk")
            headings = {
                "missing on disk": split.missing,
                "annotated more than once": split.repeated,
                "annotated with two classes, the first is used": split.contradicted,
                "in an earlier split as well": split.in_other_splits,
                "annotated without a class, their label is left blank": split.unlabelled,
            }
            lines += [f"  {_examples(what, keys)}" for what, keys in headings.items() if keys]
            if split.without_classes:
                lines.append(
                    f"  the annotations give no class: {name}.csv is without labels, enough for "
                    "pre-training and not for fine-tuning"
                )
        for what, keys in {
            "files in no split": self.extra,
            "files of the same sample, the first is used": self.same_key,
        }.items():
            lines += [_examples(what, keys)] if keys else []
        return lines + self.notes


def run_script(
    description: str,
    dataset: Path,
    read: Callable[[Path, Path], "Annotations"],
    arguments: Sequence[str] | None,
) -> int:
    """The command line of a ``prepare.py``: ``--root``, ``--annotations``, ``--out``.

    ``read(root, annotations folder)`` returns the contents of the official files; ``dataset`` is
    the folder of the script, with the data set's dataset.yaml.
    """
    name = dataset.name if dataset.parent == HOME / "datasets" else dataset
    parser = argparse.ArgumentParser(prog=f"videohpm data prepare {name}", description=description)
    parser.add_argument("--root", required=True, help="folder of the videos or images")
    parser.add_argument("--annotations", help="folder of the official lists (default: --root)")
    parser.add_argument("--out", help="folder to write manifests to (default: --root)")
    options = parser.parse_args(arguments)
    try:
        root = Path(options.root)
        lists = Path(options.annotations or options.root)
        for option, folder in (("--root", root), ("--annotations", lists)):
            if not os.path.isdir(folder):
                raise UserError(f"{option}: {folder} is not a folder; check the path")
        out = Path(options.out or options.root)
        annotations = read(root, lists)
        report = write_splits(root, out, annotations)
    except UserError as error:
        print(f"prepare: {one_line(error)}", file=sys.stderr)
        return 2
    report.notes = compare(dataset, annotations, report)
    print("\n".join(report.lines()))
    manifest = out / f"{next(iter(report.splits))}.csv"
    print(f"written to {out}; train with: --data.root {root} --data.manifest {manifest}")
    return 0


@dataclass(frozen=True)
class Annotations:
    """The contents of a data set's official files.

    ``splits``: entries by split, the training split first. ``classes``: names in the order of their
    numbers. ``key`` turns a file's path, relative to the root, into the key of its entry. With
    ``folds`` the splits are named SPLIT-FOLD, and a sample may be in one split of each fold.
    ``unused``: keys of files that the annotations leave out on purpose.
    """

    splits: Mapping[str, Sequence[Entry]]
    classes: Sequence[str]
    key: Callable[[str], str]
    kind: str = "video"
    folds: bool = False
    unused: frozenset[str] = frozenset()


def read_text(file: Path, first_line: bool = False) -> str:
    """The text of an official file, or its first line alone, without a byte order mark.

    Line ends stay as they are. Raises UserError where it cannot be read or is not UTF-8.
    """
    try:
        with file.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as opened:
            text = opened.readline() if first_line else opened.read()
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror}); check the file") from None
    odd = re.search("[\udc80-\udcff]", text)  # what bytes that are not UTF-8 become
    if odd:
        line = text.count("\n", 0, odd.start()) + 1
        raise UserError(f"{file} line {line}: not UTF-8; save the file in that encoding")
    return text


def by_stem(path: str) -> str:
    """The file's name without folders and suffix: how most data sets name their samples."""
    return os.path.splitext(os.path.basename(path))[0]


def write_splits(root: Path, out: Path, annotations: Annotations) -> Report:
    """SPLIT.csv for each split, classes.txt and report.json in the folder ``out``.

    Manifests hold the samples that are on disk, with paths relative to ``root`` and class numbers.
    Raises UserError where no sample is annotated or none of them on disk, where a class is unknown,
    and, before anything is written, where ``out`` holds other files of these names.
    """
    first, annotated = next(iter(annotations.splits.items()), ("train", []))
    if not annotated:
        raise UserError(f"--annotations: no sample of {first} is listed there; get the lists again")
    make_folder(out, "--out")
    class_names = "".join(f"{name}\n" for name in annotations.classes)
    _refuse_to_replace(out, annotations.splits, class_names)
    files, same_key = _find_files(root, annotations)
    report = Report({}, [], same_key)
    numbered = all(whole_number(name) is None for name in annotations.classes)
    # Where names of classes are numbers, readers take a number for a name.
    number = {name: str(i) if numbered else name for i, name in enumerate(annotations.classes)}
    used: dict[str, set[str]] = defaultdict(set)  # by fold
    rows = {}
    for name, entries in annotations.splits.items():
        labels = {entry.label for entry in entries if entry.label is not None}
        unknown = labels - number.keys()
        if unknown:
            raise UserError(
                f"{name}: class {sorted(unknown)[0]!r} is not among the {len(number)} classes"
            )
        fold = name.rpartition("-")[2] if annotations.folds else ""
        found, report.splits[name] = _match(entries, files, used[fold])
        used[fold].update(entry.key for entry in entries)
        rows[name] = [
            (files[entry.key], None if entry.label is None else number[entry.label])
            for entry in found
        ]
    if not any(rows.values()):
        raise UserError(
            f"--root: none of the annotated samples is under {root} ({len(files)} files there; the "
            f"first one looked for is {annotated[0].key!r})"
        )
    known = annotations.unused.union(*used.values())
    report.extra = [path for key, path in files.items() if key not in known]
    for name, found in rows.items():
        _write_manifest(out / f"{name}.csv", found)
    _write(out / "classes.txt", class_names)
    full = {"splits": {name: vars(split) for name, split in report.splits.items()}}
    full |= {"extra": report.extra, "same_key": report.same_key}
    _write(out / "report.json", json.dumps(full, indent=1) + "\n")
    return report


def compare(folder: Path, annotations: Annotations, report: Report) -> list[str]:
    """Where the annotations are not those of the published data set that dataset.yaml describes."""
    dataset = yaml.safe_load((folder / "dataset.yaml").read_text(encoding="utf-8"))
    notes = []
    count, names = dataset["classes"]["count"], dataset["classes"].get("names")
    if len(annotations.classes) != count:
        notes.append(f"{len(annotations.classes)} classes; the published data set has {count}")
    elif names and list(annotations.classes) != names:
        at = next(i for i in range(count) if annotations.classes[i] != names[i])
        notes.append(
            f"class {at} is {annotations.classes[at]!r}, in dataset.yaml {names[at]!r}; the "
            "manifests follow the annotation files"
        )
    for name, split in report.splits.items():
        samples = dataset["splits"].get(name, {}).get("samples")
        if samples and samples != split.annotated:
            notes.append(
                f"{name}: {split.annotated} annotated samples; the published split has {samples}"
            )
    return notes


def _refuse_to_replace(out: Path, splits: Iterable[str], class_names: str) -> None:
    """UserError where a file is in the way that was not written here: official lists are often
    called train.csv, too, and lie in the folder that is ``out`` by default."""
    foreign = []
    for file in (out / f"{name}.csv" for name in splits):
        columns = _beginning(file).split("\n")[0].replace('"', "").split(",")
        if columns != [""] and columns[0].strip() != "path":
            foreign.append(file)
    report = _beginning(out / "report.json")
    if report and not report.startswith(REPORT_BEGINS):
        foreign.append(out / "report.json")
    there = "" if report else _beginning(out / "classes.txt", len(class_names) + 1)
    if there and there != class_names:
        foreign.append(out / "classes.txt")
    if foreign:
        raise UserError(
            f"--out: would replace {foreign[0]}, which is not of data prepare; name another folder"
        )


def _beginning(file: Path, characters: int = 200) -> str:
    """The first characters of a file; "" where there is none, "?" where it is no file."""
    try:
        with file.open(encoding="utf-8-sig", errors="surrogateescape") as opened:
            return opened.read(characters)
    except FileNotFoundError:
        return ""
    except OSError:
        return "?"


def _find_files(root: Path, annotations: Annotations) -> tuple[dict[str, str], list[str]]:
    """Files by key, and those whose key an earlier file has. One walk: no stat for each sample."""
    files: dict[str, str] = {}
    same_key = []
    for path in walk(root):
        wanted = os.path.splitext(path)[1].lower() in SUFFIXES[annotations.kind]
        if wanted and files.setdefault(annotations.key(path), path) != path:
            same_key.append(path)
    return files, same_key


def _match(
    entries: Iterable[Entry], files: Mapping[str, str], used: set[str]
) -> tuple[list[Entry], Split]:
    split, found = Split(), []
    labels: dict[str, set] = defaultdict(set)
    for entry in entries:
        split.annotated += 1
        before = labels[entry.key]
        if before:
            (split.repeated if entry.label in before else split.contradicted).append(entry.key)
        elif entry.key in files:
            found.append(entry)
        else:
            split.missing.append(entry.key)
        if not before and entry.key in used:
            split.in_other_splits.append(entry.key)
        before.add(entry.label)
    split.found = len(found)
    if any(entry.label is not None for entry in found):
        split.unlabelled = [entry.key for entry in found if entry.label is None]
    else:
        split.without_classes = bool(found)
    return found, split


def _write_manifest(file: Path, rows: list[tuple[str, str | None]]) -> None:
    labelled = any(label is not None for _, label in rows)
    header = ("path", "label") if labelled else ("path",)
    write_table(file, header, [row[: len(header)] for row in rows])


def _write(file: Path, text: str) -> None:
    with complete(file) as partial:
        partial.write_text(text, encoding="utf-8", errors="surrogateescape")


def _examples(what: str, keys: Sequence[str]) -> str:
    more = ", …" if len(keys) > SHOWN else ""
    return f"{len(keys)} {what}: {', '.join(keys[:SHOWN])}{more}"
