"""What runs hide in the same clips, below each other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from videohpm.config import PretrainConfig
from videohpm.config.options import CELL
from videohpm.errors import UserError
from videohpm.grid import TokenGrid
from videohpm.visualize.inspection import Inspection
from videohpm.visualize.pictures import Panel, lay_out, row_frames, spaced

NOTE = (
    "Orange: chosen by scores. Grey: hidden at random, in the same places by all runs that hide "
    "the same units, where scores did not choose otherwise."
)


def run_label(path: str | Path, config: PretrainConfig, seen: Inspection) -> str:
    """A run's name, and what chooses there for what."""
    name = Path(path).resolve().name
    if seen.hard is None:
        return f"{name}\nall at random"
    chosen = seen.hard[0]
    how = f"{config.scorer}, {config.mask.choice}"
    return f"{name}\n{how}\nto {config.mask.use}: {chosen.sum()} of {chosen.size}"


def hidden_picture(seen: Inspection, label: str, *, columns: int = 4) -> np.ndarray:
    """What one run hides, drawn during training: the report has those of several side by side.

    (H', W', 3) uint8; ``label`` as from :func:`run_label`.
    """
    return comparison([seen], [label], columns=columns)


def check_same_clips(paths: Sequence[str | Path], grids: Sequence[TokenGrid]) -> None:
    """Raises UserError where runs do not take clips of the same frames and size."""
    first, *others = ((grid.frames, grid.height, grid.width) for grid in grids)
    for path, size in zip(paths[1:], others, strict=True):
        if size != first:
            shapes = ["x".join(map(str, each)) for each in (size, first)]
            raise UserError(
                f"compare: {path} takes clips of {shapes[0]} (frames x height x width), {paths[0]} "
                f"of {shapes[1]}; give runs of one size"
            )


def comparison(
    seen: Sequence[Inspection],
    labels: Sequence[str],
    *,
    titles: Sequence[str] | None = None,
    cell: int = CELL,
    columns: int = 8,
) -> np.ndarray:
    """All clips below each other, a row for each run, a column for each time step.

    Args:
        seen: of each run, of the same clips.
        labels: one for each run.
        titles, cell, columns: as for :func:`videohpm.visualize.image_grid`.

    Returns:
        (H', W', 3) uint8.
    """
    grid = seen[0].grid
    shown = [step * grid.tubelet for step in spaced(grid.t, columns)]
    captions = [f"frame {frame + 1}" for frame in shown] if grid.frames > 1 else []
    rows = [("input", seen[0].input[:, shown]), *_rows(seen, labels, shown)]
    panels = [
        Panel([(label, row[clip]) for label, row in rows], captions, titles[clip] if titles else "")
        for clip in range(len(seen[0].input))
    ]
    return lay_out(panels, NOTE, cell)


def comparison_animation(
    seen: Sequence[Inspection],
    labels: Sequence[str],
    *,
    titles: Sequence[str] | None = None,
    cell: int = CELL,
) -> np.ndarray:
    """The clips playing, one below the other, a column for each run: (T, H', W', 3) uint8."""
    frames = list(range(seen[0].grid.frames))
    rows = [("input", seen[0].input), *_rows(seen, labels, frames)]
    captions = [label for label, _ in rows]
    names = titles or [""] * len(seen[0].input)
    films = []
    for frame in frames:
        pictures = [[row[clip, frame] for _, row in rows] for clip in range(len(names))]
        films.append(
            lay_out([Panel(list(zip(names, pictures, strict=True)), captions)], NOTE, cell)
        )
    return np.stack(films)


def _rows(
    seen: Sequence[Inspection], labels: Sequence[str], frames: list[int]
) -> list[tuple[str, np.ndarray]]:
    return [
        (label, row_frames(one, "masked" if one.hard is None else "hard", frames))
        for one, label in zip(seen, labels, strict=True)
    ]
