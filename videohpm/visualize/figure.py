"""The same pictures as a matplotlib figure, to be changed and printed."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from videohpm.visualize.inspection import Inspection
from videohpm.visualize.pictures import (
    COLOURS,
    ROWS,
    footnote,
    loss_range,
    row_frames,
    rows_of,
    spaced,
)


def figure(
    seen: Inspection, clip: int = 0, rows: Sequence[str] = tuple(ROWS), *, columns: int = 8
) -> Figure:
    """One clip as a figure: a row for each thing, a column for each time step, colour bars.

    It belongs to no window and no global state: ``figure(seen).savefig("clip.pdf")``.

    Args:
        clip: which of the k clips.
        rows: which of :data:`videohpm.visualize.ROWS`.
        columns: at most so many time steps, evenly spread.
    """
    shown = [step * seen.grid.tubelet for step in spaced(seen.grid.t, columns)]
    names = rows_of(seen, rows)
    shape = seen.grid.height / seen.grid.width
    page = Figure(figsize=(1.5 * len(shown) + 2.2, 1.5 * shape * len(names) + 0.8))
    page.set_layout_engine("constrained")
    widths = [0.9, *[1] * len(shown), 0.08]  # label, frames, colour bar
    axes = page.subplots(len(names), len(widths), squeeze=False, width_ratios=widths)
    for (label, *line, bar), name in zip(axes, names, strict=True):
        for ax, picture in zip(line, row_frames(seen, name, shown)[clip], strict=True):
            ax.imshow(picture, interpolation="nearest")
            ax.set(xticks=[], yticks=[])
        label.axis("off")
        label.text(1, 0.5, textwrap.fill(ROWS[name], 16), ha="right", va="center", fontsize=8)
        if name not in ("loss", "scores", "hardness"):
            bar.axis("off")
            continue
        span = loss_range(seen) if name == "loss" else (0, 1)
        page.colorbar(ScalarMappable(Normalize(*span), COLOURS), cax=bar)
        bar.set_ylabel("loss" if name == "loss" else "rank", fontsize=8)
        bar.tick_params(labelsize=7)
    for ax, frame in zip(axes[0, 1:-1], shown, strict=True):
        ax.set_title(f"frame {frame + 1}", fontsize=8)
    page.supxlabel(footnote(seen), fontsize=8)
    return page
