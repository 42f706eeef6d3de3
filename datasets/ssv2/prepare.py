#!/usr/bin/env python
"""Something-Something V2: manifests from the official labels.json and split files.

README.md beside this file says what is expected on disk and what is written.
"""

import json
import sys
from pathlib import Path

from videohpm.data.prepare import Annotations, Entry, by_stem, read_text, run_script
from videohpm.errors import UserError

# With the prefix that the files of some releases carry.
SPLITS = {"train": "train.json", "validation": "validation.json", "test": "test.json"}
PREFIX = "something-something-v2-"


def read(root: Path, lists: Path) -> Annotations:
    """Labels are the templates without their brackets; the test split has none."""
    named = find(lists, "labels.json")
    if named is None:
        raise UserError(f"--annotations: {lists} has no labels.json; name the folder that has")
    numbers = load(named)
    if not isinstance(numbers, dict) or (
        {str(number) for number in numbers.values()} != {str(i) for i in range(len(numbers))}
    ):
        raise UserError("labels.json: not an object of class names with the numbers from 0")
    files = {name: find(lists, file) for name, file in SPLITS.items()}
    splits = {name: read_split(file) for name, file in files.items() if file}
    if not splits:
        raise UserError(f"--annotations: {lists} has none of {', '.join(SPLITS.values())}")
    classes = sorted(numbers, key=lambda name: int(numbers[name]))
    return Annotations(splits, [plain(name) for name in classes], by_stem)


def read_split(file: Path) -> list[Entry]:
    """Entries of a split."""
    rows = load(file)
    try:
        return [
            Entry(str(row["id"]), plain(row["template"]) if row.get("template") else None)
            for row in rows
        ]
    except (TypeError, KeyError, AttributeError):
        raise UserError(f"{file}: not a list of objects that have an id") from None


def find(lists: Path, file: str) -> Path | None:
    """``file`` or its prefixed name, whichever is there."""
    return next((p for p in (lists / file, lists / (PREFIX + file)) if p.is_file()), None)


def load(file: Path):
    """The content of a JSON file."""
    try:
        return json.loads(read_text(file))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file}: not valid JSON ({error})") from None


def plain(template: str) -> str:
    """``Holding [something]`` as labels.json has it: ``Holding something``."""
    return template.replace("[", "").replace("]", "")


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    return run_script("Manifests of Something-Something.", Path(__file__).parent, read, arguments)


if __name__ == "__main__":
    sys.exit(main())
