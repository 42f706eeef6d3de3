"""Tables and curves of evidence.py, from the files it wrote."""

from __future__ import annotations

import json
import math
import statistics
from pathlib import Path

from evidence_arms import ARMS, CONTROL
from scipy import stats

ROWS = ["untrained", *ARMS]


def load(folder: Path) -> dict[str, dict[int, dict]]:
    """Results by arm and seed, arms in their usual order."""
    found: dict[str, dict[int, dict]] = {}
    for file in sorted(folder.glob("*.json")):
        result = json.loads(file.read_text())
        found.setdefault(result["arm"], {})[result["seed"]] = result
    return {arm: found[arm] for arm in ROWS if arm in found}


def tables(folder: Path) -> str:
    """Accuracies, their differences from the control, diagnostics and costs, as Markdown."""
    found = load(folder)
    if not found:
        return f"{folder}: no results\n"
    some = next(iter(next(iter(found.values())).values()))
    settings = ", ".join(f"{k} {v}" for k, v in some["settings"].items())
    machine = some["machine"]
    seconds = sum(sum(r["seconds"].values()) for runs in found.values() for r in runs.values())
    parts = [
        f"Settings: {settings}. {machine['device']}, {machine['threads']} thread a run, torch "
        f"{machine['torch']}; {seconds / 3600:.1f} hours for all runs together.",
        "In short:",
        _short(found),
        "Validation top-1, %: mean over seeds ± standard deviation.",
        _grid(found, "top1", _spread),
        "Difference from the control (random tubes, or the named one) seed by seed: mean ± half "
        "of the 95 % confidence interval (Student's t), p of the paired t-test.",
        _differences(found, CONTROL, "random"),
        "The same against HPM as configured by default.",
        _differences(found, {}, "hpm"),
        "Diagnostics, mean over seeds.",
        _grid(found, "diagnostics", lambda values: f"{statistics.mean(values):.3f}"),
        _costs(found),
    ]
    return "\n\n".join(parts) + "\n"


def summary(folder: Path) -> str:
    """One row an arm, as benchmarks/README.md shows it; all columns are in :func:`tables`."""
    return _short(load(folder))


def _short(found: dict) -> str:
    kind = "both" if _has(found, "linear both") else "shape"
    judges = [name for name in ("linear", "attentive", "knn", "fine-tuned")
              if _has(found, f"{name} {kind}")]  # fmt: skip
    heads = ["arm", "seeds", *judges, "all − control", "all − hpm", "object hidden", "s a run"]
    lines = [_row(heads), _row(["---"] * len(heads))]
    for arm, runs in found.items():
        cells = [_spread([run["top1"][f"{name} {kind}"] for run in runs.values()])
                for name in judges]  # fmt: skip
        apart = [
            _apart(found, arm, base)[1].get("all") for base in (CONTROL.get(arm, "random"), "hpm")
        ]
        hidden, seconds = (
            statistics.mean(run[part][name] for run in runs.values())
            for part, name in (
                ("diagnostics", "clips with the object hidden"), ("seconds", "training"))
        )  # fmt: skip
        lines.append(_row([
            arm, str(len(runs)), *cells, *(paired(values) if values else "" for values in apart),
            f"{100 * hidden:.0f} %", f"{seconds:.0f}" if seconds else "",
        ]))  # fmt: skip
    return "\n".join(lines)


def _has(found: dict, name: str) -> bool:
    return any(name in run["top1"] for runs in found.values() for run in runs.values())


def _apart(found: dict, arm: str, base: str) -> tuple[list[int], dict[str, list[float]]]:
    """Seeds that both arms have, and what lies between the arms, column by column."""
    runs, others = found[arm], found.get(base, {})
    seeds = sorted(runs.keys() & others.keys())
    if runs is others or not seeds:
        return [], {}
    apart = {
        name: [runs[s]["top1"][name] - others[s]["top1"][name] for s in seeds]
        for name in runs[seeds[0]]["top1"]
    }
    apart["all"] = [statistics.mean(column) for column in zip(*apart.values(), strict=True)]
    return seeds, apart


def _grid(found: dict, section: str, show) -> str:
    names = list(dict.fromkeys(
        name for runs in found.values() for run in runs.values() for name in run[section]
    ))  # fmt: skip
    lines = [_row(["arm", "seeds", *names]), _row(["---"] * (len(names) + 2))]
    for arm, runs in found.items():
        cells = []
        for name in names:
            values = [run[section][name] for run in runs.values() if name in run[section]]
            cells.append(show(values) if values else "")
        lines.append(_row([arm, str(len(runs)), *cells]))
    return "\n".join(lines)


def _differences(found: dict, control: dict[str, str], usual: str) -> str:
    names = list(next(iter(found[usual].values()))["top1"]) if usual in found else []
    lines = [_row(["arm", "against", "seeds", *names, "mean of all"])]
    lines.append(_row(["---"] * (len(names) + 4)))
    for arm in found:
        base = control.get(arm, usual)
        seeds, apart = _apart(found, arm, base)
        if seeds:
            cells = [paired(values) for values in apart.values()]
            lines.append(_row([arm, base, str(len(seeds)), *cells]))
    return "\n".join(lines)


def paired(apart: list[float]) -> str:
    """``mean ± half of the 95 % interval (p)``; without a spread only the mean."""
    mean = statistics.mean(apart)
    if len(apart) < 2 or statistics.stdev(apart) == 0:
        return f"{mean:+.1f}"
    error = statistics.stdev(apart) / math.sqrt(len(apart))
    half = error * stats.t.ppf(0.975, len(apart) - 1)
    p = 2 * stats.t.sf(abs(mean) / error, len(apart) - 1)
    return f"{mean:+.1f} ± {half:.1f} ({f'{p:.2f}' if p >= 0.005 else '<0.01'})"


def _spread(values: list[float]) -> str:
    mean = f"{statistics.mean(values):.1f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.1f}"


def _costs(found: dict) -> str:
    lines = [_row(["arm", "what it does", "training, s a run"]), _row(["---"] * 3)]
    for arm, runs in found.items():
        if arm != "untrained":
            seconds = statistics.mean(run["seconds"]["training"] for run in runs.values())
            lines.append(_row([arm, ARMS[arm].description, f"{seconds:.0f}"]))
    return "\n".join(lines)


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def draw_curves(folder: Path) -> None:
    """curves.png: loss and rank correlation over training, mean of the seeds."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(11, 4), layout="constrained")
    for arm, runs in load(folder).items():
        curves = [run["curve"] for run in runs.values() if run["curve"]]
        for axis, name in zip(axes, ("loss", "rank_correlation"), strict=True):
            rows = [[row for row in curve if name in row] for curve in curves]
            if rows and rows[0]:
                steps = [row["step"] for row in rows[0]]
                means = [statistics.mean(row[name] for row in same)
                         for same in zip(*rows, strict=True)]  # fmt: skip
                axis.plot(steps, means, label=arm, linewidth=1.2)
    axes[0].set(xlabel="step", ylabel="training loss (of what the arm hides)", yscale="log")
    axes[1].set(xlabel="step", ylabel="rank correlation, predicted and true loss")
    for axis in axes:
        if axis.get_legend_handles_labels()[1]:
            axis.legend(fontsize=7)
    figure.savefig(folder / "curves.png", dpi=110)
    pyplot.close(figure)
