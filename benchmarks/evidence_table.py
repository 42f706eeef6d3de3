"""Tables, paired differences and the figure of evidence.py, from the files it wrote."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path

from evidence_arms import ARMS, KINDS
from evidence_figure import CONFIDENCE, draw
from scipy import stats

from videohpm.errors import UserError

ROWS = ("untrained", *ARMS)
WANTED = {"images": 0.5, "clips": 1.0}
"""Half-widths that :func:`power` plans for, in points of top-1."""
Runs = dict[str, dict[int, dict]]
"""Results by arm and seed."""


def load(folder: Path, kind: str) -> Runs:
    """What is there of a kind of data, arms in their usual order.

    Raises UserError where a file was made with other settings than the rest: those do not compare.
    """
    found: Runs = {}
    common: tuple[str, dict] | None = None
    for file in sorted((folder / kind).glob("*.json")):
        result = json.loads(file.read_text())
        arm = ARMS.get(result["arm"], ARMS["random"])  # what is untrained is not longer either
        steps = arm.plain_steps(result["settings"]["steps"], kind)
        settings = result["settings"] | {"steps": steps}
        common = common or (file.name, settings)
        if settings != common[1]:
            raise UserError(
                f"{file}: made with other settings than {common[0]}; keep them in another folder "
                "(--out)"
            )
        found.setdefault(result["arm"], {})[result["seed"]] = result
    return {arm: found[arm] for arm in ROWS if arm in found}


# --- differences --------------------------------------------------------------------------------


def paired(runs: Runs, arm: str, control: str, judge: str, split: str = "test") -> list[float]:
    """Arm less control for each seed that both have, in points."""
    ours, theirs = runs.get(arm, {}), runs.get(control, {})
    return [
        ours[seed]["top1"][split][judge] - theirs[seed]["top1"][split][judge]
        for seed in sorted(ours.keys() & theirs.keys())
    ]


def interval(values: list[float]) -> tuple[float, float, float]:
    """Mean, half of the 95 % confidence interval (Student's t), and p of the paired t-test."""
    mean = statistics.mean(values)
    if len(values) < 2:
        return mean, math.inf, 1.0
    error = statistics.stdev(values) / math.sqrt(len(values))
    if error == 0:
        return mean, 0.0, 0.0 if mean else 1.0
    half = error * stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1)
    return mean, float(half), float(2 * stats.t.sf(abs(mean) / error, len(values) - 1))


def holm(p: list[float]) -> list[float]:
    """p corrected for their number (Holm 1979): in order of size, times those that are left."""
    order = sorted(range(len(p)), key=p.__getitem__)
    out, highest = [0.0] * len(p), 0.0
    for done, place in enumerate(order):
        highest = max(highest, min(1.0, p[place] * (len(p) - done)))
        out[place] = highest
    return out


def differences(folder: Path) -> list[dict]:
    """Every arm less its controls, by every judge, on the test split."""
    rows: list[dict] = []
    for kind in KINDS:
        runs = load(folder, kind)
        for judge in judges(runs):
            for row in compared(runs, partial(paired, runs, judge=judge)):
                rows.append({"data": kind, "judge": judge} | row)
    return rows


def reconstructions(runs: Runs) -> list[dict]:
    """The same of the error of reconstruction under random masks, in % of the control's.

    On validation; of arms that all reconstruct pixels.
    """
    pixels = {arm: found for arm, found in runs.items() if arm in ARMS and not ARMS[arm].model}
    return compared(pixels, partial(fewer_errors, pixels))


def fewer_errors(runs: Runs, arm: str, control: str) -> list[float]:
    """By how many % of the control's the validation loss differs, for each seed of both."""
    ours, theirs = (
        {s: r["diagnostics"].get("validation loss") for s, r in runs.get(name, {}).items()}
        for name in (arm, control)
    )
    return [
        100 * (ours[seed] / theirs[seed] - 1)
        for seed in sorted(ours.keys() & theirs.keys())
        if ours[seed] and theirs[seed]
    ]


def compared(runs: Runs, values: Callable[[str, str], list[float]]) -> list[dict]:
    """Mean, interval and p of ``values(arm, control)`` for every arm and its controls.

    p_holm is corrected for the arms that are compared with one control.
    """
    rows: list[dict] = []
    for control in ("random", "longer", "predict", "hpm"):
        family = []
        for arm in runs:
            each = values(arm, control) if _compares(arm, control) else []
            if len(each) > 1:
                mean, half, p = interval(each)
                family.append({"arm": arm, "control": control, "mean": mean, "half_width": half,
                               "seeds": len(each), "p": p})  # fmt: skip
        corrected = holm([row["p"] for row in family])
        rows += [row | {"p_holm": p} for row, p in zip(family, corrected, strict=True)]
    return rows


def _compares(arm: str, control: str) -> bool:
    if arm in (control, "untrained"):
        return False
    if control == "random":
        return True
    if control == "longer":
        return arm == "hpm"
    return ARMS[arm].control == control


def judges(runs: Runs) -> list[str]:
    """``judge class`` names, those of one judge together."""
    for by_seed in runs.values():
        for result in by_seed.values():
            return sorted(result["top1"]["test"], key=_order)
    return []


def _order(name: str) -> tuple[int, str]:
    return ("linear", "knn", "fine-tuned").index(name.split()[0]), name


def power(folder: Path) -> str:
    """How many seeds give the half-widths of :data:`WANTED`, from the spread seen so far.

    Validation alone is looked at, because this decides how long one goes on.
    """
    lines = [_row(["data", "arm", "control", "judge", "seeds", "spread", "wanted", "seeds needed"])]
    lines.append(_row(["---"] * 8))
    for kind in KINDS:
        runs = load(folder, kind)
        for arm in runs:
            for control in ("random", "predict"):
                if arm != "hpm" and (control != "random" or arm in ("random", "untrained")):
                    continue
                for judge in judges(runs):
                    values = paired(runs, arm, control, judge, "validation")
                    if len(values) < 3:
                        continue
                    spread, wanted = statistics.stdev(values), WANTED[kind]
                    needed = seeds_needed(spread, wanted)
                    lines.append(_row([kind, arm, control, judge, str(len(values)),
                                       f"{spread:.2f}", f"{wanted:g}", str(needed)]))  # fmt: skip
    return "\n".join(lines)


def seeds_needed(spread: float, half_width: float) -> int:
    """The fewest seeds whose 95 % interval is no wider than ± ``half_width``."""
    count = 2
    while stats.t.ppf((1 + CONFIDENCE) / 2, count - 1) * spread / math.sqrt(count) > half_width:
        count += 1
    return count


# --- files --------------------------------------------------------------------------------------


def write_tables(folder: Path) -> str:
    """README.md, summary.json and differences.png in the folder of the results; the first back."""
    rows, runs = differences(folder), {kind: load(folder, kind) for kind in KINDS}
    summary = {
        "differences": rows,
        "reconstructions": [
            {"data": kind} | row for kind in KINDS for row in reconstructions(runs[kind])
        ],
        "runs": {kind: _facts(runs[kind]) for kind in KINDS},
    }
    (folder / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    text = tables(folder, rows)
    (folder / "README.md").write_text(text)
    if rows:
        draw(rows, folder / "differences.png")
    return text


def _facts(runs: Runs) -> dict:
    some = [result for by_seed in runs.values() for result in by_seed.values()]
    seconds = sum(sum(r["processor_seconds"].values()) for r in some if "processor_seconds" in r)
    machines = sorted({
        f"{r['machine']['device']}, {r['machine']['threads']} thread, torch {r['machine']['torch']}"
        for r in some
    })  # fmt: skip
    return {"count": len(some), "hours": seconds / 3600, "machines": machines,
            "settings": some[0]["settings"] if some else {}}  # fmt: skip


def tables(folder: Path, rows: list[dict]) -> str:
    """Accuracies, paired differences, diagnostics and costs, as Markdown."""
    parts = ["# Does mining hard tubes help: all numbers",
             "Written by `python benchmarks/evidence.py table`; what they say is in "
             "[the measurements](../../README.md#does-mining-hard-tubes-help)."]  # fmt: skip
    for kind in KINDS:
        runs = load(folder, kind)
        if not runs:
            continue
        facts = _facts(runs)
        hours = f", {facts['hours']:.1f} hours of processor time" if facts["hours"] else ""
        settings = ", ".join(f"{k.replace('_', ' ')} {v}" for k, v in facts["settings"].items())
        parts += [
            f"## {kind.capitalize()}",
            f"{facts['count']} runs{hours}; {'; '.join(facts['machines'])}. {settings}.",
            "Top-1 of the test split, %: mean ± standard deviation over seeds.",
            _accuracies(runs),
            "Arm less control, seed by seed, in points: mean ± half of the 95 % confidence "
            "interval (p of the paired t-test, corrected for the arms of a column after Holm).",
            _differences([row for row in rows if row["data"] == kind], judges(runs)),
            "Error of reconstruction under random masks, on validation: the same, in % of the "
            "control's; less is better.",
            _reconstructions(reconstructions(runs)),
            "Diagnostics on validation, mean over seeds.",
            _diagnostics(runs),
        ]
    return "\n\n".join(parts) + "\n"


def _accuracies(runs: Runs) -> str:
    names = judges(runs)
    lines = [
        _row(["arm", "what it does", "seeds", *names, "s a run"]),
        _row(["---"] * (len(names) + 4)),
    ]
    for arm, by_seed in runs.items():
        cells = [_spread([r["top1"]["test"][name] for r in by_seed.values()]) for name in names]
        seconds = [r["processor_seconds"]["training"] for r in by_seed.values()
                   if "processor_seconds" in r]  # fmt: skip
        what = ARMS[arm].description if arm in ARMS else "no training"
        lines.append(
            _row(
                [
                    arm,
                    what,
                    str(len(by_seed)),
                    *cells,
                    f"{statistics.mean(seconds):.0f}" if seconds else "",
                ]
            )
        )
    return "\n".join(lines)


def _differences(rows: list[dict], names: list[str]) -> str:
    lines = [_row(["arm", "control", "seeds", *names]), _row(["---"] * (len(names) + 3))]
    for arm, control in dict.fromkeys((row["arm"], row["control"]) for row in rows):
        own = {row["judge"]: row for row in rows if (row["arm"], row["control"]) == (arm, control)}
        cells = [told(own[name]) if name in own else "" for name in names]
        seeds = str(max(row["seeds"] for row in own.values()))
        lines.append(_row([arm, control, seeds, *cells]))
    return "\n".join(lines)


def _reconstructions(rows: list[dict]) -> str:
    lines = [_row(["arm", "control", "seeds", "error, %"]), _row(["---"] * 4)]
    lines += [_row([row["arm"], row["control"], str(row["seeds"]), told(row)]) for row in rows]
    return "\n".join(lines)


def told(row: dict) -> str:
    """``mean ± half width (p)``."""
    p = f"{row['p_holm']:.2f}" if row["p_holm"] >= 0.005 else "<.01"
    return f"{row['mean']:+.2f} ± {row['half_width']:.2f} ({p.lstrip('0')})"


def _diagnostics(runs: Runs) -> str:
    names = list(dict.fromkeys(
        name for by_seed in runs.values() for r in by_seed.values() for name in r["diagnostics"]
    ))  # fmt: skip
    names = [name for name in names if not name.startswith("fixed map")]
    lines = [_row(["arm", *names]), _row(["---"] * (len(names) + 1))]
    for arm, by_seed in runs.items():
        cells = []
        for name in names:
            values = [r["diagnostics"].get(name) for r in by_seed.values()]
            known = [value for value in values if value is not None]
            cells.append(f"{statistics.mean(known):.3f}" if known else "")
        lines.append(_row([arm, *cells]))
    return "\n".join(lines)


def _spread(values: list[float]) -> str:
    mean = f"{statistics.mean(values):.1f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.1f}"


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
