"""Files and folders of samples: what lies below a folder, and of which kind it is."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from videohpm.config.data import FRAMES
from videohpm.data.manifest_parser import IMAGE_SUFFIXES, VIDEO_SUFFIXES
from videohpm.errors import UserError

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
        raise UserError(
            f"data.root: no {what} under {root} (recognised by suffix, such as .mp4 or .jpg)"
        )


def _with_suffix(root: Path, suffixes: Collection[str]) -> Iterable[str]:
    return (path for path in walk(root) if os.path.splitext(path)[1].lower() in suffixes)


def frame_folders(root: Path) -> list[str]:
    """The folders below ``root`` that hold pictures, relative, in sorted order."""
    pictures = [path for path in walk(root) if are_images([path])[0]]
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
