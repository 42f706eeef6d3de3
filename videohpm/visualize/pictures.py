"""Drawing: frames with heat maps on them that fit to the pixel, put into a labelled sheet."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from videohpm.grid import TokenGrid
from videohpm.visualize.inspection import Inspection

ROWS = {
    "input": "input",
    "masked": "what the encoder sees",
    "pasted": "reconstruction, visible pasted in",
    "pure": "reconstruction alone",
    "loss": "true loss",
    "scores": "predicted loss",
    "hardness": "teacher's hardness",
    "hard": "chosen by the teacher",
}
TRAINING_ROWS = ("input", "masked", "pasted", "loss", "scores", "hardness", "hard")
COLOURS = "viridis"  # its lowest colour is not the dark grey of "not known"
HARD = np.array([255, 140, 0])
CELL = 112
LABELS = 152
GAP = 2
PAPER, INK, FAINT = (255, 255, 255), (20, 20, 20), (95, 95, 95)


def training_picture(seen: Inspection, *, cell: int = CELL, columns: int = 8) -> np.ndarray:
    """The sheet drawn during training: (H', W', 3) uint8, see :func:`sheet`."""
    return sheet(seen, TRAINING_ROWS, cell=cell, columns=columns)


def rows_of(seen: Inspection, wanted: tuple[str, ...] = tuple(ROWS)) -> list[str]:
    """The rows of ``wanted`` that there is something to show for."""
    absent = {name for name in ("scores", "hardness", "hard") if getattr(seen, name) is None}
    return [name for name in wanted if name not in absent]


def row_frames(seen: Inspection, name: str, frames: list[int] | None = None) -> np.ndarray:
    """One row of the sheet: (k, len(frames), H, W, 3) uint8; all T frames when None.

    Pictures are as they are. Heat maps lie over the grey input, colours from the lowest to the
    highest value (losses: over all clips; scores: ranks within the clip); no colour where nothing
    is known. ``hard`` paints what the teacher chooses: where it is hidden fully, else faintly.
    """
    frames = list(range(seen.grid.frames)) if frames is None else frames
    if name in ("input", "masked", "pasted", "pure"):
        return getattr(seen, name)[:, frames]
    if name == "hard":
        tinted = seen.masked[:, frames].astype(np.float32)
        hidden = spread(seen.hard & seen.mask, seen.grid, frames)[..., None]
        chosen = spread(np.broadcast_to(seen.hard, seen.mask.shape), seen.grid, frames)[..., None]
        strength = 0.65 * hidden + 0.35 * (chosen & ~hidden)
        return (tinted * (1 - strength) + HARD * strength).round().astype(np.uint8)
    values = getattr(seen, name)
    low, high = loss_range(seen) if name == "loss" else (0.0, 1.0)
    values = values if name == "loss" else ranks(values)
    values = (values - low) / max(high - low, 1e-12)
    if name != "loss" and values.shape[1] == 1:
        values = np.broadcast_to(values, seen.mask.shape)
    return heat(seen.input, values, seen.grid, frames)


def heat(clips: np.ndarray, values: np.ndarray, grid: TokenGrid, frames: list[int]) -> np.ndarray:
    """Lay the colours of token values over some frames: (k, len(frames), H, W, 3) uint8.

    Args:
        clips: (k, T, H, W, 3) uint8; shown in grey, and darkened where a value is nan.
        values: (k, t, h, w) in [0, 1], or nan.
    """
    grey = clips[:, frames].mean(-1, keepdims=True, dtype=np.float32)
    colours = matplotlib.colormaps[COLOURS](np.nan_to_num(values))[..., :3].astype(np.float32)
    known = spread(~np.isnan(values), grid, frames)[..., None]
    mixed = 0.3 * grey + 0.7 * 255 * spread(colours, grid, frames)
    return np.where(known, mixed, 0.35 * grey).round().astype(np.uint8)


def spread(values: np.ndarray, grid: TokenGrid, frames: list[int]) -> np.ndarray:
    """Each value over exactly its token's pixels: (k, t, h, w, …) → (k, len(frames), H, W, …)."""
    steps = [frame // grid.tubelet for frame in frames]
    return values[:, steps].repeat(grid.patch, 2).repeat(grid.patch, 3)


def ranks(values: np.ndarray) -> np.ndarray:
    """Each clip's values by order, 0 the lowest to 1 the highest; nan stays nan. (k, …) → same."""
    flat = values.reshape(len(values), -1)
    known = (~np.isnan(flat)).sum(1, keepdims=True)
    order = flat.argsort(1, kind="stable").argsort(1, kind="stable")  # nan sorts last
    placed = np.where(np.isnan(flat), np.nan, order / np.maximum(known - 1, 1))
    return placed.reshape(values.shape)


def loss_range(seen: Inspection) -> tuple[float, float]:
    """The lowest and highest true loss shown; 0 to 1 where none is finite."""
    finite = seen.loss[np.isfinite(seen.loss)]
    return (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)


def sheet(
    seen: Inspection,
    rows: tuple[str, ...] = tuple(ROWS),
    *,
    titles: list[str] | None = None,
    cell: int = CELL,
    columns: int = 8,
) -> np.ndarray:
    """All clips below each other, a row for each thing, a column for each time step.

    Args:
        rows: which of :data:`ROWS`; those with nothing to show are left out.
        titles: one line for each clip.
        cell: height of a frame in the sheet, pixels; small frames take the nearest multiple.
        columns: at most so many time steps, evenly spread; each shows its token's first frame.

    Returns:
        (H', W', 3) uint8.
    """
    grid = seen.grid
    steps = spaced(grid.t, columns)
    names = rows_of(seen, rows)
    shown = [step * grid.tubelet for step in steps]
    frames = {name: row_frames(seen, name, shown) for name in names}
    captions = [f"frame {frame + 1}" for frame in shown] if grid.t > 1 else []
    return lay_out(seen, frames, captions=captions, titles=titles, cell=cell)


def lay_out(
    seen: Inspection,
    frames: dict[str, np.ndarray],
    *,
    captions: list[str],
    titles: list[str] | None = None,
    cell: int = CELL,
) -> np.ndarray:
    """Draw the sheet. ``frames``: (k, columns, H, W, 3) for each row; returns (H', W', 3) uint8."""
    count, columns, height, width = next(iter(frames.values())).shape[:4]
    cell = cell if height > cell else height * max(1, round(cell / height))
    size = (max(1, round(width * cell / height)), cell)
    above = 18 if captions else 4
    title = 20 if titles else 0
    block = title + above + len(frames) * (cell + GAP)
    wide = max(LABELS + columns * (size[0] + GAP), 520)
    page = Image.new("RGB", (wide, count * (block + 8) + 34), PAPER)
    pen = ImageDraw.Draw(page)
    for clip in range(count):
        top = clip * (block + 8)
        if titles:
            pen.text((6, top + 3), _shortened(titles[clip], wide - 12), INK, font(13))
        for column, caption in enumerate(captions):
            left = LABELS + column * (size[0] + GAP)
            if size[0] >= 50:
                pen.text((left + 1, top + title + 3), caption, FAINT, font(11))
        for line, (name, row) in enumerate(frames.items()):
            y = top + title + above + line * (cell + GAP)
            pen.multiline_text((6, y + 4), _label(seen, name), INK, font(12), spacing=3)
            for column in range(columns):
                picture = _resized(row[clip, column], size)
                page.paste(picture, (LABELS + column * (size[0] + GAP), y))
    pen.multiline_text((6, page.height - 32), footnote(seen), FAINT, font(11), spacing=3)
    return np.asarray(page)


def footnote(seen: Inspection) -> str:
    """Whether the colours of the reconstruction are the model's own, and what the mask hides."""
    hidden = f"{seen.mask.mean():.0%} of tokens hidden."
    if seen.uses_true_statistics:
        return (
            "Reconstruction: brightness and contrast of each hidden token are the TRUE ones "
            f"(ground truth used).\n{hidden}"
        )
    return f"Reconstruction: the model's own pixels; no ground truth used.\n{hidden}"


def spaced(count: int, most: int) -> list[int]:
    """At most ``most`` of ``count`` numbers, evenly spread from the first to the last."""
    if count <= most:
        return list(range(count))
    return [round(i * (count - 1) / max(most - 1, 1)) for i in range(most)]


@lru_cache
def font(size: int) -> ImageFont.FreeTypeFont:
    """The typeface that comes with matplotlib: Latin, Greek, Cyrillic, the same everywhere."""
    return ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts/ttf/DejaVuSans.ttf"), size)


def _label(seen: Inspection, name: str) -> str:
    words, lines = ROWS[name].split(), [""]
    for word in words:
        longer = f"{lines[-1]} {word}".strip()
        if font(12).getlength(longer) > LABELS - 12 and lines[-1]:
            lines.append(word)
        else:
            lines[-1] = longer
    if name == "loss":
        lines.append("{:.3g} to {:.3g}".format(*loss_range(seen)))
    elif name in ("scores", "hardness"):
        lines.append("dark easy, light hard")
    elif name == "hard":
        lines.append(f"{seen.hard[0].sum()} of {seen.hard[0].size}")
    return "\n".join(lines)


def _shortened(text: str, width: int) -> str:
    text = " ".join(text.split())
    while len(text) > 4 and font(13).getlength(text) > width:
        text = "…" + text[max(2, len(text) // 20 + 1) :]
    return text


def _resized(picture: np.ndarray, size: tuple[int, int]) -> Image.Image:
    image = Image.fromarray(picture)
    if image.size == size:
        return image
    shrink = size[0] < image.width
    return image.resize(size, Image.Resampling.BOX if shrink else Image.Resampling.NEAREST)
