"""The table of step.py as bars."""

from __future__ import annotations

from pathlib import Path

from arms import PARTS

COLOURS = ("#7a4fb5", "#b8b8b8", "#2f7fc1", "#e3a72f", "#1d4e89", "#6aa84f")


def draw(said: dict, path: Path) -> None:
    """One panel a case, one stacked bar an arm, in units of our plain step; a tick is the limit."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    cases = said["cases"]
    figure, panels = pyplot.subplots(
        len(cases), 1, figsize=(9, 1 + 1.6 * len(cases)), squeeze=False, layout="constrained"
    )
    for panel, case in zip(panels[:, 0], cases, strict=True):
        arms = case["arms"]
        unit = arms.get("plain", next(iter(arms.values())))["seconds"]
        for row, fact in enumerate(arms.values()):
            left = 0.0
            for part, colour in zip(PARTS, COLOURS, strict=True):
                width = fact["parts"][part] / unit
                panel.barh(row, width, left=left, color=colour, label=None if row else part)
                left += width
            panel.text(left, row, f" {fact['seconds'] / unit:.2f}", va="center", fontsize=9)
            limit = fact["limit_seconds"] / unit
            panel.plot([limit] * 2, [row - 0.45, row + 0.45], color="black", linewidth=1.5)
        panel.set_yticks(range(len(arms)), list(arms))
        panel.invert_yaxis()
        panel.spines[["top", "right"]].set_visible(False)
        panel.set_title(f"{case['case']}, batch {case['batch']}", loc="left", fontsize=10)
    panels[-1, 0].set_xlabel("time of a step, our plain step = 1; black: its FLOPs at matmul rate")
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=6)
    figure.savefig(path, dpi=150)
    pyplot.close(figure)
