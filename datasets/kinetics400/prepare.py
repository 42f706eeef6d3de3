#!/usr/bin/env python
"""Kinetics-400: manifests from the official CSV files.

README.md beside this file says what is expected on disk and what is written.
"""

import csv
import io
import sys
from pathlib import Path

from videohpm.data.prepare import Annotations, Entry, by_stem, read_text, run_script
from videohpm.errors import UserError

# Releases differ in how they name the files.
SPLITS = {
    "train": ("train.csv", "kinetics_train.csv", "kinetics-400_train.csv"),
    "validation": ("validate.csv", "val.csv", "validation.csv", "kinetics_val.csv")
    + ("kinetics-400_val.csv",),
    "test": ("test.csv", "kinetics_test.csv", "kinetics-400_test.csv"),
}
COLUMNS = {"youtube_id", "time_start", "time_end"}


def read(root: Path, lists: Path) -> Annotations:
    """Classes are the sorted names of the training split; the test split may have none."""
    splits = {}
    for name, files in SPLITS.items():
        file = next((lists / file for file in files if is_official(lists / file)), None)
        if file:
            splits[name] = read_split(file)
    if "train" not in splits:
        raise UserError(
            f"--annotations: no {' or '.join(SPLITS['train'])} in {lists} with the columns "
            f"{', '.join(sorted(COLUMNS))}"
        )
    classes = sorted({entry.label for entry in splits["train"] if entry.label})
    return Annotations(splits, classes, by_stem)


def is_official(file: Path) -> bool:
    """Whether this is an annotation file, and not a manifest of the same name."""
    if not file.is_file():
        return False
    try:
        return set(next(csv.reader([read_text(file, first_line=True)]), [])) >= COLUMNS
    except csv.Error:
        return False


def read_split(file: Path) -> list[Entry]:
    """A clip's file is named by its video, first and last second: ``id_000001_000011.mp4``."""
    entries = []
    rows = csv.DictReader(io.StringIO(read_text(file), newline=""))
    try:
        for line, row in enumerate(rows, 2):
            try:
                start, end = int(float(row["time_start"])), int(float(row["time_end"]))
            except (TypeError, ValueError, OverflowError):  # the last is of "inf"
                raise UserError(f"{file} line {line}: the times are not numbers") from None
            label = (row.get("label") or "").strip().replace("_", " ")
            entries.append(Entry(f"{row['youtube_id']}_{start:06d}_{end:06d}", label or None))
    except csv.Error as error:
        raise UserError(f"{file}: not a CSV file ({error})") from None
    return entries


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    return run_script("Manifests of Kinetics-400.", Path(__file__).parent, read, arguments)


if __name__ == "__main__":
    sys.exit(main())
