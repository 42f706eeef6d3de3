"""Drawing: frames with heat maps on them that fit to the pixel, put into a labelled grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from videohpm.config.options import CELL
from videohpm.grid import TokenGrid
from videohpm.visualize.inspection import Inspection
from videohpm.visualize.text import drawable, typeface

ROWS = {
    "input": "input",
    "masked": "what the encoder sees",
    "reconstruction_with_visible": "reconstruction, with visible tokens",
    "reconstruction": "reconstruction alone",
    "loss": "true loss",
    "scores": "predicted loss",
    "hardness": "hardness by the scorer",
    "hard": "chosen as hard",
}
TRAINING_ROWS = (
    "input",
    "masked",
    "reconstruction_with_visible",
    "loss",
    "scores",
    "hardness",
    "hard",
)
LOSS_ROWS = ("input", "reconstruction_with_visible", "loss", "scores", "hardness")
COLOURS = "viridis"  # its lowest colour is not the dark grey of "not known"
HARD = np.array([255, 140, 0])
LABELS = 152
GAP = 2
NARROWEST = 420
PAPER, INK, FAINT = (255, 255, 255), (20, 20, 20), (95, 95, 95)


@dataclass(frozen=True)
class Panel:
    """Part of an image grid: labelled lines of frames below captioned columns."""

    lines: list[tuple[str, Sequence[np.ndarray]]]
    """Label and frames, each (H, W, 3) uint8."""
    captions: list[str]
    title: str = ""


def training_picture(seen: Inspection, *, cell: int = CELL, columns: int = 8) -> np.ndarray:
    """The picture drawn during training: (H', W', 3) uint8, see :func:`image_grid`."""
    return image_grid(seen, TRAINING_ROWS, cell=cell, columns=columns)


def training_animation(seen: Inspection, *, cell: int = CELL) -> np.ndarray:
    """The loss maps drawn during training: (T, H', W', 3) uint8, see :func:`animation`."""
    return animation(seen, LOSS_ROWS, cell=cell)


def rows_of(seen: Inspection, wanted: Sequence[str] = tuple(ROWS)) -> list[str]:
    """The rows of ``wanted`` that there is something to show for."""
    absent = {name for name in ROWS if getattr(seen, name) is None}
    return [name for name in wanted if name not in absent]


def row_frames(seen: Inspection, name: str, frames: list[int] | None = None) -> np.ndarray:
    """One row of the grid: (k, len(frames), H, W, 3) uint8; all T frames when None.

    Pictures are as they are. Heat maps lie over the grey input, colours from the lowest to the
    highest value (losses: over all clips; scores: ranks within the clip); no colour where nothing
    is known. ``hard`` paints what the scorer chooses: where it is hidden fully, else faintly.
    """
    frames = list(range(seen.grid.frames)) if frames is None else frames
    if name in ("input", "masked", "reconstruction_with_visible", "reconstruction"):
        return getattr(seen, name)[:, frames]
    if name == "hard" and seen.hard is not None:
        tinted = seen.masked[:, frames].astype(np.float32)
        hidden = spread(seen.hard & seen.mask, seen.grid, frames)[..., None]
        chosen = spread(np.broadcast_to(seen.hard, seen.mask.shape), seen.grid, frames)[..., None]
        strength = 0.65 * hidden + 0.35 * (chosen & ~hidden)
        return (tinted * (1 - strength) + HARD * strength).round().astype(np.uint8)
    values = getattr(seen, name)
    low, high = loss_range(seen) if name == "loss" else (0.0, 1.0)
    values = values if name == "loss" else rank_order(values)
    values = np.clip((values - low) / max(high - low, 1e-12), 0, 1)
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


def rank_order(values: np.ndarray) -> np.ndarray:
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


def image_grid(
    seen: Inspection,
    rows: Sequence[str] = tuple(ROWS),
    *,
    titles: Sequence[str] | None = None,
    cell: int = CELL,
    columns: int = 8,
) -> np.ndarray:
    """All clips below each other, a row for each thing, a column for each time step.

    Args:
        rows: which of :data:`ROWS`; those with nothing to show are left out.
        titles: one line for each clip.
        cell: height of a frame in the grid, pixels; small frames take the nearest multiple.
        columns: at most so many time steps, evenly spread; each shows its token's first frame.

    Returns:
        (H', W', 3) uint8.
    """
    shown = [step * seen.grid.tubelet for step in spaced(seen.grid.t, columns)]
    captions = [f"frame {frame + 1}" for frame in shown] if seen.grid.frames > 1 else []
    pictures = {name: row_frames(seen, name, shown) for name in rows_of(seen, rows)}
    panels = [
        Panel(
            [(label_of(seen, name, clip), row[clip]) for name, row in pictures.items()],
            captions,
            titles[clip] if titles else "",
        )
        for clip in range(len(seen.input))
    ]
    return lay_out(panels, footnote(seen), cell)


def animation(
    seen: Inspection,
    rows: Sequence[str] = tuple(ROWS),
    *,
    titles: Sequence[str] | None = None,
    cell: int = CELL,
) -> np.ndarray:
    """The clips playing, one below the other, with a column for each thing.

    Args:
        rows, titles, cell: as for :func:`image_grid`.

    Returns:
        (T, H', W', 3) uint8.
    """
    names = rows_of(seen, rows)
    pictures = np.stack([row_frames(seen, name) for name in names], axis=2)
    captions = [label_of(seen, name) for name in names]
    labels = titles or [""] * len(pictures)
    return np.stack(
        [
            lay_out(
                [Panel(list(zip(labels, pictures[:, frame], strict=True)), captions)],
                footnote(seen),
                cell,
            )
            for frame in range(seen.grid.frames)
        ]
    )


def lay_out(panels: list[Panel], note: str, cell: int = CELL) -> np.ndarray:
    """Draw panels of equal frames below each other, and a note: (H', W', 3) uint8."""
    height, width = panels[0].lines[0][1][0].shape[:2]
    cell = cell if height > cell else height * max(1, round(cell / height))
    size = (max(1, round(width * cell / height)), cell)
    margin = LABELS if any(label for panel in panels for label, _ in panel.lines) else GAP
    columns = max(len(frames) for panel in panels for _, frames in panel.lines)
    wide = max(margin + columns * (size[0] + GAP), NARROWEST)
    note = "\n".join(wrapped(part, wide - 12, 11) for part in note.split("\n"))
    pieces = [_draw_panel(panel, size, margin, wide) for panel in panels]
    below = Image.new("RGB", (wide, 16 * (note.count("\n") + 1) + 6), PAPER)
    ImageDraw.Draw(below).multiline_text((6, 2), note, FAINT, font(11), spacing=3)
    return np.concatenate([np.asarray(piece) for piece in [*pieces, below]])


def _draw_panel(panel: Panel, size: tuple[int, int], margin: int, wide: int) -> Image.Image:
    captions = [wrapped(caption, size[0] - 2, 11) for caption in panel.captions]
    above = max((16 * (caption.count("\n") + 1) for caption in captions), default=2)
    above = above if size[0] >= 50 else 2  # no room for text
    title = 22 if panel.title else 0
    tall = title + above + len(panel.lines) * (size[1] + GAP) + 8
    page = Image.new("RGB", (wide, tall), PAPER)
    pen = ImageDraw.Draw(page)
    if title:
        text = shortened(drawable(panel.title), wide - 12, 13)
        pen.text((6, 4), text, INK, font(13))
    for column, caption in enumerate(captions if above > 2 else []):
        left = margin + column * (size[0] + GAP)
        pen.multiline_text((left + 1, title + 1), caption, FAINT, font(11), spacing=3)
    for line, (label, frames) in enumerate(panel.lines):
        top = title + above + line * (size[1] + GAP)
        text = wrapped(label, margin - 12, 12).split("\n")[: max(1, size[1] // 17)]
        pen.multiline_text((6, top + 3), "\n".join(text), INK, font(12), spacing=3)
        for column, frame in enumerate(frames):
            page.paste(_resized(frame, size), (margin + column * (size[0] + GAP), top))
    return page


def footnote(seen: Inspection) -> str:
    """Whether the colours of the reconstruction are the model's own, and how much is hidden."""
    hidden = f"{seen.mask.mean():.0%} of tokens hidden."
    if seen.reconstruction is None:
        return f"No reconstruction: what the model predicts is no picture.\n{hidden}"
    if seen.uses_true_statistics:
        return (
            "Reconstruction: brightness and contrast of each hidden token are the TRUE ones "
            f"(ground truth used).\n{hidden}"
        )
    return f"Reconstruction: the model's own pixels; no ground truth used.\n{hidden}"


def label_of(seen: Inspection, name: str, clip: int | None = None) -> str:
    """What a row is, and what its colours mean, in two short lines."""
    if name == "loss":
        low, high = loss_range(seen)
        return f"{ROWS[name]}\n{low:.3g} to {high:.3g}"
    if name in ("scores", "hardness"):
        return f"{ROWS[name]}\ndark easy, light hard"
    if name == "hard" and seen.hard is not None:
        chosen = seen.hard[clip or 0]
        return f"{ROWS[name]}\n{chosen.sum()} of {chosen.size}"
    return ROWS[name]


def spaced(count: int, most: int) -> list[int]:
    """At most ``most`` of ``count`` numbers, evenly spread from the first to the last."""
    if count <= most:
        return list(range(count))
    return [round(i * (count - 1) / max(most - 1, 1)) for i in range(most)]


@lru_cache
def font(size: int) -> ImageFont.FreeTypeFont:
    """The typeface that comes with matplotlib, the same everywhere."""
    return ImageFont.truetype(typeface(), size)


def wrapped(text: str, width: int, size: int) -> str:
    """``text`` in lines of at most ``width`` pixels; what is too long for a line is shortened."""
    lines = []
    for part in text.split("\n"):
        line = ""
        for word in part.split():
            longer = f"{line} {word}".strip()
            if line and font(size).getlength(longer) > width:
                lines.append(line)
                longer = word
            line = longer
        lines.append(line)
    return "\n".join(shortened(line, width, size) for line in lines)


def shortened(text: str, width: int, size: int) -> str:
    """One line of at most ``width`` pixels; its end is kept, where file names differ."""
    text = " ".join(text.split())
    if font(size).getlength(text) <= width:
        return text
    while len(text) > 1 and font(size).getlength("…" + text) > width:
        text = text[max(1, len(text) // 20) :]
    return "…" + text


def _resized(picture: np.ndarray, size: tuple[int, int]) -> Image.Image:
    image = Image.fromarray(np.ascontiguousarray(picture))
    if image.size == size:
        return image
    shrink = size[0] < image.width
    return image.resize(size, Image.Resampling.BOX if shrink else Image.Resampling.NEAREST)
