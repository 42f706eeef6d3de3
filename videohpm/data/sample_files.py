"""Files and folders of samples: what lies below a folder, and of which kind it is.

And the folders that lists and copies of them are written to.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from videohpm.config.data import FRAMES
from videohpm.data.frame_folders import is_frame
from videohpm.data.manifest_parser import IMAGE_SUFFIXES, VIDEO_SUFFIXES
from videohpm.errors import UserError
from videohpm.writing import full_disk

ANY = "any"
"""A kind for those who look at each file: videos and images together."""
_log = logging.getLogger(__name__)


def files_in(root: Path, kind: str) -> Iterable[str]:
    """Videos, images, both, or folders of frames below ``root``, relative, in sorted order.

    One by one, but for folders. Raises UserError where there are none.
    """
    suffixes = {"video": VIDEO_SUFFIXES, "image": IMAGE_SUFFIXES}.get(
        kind, VIDEO_SUFFIXES | IMAGE_SUFFIXES
    )
    found = frame_folders(root) if kind == FRAMES else _with_suffix(root, suffixes)
    empty = True
    for path in found:
        empty = False
        yield path
    if empty:
        what = {"video": "videos", "image": "images", FRAMES: "folders of pictures"}.get(
            kind, "videos or images"
        )
        such = ".jpg or .png; a .gif is no frame" if kind == FRAMES else ".mp4 or .jpg"
        raise UserError(f"data.root: no {what} under {root} (recognised by suffix, such as {such})")


def _with_suffix(root: Path, suffixes: Collection[str]) -> Iterable[str]:
    return (path for path in walk(root) if os.path.splitext(path)[1].lower() in suffixes)


def frame_folders(root: Path) -> list[str]:
    """The folders below ``root`` that hold pictures, relative, in sorted order."""
    pictures = [path for path in walk(root) if is_frame(os.path.basename(path))]
    stray = next((path for path in pictures if os.sep not in path), None)
    if stray is not None:
        raise UserError(
            f"data.root: {stray} lies in {root} itself; with kind frames each clip is a folder of "
            "pictures: give the folder above"
        )
    return sorted({os.path.dirname(path) for path in pictures})


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


def are_images(paths: Sequence[str]) -> list[bool]:
    return [os.path.splitext(path)[1].lower() in IMAGE_SUFFIXES for path in paths]


def of_kind(rows: dict[str, list], kind: str, where: str) -> dict[str, list]:
    """The rows of the kind that was chosen among both; of one kind all, whatever it is called."""
    images = are_images(rows["path"])
    if kind not in ("video", "image") or all(images) or not any(images):
        return rows
    kept = [row for row, image in enumerate(images) if image == (kind == "image")]
    _log.warning(
        "%s: %d of %d rows are no %ss and are left out (kind: %s)",
        *(where, len(images) - len(kept), len(images), kind, kind),
    )
    return {name: [column[row] for row in kept] for name, column in rows.items()}


def kind_of(paths: Sequence[str], kind: str, where: str) -> str:
    if kind in ("video", "image"):
        return kind
    if kind == FRAMES:
        return "video"
    images = sum(are_images(paths))
    if 0 < images < len(paths):
        if kind == ANY:
            return "video"
        raise UserError(f"{where} holds images and videos; choose with kind: video or kind: image")
    return "image" if images else "video"


def start_of(folder: Path, root: str | None) -> tuple[str, str]:
    """Where the paths of a folder's files start, and what stands before their names below it.

    Without ``root`` they start from the folder. Raises UserError where ``root`` does not hold it.
    """
    if root is None:
        return str(folder), ""
    if not os.path.isdir(root):
        raise UserError(f"root: {root} is not a folder; check the path")
    inside = os.path.relpath(folder, root)
    if inside.split(os.sep)[0] == os.pardir:
        raise UserError(
            f"root: {folder} does not lie in {root}; name a folder that holds it, or leave root out"
        )
    return root, "" if inside == os.curdir else inside


def make_folder(folder: Path, option: str) -> None:
    """Make a folder to write to. Raises UserError, which begins with ``option``, where one cannot.

    A full disk stays an OSError: that is told otherwise, and another name does not mend it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if full_disk(error) is not None:
            raise
        there = next((each for each in (folder, *folder.parents) if os.path.lexists(each)), folder)
        what = f"{folder} cannot be made ({error.strerror})"
        if os.path.lexists(there) and not os.path.isdir(there):
            what = f"{there} is not a folder"
        raise UserError(f"{option}: {what}; name another folder") from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(f"{option}: {folder} cannot be written to; name another folder")
