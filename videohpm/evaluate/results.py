"""The files of an evaluation: metrics, a row for each video, a picture of the confusion matrix."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np

from videohpm.config.tasks import CLASSIFY
from videohpm.data import Manifest
from videohpm.data.tables import write_table
from videohpm.errors import printable
from videohpm.evaluate.metrics import confusion
from videohpm.evaluate.multiview import Scores
from videohpm.evaluate.protocol import EvalProtocol
from videohpm.writing import complete, full_disk

UNREADABLE = 3
"""Exit code of an evaluation that could not read all of its videos."""
_log = logging.getLogger(__name__)
NAMES_UP_TO = 60
"""With more classes than these their names would be too small to read in the picture."""
LONGEST = 48
"""Characters of a name in the picture."""


def write_results(
    folder: Path,
    scores: Scores,
    manifest: Manifest,
    protocol: EvalProtocol,
    labels: list[str] | None,
    metadata: dict,
) -> dict:
    """evaluation.json, predictions.csv and, of one class a sample, confusion.png; returns what the
    first holds."""
    folder.mkdir(parents=True, exist_ok=True)
    summary = scores.metrics() | {
        "views": protocol.views,
        "protocol": protocol.plain(),
        "unreadable": [
            {"path": manifest.name(i), "reason": reason} for i, reason in scores.errors.items()
        ],
    }
    summary |= metadata
    # What cost hours first: a picture may fail, for want of a typeface or of room on the page.
    with complete(folder / "evaluation.json") as partial:
        partial.write_text(json.dumps(summary, indent=2) + "\n")
    write_predictions(folder / "predictions.csv", scores, manifest, labels)
    if scores.task.name != CLASSIFY:
        return summary
    known = scores.labels >= 0
    if known.any():
        table = confusion(
            scores.probabilities[known].argmax(1),
            scores.labels[known],
            scores.probabilities.shape[1],
        )
        try:
            with complete(folder / "confusion.png") as partial:
                draw_confusion(partial, table, labels)
        except Exception as error:  # whatever a library of pictures raises
            if full_disk(error) is not None:
                raise
            _log.warning("%s: not drawn (%r)", folder / "confusion.png", error)
    return summary


def write_predictions(
    file: Path, scores: Scores, manifest: Manifest, labels: list[str] | None
) -> None:
    """A row for each video, in the manifest's order; of an unreadable one the reason."""
    names = labels or [str(i) for i in range(scores.probabilities.shape[1])]
    found = zip(scores.probabilities, scores.logits, scores.labels, strict=True)
    rows = [scores.task.row(*each, names) for each in found]
    cells: dict[int, dict[str, Any]] = dict(zip(scores.index.tolist(), rows, strict=True))
    cells |= {i: {"error": reason} for i, reason in scores.errors.items()}
    columns = ("path", *scores.task.columns, "error")
    named = [{"path": manifest.name(i)} | row for i, row in sorted(cells.items())]
    write_table(file, columns, [[row.get(column) for column in columns] for row in named])


def draw_confusion(file: Path, table: np.ndarray, labels: list[str] | None) -> None:
    """Rows are the true classes, columns the predicted ones; each row sums to 1."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from videohpm.visualize.text import drawable

    classes = len(table)
    shares = table / np.maximum(table.sum(1, keepdims=True), 1)
    side = min(14.0, 3.5 + 0.22 * classes)
    figure = Figure(figsize=(side + 1, side), layout="constrained", dpi=110)
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    image = axes.imshow(shares, vmin=0, vmax=1, cmap="Blues", interpolation="nearest")
    axes.set_xlabel("predicted")
    axes.set_ylabel("right class")
    if classes <= NAMES_UP_TO:
        names = [drawable(name)[:LONGEST] for name in labels or map(str, range(classes))]
        # A class may be called $x$, which is no formula.
        axes.set_xticks(range(classes), names, rotation=90, fontsize=7, parse_math=False)
        axes.set_yticks(range(classes), names, fontsize=7, parse_math=False)
    figure.colorbar(image, ax=axes, shrink=0.7, label="share of the class")
    figure.savefig(file)


def sentence(summary: dict, errors: dict[int, str], manifest: Manifest) -> str:
    """The result in one or two lines."""
    scored, total = summary["scored"], summary["total"]
    text = f"{scored} of {total} scored"
    found = {name: summary.get(name) for name in ("map", "mse", "mae", "r2")}
    numbers = [
        f"mAP {value:.2f}%" if name == "map" else f"{name} {value:.4g}"
        for name, value in found.items()
        if value is not None
    ]
    if numbers:
        text = f"{', '.join(numbers)}, {summary['views']} views; {text}"
    if summary.get("top1") is not None:
        text = (
            f"top-1 {summary['top1']:.2f}%, top-5 {summary['top5']:.2f}%, mean class "
            f"{summary['mean_class']:.2f}%, {summary['views']} views; {text}"
        )
    if not errors:
        return text
    some = list(errors.items())[:5]
    names = [f"{printable(manifest.name(i))} ({reason})" for i, reason in some]
    more = f" and {len(errors) - 5} more" if len(errors) > 5 else ""
    return f"{text}; these could not be read: {', '.join(names)}{more}"
