"""The figure of evidence.py: differences with their intervals."""

from __future__ import annotations

from pathlib import Path

from evidence_arms import ARMS

SURE, UNSURE = "#1d4e89", "#888888"
CONFIDENCE = 0.95
Pair = tuple[str, str]
"""An arm and its control."""


def draw(rows: list[dict], path: Path) -> None:
    """Differences: a row a kind of data, a panel a judge, a line a pair of arms with its interval.

    Fine-tuning is left to the tables.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    shown = [row for row in rows if "tuned" not in row["judge"]]
    kinds = {kind: [row for row in shown if row["data"] == kind]
             for kind in dict.fromkeys(row["data"] for row in shown)}  # fmt: skip
    lines = {kind: pairs_of(own) for kind, own in kinds.items()}
    panels = {kind: list(dict.fromkeys(row["judge"] for row in own)) for kind, own in kinds.items()}
    heights = [1 + 0.3 * len(pairs) for pairs in lines.values()]
    columns = max(map(len, panels.values()))
    figure = pyplot.figure(figsize=(2 + 2.4 * columns, 0.3 + sum(heights)), layout="constrained")
    parts = figure.subfigures(len(kinds), 1, height_ratios=heights, squeeze=False)[:, 0]
    for part, (kind, own) in zip(parts, kinds.items(), strict=True):
        axes = part.subplots(1, columns, sharey=True, squeeze=False)[0]
        for axis in axes[len(panels[kind]) :]:
            axis.set_visible(False)
        for axis, judge in zip(axes, panels[kind], strict=False):
            _panel(axis, [row for row in own if row["judge"] == judge], lines[kind])
            axis.set_title(f"{kind}: {judge.replace('knn', 'k-NN')}")
    figure.supxlabel(
        f"points of top-1, with {CONFIDENCE:.0%} intervals; grey: no difference is shown",
        fontsize="medium",
    )
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def pairs_of(rows: list[dict]) -> list[Pair]:
    """Those with random masks as the control first, arms in their usual order."""
    found = {(row["arm"], row["control"]) for row in rows}
    return sorted(found, key=lambda pair: (pair[1] != "random", list(ARMS).index(pair[0])))


def _panel(axis, rows: list[dict], pairs: list[Pair]) -> None:
    for row in rows:
        color = SURE if row["p_holm"] < 1 - CONFIDENCE else UNSURE
        place = pairs.index((row["arm"], row["control"]))
        interval = {"xerr": row["half_width"], "capsize": 3}
        axis.errorbar(row["mean"], place, fmt="o", color=color, **interval)
    axis.axvline(0, color="black", linewidth=0.8)
    axis.set_ylim(len(pairs) - 0.4, -0.6)
    axis.set_yticks(range(len(pairs)), [f"{arm} − {control}" for arm, control in pairs])
    axis.grid(axis="x", alpha=0.3)
