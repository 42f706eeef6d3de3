"""The report: one HTML page that holds everything it shows."""

from __future__ import annotations

import os
from pathlib import Path

from videohpm.errors import UserError
from videohpm.report import charts
from videohpm.report.charts import short, text
from videohpm.report.runs import Run, load_runs
from videohpm.report.style import COLOURS, POLICY, SCRIPT, STYLE
from videohpm.report.verdict import mining_verdict, verdict
from videohpm.writing import complete

CURVES = {
    "loss": "training loss",
    "probe_loss": "loss of the clips that are looked at, under random masks",
    "mean_colour_loss": "the same of each clip's mean colour",
    "knn_top1": "classes by nearest neighbours (top-1, per cent)",
    "linear_top1": "classes by a linear probe (top-1, per cent)",
    "effective_rank": "effective rank of the features",
    "feature_spread": "spread of the features",
    "feature_change": "change of the features since the look before",
    "predictor_loss": "loss of the predictor",
    "rank_correlation": "predicted against true hardness (rank correlation)",
    "teacher_rank_correlation": "teacher's scores against true hardness (rank correlation)",
    "beyond_position": "the same beyond what the position explains",
    "position_share": "share of the teacher's ranking that the position explains",
    "choice_overlap": "hard tubes that two clips share, beyond chance",
    "true_position_share": "share of the true ranking that the position explains",
    "true_choice_overlap": "truly hard tubes that two clips share, beyond chance",
    "hard_ratio": "share of the mask that is chosen as hard",
    "lr": "learning rate",
    "clips_per_second": "clips a second",
    "data_wait": "share of the time spent waiting for data",
    "momentum": "momentum of the teacher",
    "teacher_distance": "distance of teacher and student",
    "gradient_norm": "norm of the gradient",
    "bad_files": "files that could not be read",
}
NOT_DRAWN = {"step", "epoch"}
HIDDEN = "hidden"
"""The name of the pictures that stand side by side."""
OF_CLIPS = (
    "data.root", "data.manifest", "data.sampling", "data.stride", "data.crop", "run.seed",
    "model.frames", "model.image_size",
)  # fmt: skip
"""What decides which clips a run draws."""
MOST_CURVES = 60
MOST_BAD_FILES = 200
REFRESH_SECONDS = 10


def report(runs: list[str], output: str = "report.html") -> None:
    """Put runs side by side in one page that needs no network.

    Args:
        runs: run folders.
        output: HTML file to write.
    """
    file = Path(output)
    _check_output(file)
    loaded = load_runs(runs)
    file.parent.mkdir(parents=True, exist_ok=True)
    with complete(file) as partial:
        partial.write_bytes(page(loaded).encode())
    missing = sum(len(run.missing) for run in loaded)
    where = "the top of the page says what and why"
    lacking = f"; not shown, or only in part: {missing} ({where})" if missing else ""
    print(f"{output}: {', '.join(run.name for run in loaded)}{lacking}")


def _check_output(file: Path) -> None:
    """UserError where no page can be written to ``file``."""
    if file.is_dir():
        name = file / "report.html"
        raise UserError(f"output: {file} is a folder; name a file, such as {name}")
    if file.suffix.lower() not in (".html", ".htm"):
        raise UserError(f"output: {file} must end in .html or .htm")
    nearest = next(path for path in file.absolute().parents if path.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise UserError(f"output: {nearest} is no folder that can be written to; give another file")


def page(runs: list[Run], *, follow: bool = False) -> str:
    """The whole page. ``follow``: it fetches itself again until all runs are done."""
    going = follow and not all(run.finished for run in runs)
    title = " · ".join(run.name for run in runs)
    refresh = f'<meta http-equiv="refresh" content="{REFRESH_SECONDS}">' if going else ""
    body = [
        f"<h1><bdi>{text(title)}</bdi></h1>",
        f'<p class="faint">follows the run; reloads every {REFRESH_SECONDS} s</p>' * going,
        _overview(runs),
        _curves(runs),
        _over_training(runs),
        _evaluations(runs),
        _confusions(runs),
        _data(runs),
        _table("Settings", [run.config for run in runs], runs),
        _table("Environment", [run.environment for run in runs], runs),
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta name="referrer" content="no-referrer">{refresh}<link rel="icon" href="data:,">'
        f"<title>{text(title)}</title><style>{STYLE}</style></head>\n<body>"
        + "\n".join(filter(None, body))
        + f"\n<script>{SCRIPT}</script></body></html>\n"
    )


def _name(run: Run, number: int) -> str:
    return f"{_mark(number)}<bdi>{text(run.name)}</bdi>"


def _mark(number: int) -> str:
    return f'<span class="mark s{number % COLOURS}"></span>'


def _overview(runs: list[Run]) -> str:
    cards = []
    for number, run in enumerate(runs):
        total = "" if run.total_steps is None else f" of {run.total_steps:,}"
        state = "done" if run.finished else "not finished"
        facts = [f"step {run.step:,}{total} ({state})"]
        last = run.metrics[-1] if run.metrics else {}
        facts += [
            f"{name.replace('_', ' ')} {short(last[name])}"
            for name in ("loss", "rank_correlation")
            if last.get(name) is not None
        ]
        learns, mines = verdict(run.metrics), mining_verdict(run.metrics)
        verdicts = [str(learns)] if learns else []
        if mines and mines not in "".join(verdicts):
            verdicts.append(mines)
        missing = "".join(f"<li>{text(line)}</li>" for line in run.missing[:30])
        if len(run.missing) > 30:
            missing += f"<li>and {len(run.missing) - 30} more</li>"
        cards.append(
            f'<div class="card run"><h3>{_name(run, number)}</h3><p>{" · ".join(facts)}</p>'
            + "".join(f'<p class="verdict">{text(line)}</p>' for line in verdicts)
            + (f'<ul class="missing">{missing}</ul>' if missing else "")
            + "</div>"
        )
    return f'<div class="cards wide">{"".join(cards)}</div>'


def _curves(runs: list[Run]) -> str:
    found = {name for run in runs for row in run.metrics for name in row} - NOT_DRAWN
    names = [name for name in CURVES if name in found] + sorted(found - CURVES.keys())
    if not names:
        return '<h2>Curves</h2><p class="none">No run has metrics.</p>'
    cards = []
    for name in names[:MOST_CURVES]:
        series = []
        for number, run in enumerate(runs):
            points = [(row["step"], row[name]) for row in run.metrics if name in row]
            if any(value is not None for _, value in points):
                series.append((run.name, number, points))
        if not series:
            continue
        label = CURVES.get(name, name)
        if name == "predictor_loss":
            label += _objectives([runs[number] for _, number, _ in series])
        last = " ".join(f"{_mark(number)}{short(_last(points))}" for _, number, points in series)
        cards.append(
            f'<div class="card curve"><h3>{text(label)}</h3>{charts.curve(label, series)}'
            f'<p class="faint">{text(name)}, last: {last}</p></div>'
        )
    more = len(names) - MOST_CURVES
    left_out = f'<p class="faint">{more} more metrics are not drawn.</p>' if more > 0 else ""
    return f'<h2>Curves</h2>{_legend(runs)}<div class="cards">{"".join(cards)}</div>{left_out}'


def _objectives(runs: list[Run]) -> str:
    """Which objectives the predictors of these runs were trained on, as far as is known."""
    names = {name for run in runs if (name := run.config.get("hpm.objective"))}
    return f" ({', '.join(sorted(names))} objective)" if names else ""


def _last(points: list[charts.Point]) -> float | None:
    return next((value for _, value in reversed(points) if value is not None), None)


def _legend(runs: list[Run]) -> str:
    names = "".join(f"<li>{_name(run, number)}</li>" for number, run in enumerate(runs))
    return f'<ul class="legend">{names}</ul>' if len(runs) > 1 else ""


def _over_training(runs: list[Run]) -> str:
    """Pictures, calibration and maps of all runs, under one slider."""
    steps = {step for run in runs for strip in run.pictures.values() for step, _ in strip}
    steps |= {step for run in runs for step, _ in run.diagnostics}
    if not steps:
        return ""
    ordered = sorted(steps)
    slider = (
        '<div class="slider"><label for="step">over training</label>'
        f'<input type="range" id="step" min="0" max="{len(ordered) - 1}" '
        f'value="{len(ordered) - 1}" data-steps="{" ".join(map(str, ordered))}">'
        f'<output id="shown" for="step">step {ordered[-1]}</output></div>'
    )
    parts = []
    if any(run.diagnostics for run in runs):
        parts.append(
            '<p class="faint">Bars: mean true loss of hidden tubes (or tokens), sorted by what the '
            "predictor gave them, easy to hard. Lines across: the same if it had sorted them "
            "rightly. Maps: means over clips and time, by position in the frame.</p>"
        )
    cards = []
    for number, run in enumerate(runs):
        cards += [
            f'<div class="card"><h3>{_name(run, number)}: is the predictor right, and where does '
            f"it look?</h3>{_strip(_diagnosis(run, number))}</div>"
        ] * bool(run.diagnostics)
    for number, run in enumerate(runs):
        cards += [
            f'<div class="card"><h3>{_name(run, number)}: {text(name)}</h3>{_pictures(run, name)}'
            "</div>"
            for name in run.pictures
            if name != HIDDEN
        ]
    inside = f'{"".join(parts)}<div class="cards wide">{"".join(cards)}</div>{_hidden(runs)}'
    return f"<section><h2>Over training</h2>{slider}{inside}</section>"


def _pictures(run: Run, name: str) -> str:
    return _strip(
        [
            (step, f'<img src="{uri}" alt="{text(name)} at step {step}">')
            for step, uri in run.pictures[name]
        ]
    )


def _hidden(runs: list[Run]) -> str:
    """What all runs hide in the same clips, side by side."""
    shown = [(number, run) for number, run in enumerate(runs) if HIDDEN in run.pictures]
    if not shown:
        return ""
    cards = "".join(
        f'<div class="card"><h3>{_name(run, number)}</h3>{_pictures(run, HIDDEN)}</div>'
        for number, run in shown
    )
    other = [name for name in OF_CLIPS if len({run.config.get(name) for _, run in shown}) > 1]
    note = f" Not the same clips: {', '.join(other)} differ." if other else ""
    title = "What is hidden" if len(shown) == 1 else "What each run hides in the same clips"
    return (
        f"<h3>{title}</h3>"
        f'<p class="faint">Orange: chosen by scores. Grey: hidden at random.{text(note)}</p>'
        f'<div class="cards">{cards}</div>'
    )


def _strip(figures: list[tuple[int, str]]) -> str:
    """All of them stand below each other; the script leaves the one of the chosen step."""
    inside = "".join(
        f'<figure data-step="{step}">{content}<figcaption>step {step}</figcaption></figure>'
        for step, content in figures
    )
    return f'<div class="strip">{inside}</div>'


def _diagnosis(run: Run, number: int) -> list[tuple[int, str]]:
    figures = []
    for step, values in run.diagnostics:
        parts = []
        if values["calibration"]:
            parts.append(charts.calibration(values["calibration"], number))
        maps = values["maps"]
        hard = maps.get("hard")
        titles = {
            "hard": "how often the teacher chooses a position",
            "hardness": "rank of the teacher's hardness",
            "loss": "true loss",
        }
        for name, title in titles.items():
            if name not in maps:
                continue
            if name == "hard" and not any(cell for row in hard for cell in row):
                drawn = '<p class="none">nothing is chosen yet</p>'
            else:
                drawn = charts.heat_map(title, maps[name], percent=name == "hard")
            parts.append(f"<div><p>{title}</p>{drawn}</div>")
        first = parts.pop(0) if values["calibration"] else ""
        figures.append((step, f'{first}<div class="maps">{"".join(parts)}</div>'))
    return figures


def _evaluations(runs: list[Run]) -> str:
    names = sorted({name for run in runs for name in run.evaluations})
    return "".join(
        _table(f"Evaluation: {name}", [run.evaluations.get(name, {}) for run in runs], runs, True)
        for name in names
    )


def _confusions(runs: list[Run]) -> str:
    cards = "".join(
        f'<div class="card"><h3>{_name(run, number)}: {text(name)}</h3><figure>'
        f'<img src="{uri}" alt="{text(name)}: right classes down, predicted ones across">'
        "</figure></div>"
        for number, run in enumerate(runs)
        for name, uri in run.confusions.items()
    )
    note = '<p class="faint">Of each class (row), the share that was called each class.</p>'
    return f'<h2>Confusions</h2>{note}<div class="cards wide">{cards}</div>' if cards else ""


def _data(runs: list[Run]) -> str:
    cards = []
    for number, run in enumerate(runs):
        samples = "unknown" if run.samples is None else f"{run.samples:,}"
        source = run.config.get("data.manifest", "–")
        source = run.config.get("data.root", "unknown") if source == "–" else source
        rows = "".join(
            f"<tr><td><bdi>{text(path)}</bdi></td><td>{text(reason)}</td></tr>"
            for path, reason in run.bad_files[:MOST_BAD_FILES]
        )
        more = len(run.bad_files) - MOST_BAD_FILES
        rows += f"<tr><td colspan=2>and {more} more</td></tr>" if more > 0 else ""
        table = (
            f"<details><summary>the files</summary><table><tr><th>file</th><th>reason</th></tr>"
            f"{rows}</table></details>"
            if rows
            else ""
        )
        cards.append(
            f'<div class="card"><h3>{_name(run, number)}</h3><p>{samples} samples from '
            f"<bdi>{text(source)}</bdi>; {len(run.bad_files)} files could not be read and were "
            f"replaced</p>{table}</div>"
        )
    return f'<h2>Data</h2><div class="cards wide">{"".join(cards)}</div>'


def _table(title: str, columns: list[dict[str, str]], runs: list[Run], opened: bool = False) -> str:
    """Fields down, runs across; what differs between runs is printed bold."""
    fields = list(dict.fromkeys(name for column in columns for name in column))
    if not fields:
        return ""
    head = "".join(f"<th>{_name(run, number)}</th>" for number, run in enumerate(runs))
    rows, differing = [], 0
    for name in fields:
        values = [column.get(name, "") for column in columns]
        differs = len(set(values)) > 1
        differing += differs
        cells = "".join(f"<td><bdi>{text(value)}</bdi></td>" for value in values)
        rows.append(f"<tr{' class=differs' * differs}><th>{text(name)}</th>{cells}</tr>")
    summary = f"{len(fields)} fields" + (f", {differing} differ" if len(runs) > 1 else "")
    return (
        f"<h2>{text(title)}</h2><details{' open' * opened}><summary>{summary}</summary>"
        f'<div class="scroll"><table><tr><th></th>{head}</tr>{"".join(rows)}</table></div>'
        "</details>"
    )
