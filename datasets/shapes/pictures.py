"""Real pictures as objects and grounds of the clips, instead of drawn ones."""

from functools import cache
from pathlib import Path

import numpy as np
from drawing import Track
from PIL import Image

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
MOTIONS = ("left", "right", "up", "down", "grow", "shrink")
"""Pictures stay upright: one that is turned shows another thing, or nothing anybody knows."""
HELD_OUT = 5  # every fifth picture of each class is for validation
MARGIN = 0.125  # of the frame's side, at each side of a ground, for it to pan


@cache
def pictures_of(folder: str, split: str) -> dict[str, tuple[str, ...]]:
    """Paths of the pictures of one split by class, classes in order.

    A picture's class is the name of the folder it lies in, however deep (so train/cat and test/cat
    are one). No picture is in both splits.
    """
    found: dict[str, list[str]] = {}
    for path in sorted(Path(folder).rglob("*")):
        if path.suffix.lower() in SUFFIXES and path.is_file():
            found.setdefault(path.parent.name, []).append(str(path))
    held = split == "validation"
    return {name: tuple(path for i, path in enumerate(found[name])
                        if (i % HELD_OUT == HELD_OUT - 1) == held)
            for name in sorted(found)}  # fmt: skip


def read_picture(path: str, side: int) -> np.ndarray:
    """(side, side, 3) float32 in [0, 1]: the middle square of a picture."""
    with Image.open(path) as picture:
        rgb = picture.convert("RGB")
    width, height = rgb.size
    short = min(width, height)
    left, top = (width - short) // 2, (height - short) // 2
    box = (left, top, left + short, top + short)
    square = rgb.resize((side, side), Image.Resampling.BICUBIC, box=box)
    return np.asarray(square, np.float32) / 255


def draw_sprite(path: str, track: Track, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Coverage (T, H, W) and colour (T, H, W, 3) of a picture that goes along a track, upright.

    It is a square of side 1.5 radii; what is over one side of the frame is at the opposite one.
    """
    grid = np.arange(size, dtype=np.float32)
    x = grid[None, None, :] - track.centre[:, 0, None, None]
    y = grid[None, :, None] - track.centre[:, 1, None, None]
    x, y = x - size * np.round(x / size), y - size * np.round(y / size)
    half = 0.75 * track.radius[:, None, None]
    cover = np.clip(0.5 - (np.maximum(np.abs(x), np.abs(y)) - half), 0, 1)
    side = max(8, int(2 * 0.75 * track.radius.max()))
    picture = read_picture(path, side)
    column, row = ((part / half + 1) * side / 2 - 0.5 for part in np.broadcast_arrays(x, y))
    return cover, _between(picture, row, column)


def draw_ground(path: str, frames: int, size: int, rng: np.random.Generator) -> np.ndarray:
    """(T, H, W, 3): a picture that fills the frame and pans slowly in a random direction."""
    heading, pace = rng.uniform(0, 2 * np.pi), size / 64 * rng.uniform(0, 0.25)
    margin = MARGIN * size
    picture = read_picture(path, int(size + 2 * margin))
    grid = np.arange(size, dtype=np.float32)
    time = np.clip(pace * np.arange(frames, dtype=np.float32), 0, margin)[:, None, None]
    row = grid[None, :, None] + margin + np.float32(np.sin(heading)) * time
    column = grid[None, None, :] + margin + np.float32(np.cos(heading)) * time
    return _between(picture, *np.broadcast_arrays(row, column))


def _between(picture: np.ndarray, row: np.ndarray, column: np.ndarray) -> np.ndarray:
    """Colours at fractional places, bilinear; beyond the edge those of the edge."""
    last = len(picture) - 1
    row, column = np.clip(row, 0, last), np.clip(column, 0, last)
    top, left = np.minimum(row.astype(int), last - 1), np.minimum(column.astype(int), last - 1)
    down, right = (row - top)[..., None], (column - left)[..., None]
    upper = picture[top, left] * (1 - right) + picture[top, left + 1] * right
    lower = picture[top + 1, left] * (1 - right) + picture[top + 1, left + 1] * right
    return (upper * (1 - down) + lower * down).astype(np.float32)
