"""Videos as folders of extracted frames: which picture is which frame, and reading them.

A frame's position is its place in the order of the numbers in the names of the files
(``img_00001.jpg``), whatever they begin with and however they are filled with zeros. What that
order leaves open is refused: two pictures of one number (colours and optical flow in one folder),
or a number that is missing.
"""

from __future__ import annotations

import os
import re
from functools import lru_cache

import numpy as np

from videohpm.data.container import DecodeError, file_identity
from videohpm.data.images import read_image, read_image_and_format

FRAME_SUFFIXES = frozenset(
    [".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm"]
)
"""Of pictures that may be frames. Not .gif: it may hold a whole animation, such as a preview of the
frames that it lies beside."""
_LAST_NUMBER = re.compile(r"(\d+)\D*$")


def is_frame_folder(path: str | os.PathLike[str]) -> bool:
    """Whether a path is a folder that holds a picture."""
    try:
        with os.scandir(path) as entries:
            return any(is_frame(entry.name) for entry in entries)
    except OSError:
        return False


def frame_files(path: str) -> tuple[str, ...]:
    """The names of the frames of a folder, in order. Raises DecodeError."""
    return _listed(path, *file_identity(path))


def read_frame_folder(path: str, positions: list[int]) -> np.ndarray:
    """Frames as uint8 (n, H, W, 3) RGB, upright. Raises DecodeError.

    Args:
        positions: from 0, in the order of :func:`frame_files`.
    """
    names = frame_files(path)
    if max(positions) >= len(names):
        raise DecodeError(path, f"frame {max(positions)} asked for; the folder has {len(names)}")
    frames = [read_image(os.path.join(path, names[position])) for position in positions]
    for position, frame in zip(positions, frames, strict=True):
        if frame.shape != frames[0].shape:
            one, other = (f"{each.shape[1]}x{each.shape[0]}" for each in (frames[0], frame))
            raise DecodeError(path, f"{names[position]} has {other} pixels, others have {one}")
    return np.stack(frames)


def first_frame(path: str) -> tuple[int, int, str]:
    """Height, width and format of the first frame. Raises DecodeError."""
    pixels, kind = read_image_and_format(os.path.join(path, frame_files(path)[0]))
    return pixels.shape[0], pixels.shape[1], kind


@lru_cache(maxsize=1024)
def _listed(path: str, _size: int, _changed: int) -> tuple[str, ...]:
    try:
        names = sorted(name for name in os.listdir(path) if is_frame(name))
    except OSError as error:
        raise DecodeError(path, f"cannot be listed ({error.strerror})") from None
    if not names:
        raise DecodeError(path, "a folder without pictures")
    numbered: dict[int, str] = {}
    for name in names:
        number = _LAST_NUMBER.search(os.path.splitext(name)[0])
        if number is None:
            raise DecodeError(path, f"{name} has no number: which frame it is is not known")
        other = numbered.setdefault(int(number[1]), name)
        if other != name:
            raise DecodeError(
                path, f"{other} and {name} are both frame {int(number[1])}; keep one kind a folder"
            )
    order = sorted(numbered)
    steps = {after - before for before, after in zip(order, order[1:], strict=False)}
    if len(steps) > 1:
        gap = next(i for i in range(1, len(order)) if order[i] - order[i - 1] > min(steps))
        raise DecodeError(
            path,
            f"frames between {numbered[order[gap - 1]]} and {numbered[order[gap]]} are missing",
        )
    return tuple(numbered[number] for number in order)


def is_frame(name: str) -> bool:
    """Whether a file of this name, in a folder of frames, is one."""
    return os.path.splitext(name)[1].lower() in FRAME_SUFFIXES and not name.startswith(".")
