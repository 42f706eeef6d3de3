#!/usr/bin/env python
"""UCF101: manifests from the official split lists.

README.md beside this file says what is expected on disk and what is written.
"""

import sys
from pathlib import Path

from videohpm.data.prepare import Annotations, Entry, by_stem, read_text, run_script
from videohpm.errors import UserError


def read(root: Path, lists: Path) -> Annotations:
    """The class is the folder in a list's line; three splits of the same clips."""
    inner = lists / "ucfTrainTestlist"
    lists = inner if inner.is_dir() else lists
    if not (lists / "classInd.txt").is_file():
        raise UserError("--annotations: no classInd.txt there; name the folder ucfTrainTestlist")
    numbered = [line.split() for line in lines(lists / "classInd.txt")]
    if [pair[0] for pair in numbered] != [str(i + 1) for i in range(len(numbered))]:
        raise UserError("classInd.txt: not lines of a number, from 1, and a class")
    classes = [pair[-1] for pair in numbered]
    # The lists and the folders do not agree on capitals (HandStandPushups, HandstandPushups).
    spelled = {name.casefold(): name for name in classes}
    splits = {}
    for fold in (1, 2, 3):
        for name, prefix in (("train", "trainlist"), ("validation", "testlist")):
            file = lists / f"{prefix}{fold:02d}.txt"
            if file.is_file():
                splits[f"{name}-{fold}"] = [entry(line, spelled) for line in lines(file)]
    if not splits:
        raise UserError(f"--annotations: no trainlist01.txt in {lists}")
    return Annotations(splits, classes, key, folds=True)


def lines(file: Path) -> list[str]:
    """Lines that hold something."""
    return [line.strip() for line in read_text(file).splitlines() if line.strip()]


def entry(line: str, spelled: dict[str, str]) -> Entry:
    """``Class/v_Class_g01_c01.avi``, in training lists followed by the class number."""
    path = line.split()[0]
    folder = path.split("/")[0]
    return Entry(key(path), spelled.get(folder.casefold(), folder))


def key(path: str) -> str:
    """The file's name, whatever its capitals."""
    return by_stem(path).casefold()


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    return run_script("Manifests of UCF101.", Path(__file__).parent, read, arguments)


if __name__ == "__main__":
    sys.exit(main())
