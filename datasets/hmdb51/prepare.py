#!/usr/bin/env python
"""HMDB51: manifests from the official split lists.

README.md beside this file says what is expected on disk and what is written.
"""

import re
import sys
from pathlib import Path

from videohpm.data.prepare import Annotations, Entry, by_stem, read_text, run_script
from videohpm.errors import UserError

FOLDER = "testTrainMulti_7030_splits"
NAME = re.compile(r"(.+)_test_split([123])\.txt")
SPLITS = {"1": "train", "2": "validation"}  # 0: in neither


def read(root: Path, lists: Path) -> Annotations:
    """One list for each class and fold; a line is a file and 1 (train), 2 (test) or 0 (unused)."""
    lists = lists / FOLDER if (lists / FOLDER).is_dir() else lists
    files = [(file, NAME.fullmatch(file.name)) for file in sorted(lists.glob("*_test_split?.txt"))]
    named = [(file, match[1], match[2]) for file, match in files if match]
    if not named:
        raise UserError(f"--annotations: no CLASS_test_split1.txt in {lists}; name {FOLDER}")
    splits: dict[str, list[Entry]] = {
        f"{split}-{fold}": [] for fold in sorted({n[2] for n in named}) for split in SPLITS.values()
    }
    unused: dict[str, None] = {}
    for file, label, fold in named:
        for line in read_text(file).splitlines():
            name, _, use = line.strip().rpartition(" ")
            if line.strip() and use not in ("0", "1", "2"):
                raise UserError(f"{file}: {line.strip()!r} does not end with 0, 1 or 2")
            if use in SPLITS:
                splits[f"{SPLITS[use]}-{fold}"].append(Entry(by_stem(name.strip()), label))
            elif use == "0":
                unused[by_stem(name.strip())] = None
    classes = sorted({label for _, label, _ in named})
    return Annotations(splits, classes, by_stem, folds=True, unused=frozenset(unused))


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    return run_script("Manifests of HMDB51.", Path(__file__).parent, read, arguments)


if __name__ == "__main__":
    sys.exit(main())
