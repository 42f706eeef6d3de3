#!/usr/bin/env python
"""ImageNet-1K: manifests from its folders of images.

README.md beside this file says what is expected on disk and what is written.
"""

import sys
from pathlib import Path

from videohpm.data.prepare import IMAGE_SUFFIXES, Annotations, Entry, run_script, walk
from videohpm.errors import UserError


def read(root: Path, lists: Path) -> Annotations:
    """Classes are the folders of train, sorted; folders of val that train lacks are an error.

    Folders are the annotation here: nothing else says which images there should be.
    """
    splits = {}
    for name, folders in {"train": ("train",), "validation": ("val", "validation")}.items():
        folder = next((f for f in folders if (root / f).is_dir()), None)
        if folder:
            splits[name] = read_split(root, folder)
    if "train" not in splits:
        raise UserError(f"--root: {root} has no folder train with a folder for each class")
    if not splits["train"]:
        raise UserError(f"--root: {root}/train has no images in the folders of its classes")
    classes = sorted({entry.label for entry in splits["train"]})
    return Annotations(splits, classes, str, kind="image")


def read_split(root: Path, folder: str) -> list[Entry]:
    """All images of a split; each must lie in the folder of its class."""
    entries = []
    for path in walk(root / folder):
        if Path(path).suffix.lower() not in IMAGE_SUFFIXES:
            continue
        if "/" not in path:
            raise UserError(
                f"{root / folder}: {path} lies in no class folder; sort the images into a folder "
                "for each class (README.md says how)"
            )
        entries.append(Entry(f"{folder}/{path}", path.split("/")[0]))
    return entries


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    return run_script("Manifests of ImageNet-1K.", Path(__file__).parent, read, arguments)


if __name__ == "__main__":
    sys.exit(main())
