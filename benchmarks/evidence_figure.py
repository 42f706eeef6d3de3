"""The figure of evidence.py: differences with their intervals."""

from __future__ import annotations

from pathlib import Path

from evidence_arms import ARMS

SURE, UNSURE = "#1d4e89", "#888888"
CONFIDENCE = 0.95


def draw(rows: list[dict], path: Path) -> None:
    """Differences: a panel a kind of data and judge, a line a pair of arms with its interval."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    shown = [row for row in rows if "tuned" not in row["judge"]]
    panels = list(dict.fromkeys((row["data"], row["judge"]) for row in shown))
    named = {(row["arm"], row["control"]): f"{row['arm']} − {row['control']}" for row in shown}
    pairs = sorted(named, key=lambda pair: (pair[1] != "random", list(ARMS).index(pair[0])))
    figure, axes = pyplot.subplots(
        1, len(panels), figsize=(2.4 + 2.4 * len(panels), 1.3 + 0.3 * len(pairs)),
        sharey=True, squeeze=False, layout="constrained",
    )  # fmt: skip
    for axis, (kind, judge) in zip(axes[0], panels, strict=True):
        for row in shown:
            if (row["data"], row["judge"]) == (kind, judge):
                sure = row["p_holm"] < 1 - CONFIDENCE
                axis.errorbar(
                    row["mean"], pairs.index((row["arm"], row["control"])),
                    xerr=row["half_width"], fmt="o", color=SURE if sure else UNSURE, capsize=3,
                )  # fmt: skip
        axis.axvline(0, color="black", linewidth=0.8)
        axis.set(title=f"{kind}: {judge.replace('knn', 'k-NN')}", ylim=(len(pairs) - 0.4, -0.6))
        axis.set_yticks(range(len(pairs)), [named[pair] for pair in pairs])
        axis.grid(axis="x", alpha=0.3)
    figure.supxlabel(
        f"points of top-1, with {CONFIDENCE:.0%} intervals; grey: no difference is shown",
        fontsize="medium",
    )
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
