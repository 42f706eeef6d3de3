"""What a run folder says, however damaged or unfinished it is.

Everything read here was perhaps written by somebody else, or half written: nothing is trusted to
be there, whole, small or of the right type, and what is not is named in ``Run.missing``.
"""

from __future__ import annotations

import base64
import io
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice
from pathlib import Path

from PIL import Image

from videohpm.compat import RENAMED_FIELDS, RENAMED_METRICS, upgrade_names
from videohpm.errors import UserError
from videohpm.report.files import READ, Lines, inside, is_run, read_structure

MOST_PICTURES = 24
MOST_FIELDS = 600
MOST_FILES = 40
MOST_CELLS = 64 * 64
PLAIN_PNG = 400_000
LARGEST_SIDE = 16_000
MOST_PIXELS = 20_000_000


@dataclass
class Run:
    """One run folder, read."""

    name: str
    folder: Path
    metrics: list[dict] = field(default_factory=list)
    """Rows in order of their ``step``; values are finite numbers or None."""
    pictures: dict[str, list[tuple[int, str]]] = field(default_factory=dict)
    """By name: steps and data URIs, in order."""
    diagnostics: list[tuple[int, dict]] = field(default_factory=list)
    """Steps and the output of :func:`videohpm.visualize.diagnostics`."""
    config: dict[str, str] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    evaluations: dict[str, dict[str, str]] = field(default_factory=dict)
    """By file name: dotted fields and values."""
    confusions: dict[str, str] = field(default_factory=dict)
    """By file name: which classes were taken for which, as data URIs."""
    bad_files: list[tuple[str, str]] = field(default_factory=list)
    """Path and reason."""
    samples: int | None = None
    total_steps: int | None = None
    missing: list[str] = field(default_factory=list)
    """What is not there or cannot be read, and what that means for the page."""

    @property
    def step(self) -> int:
        """The last step that was logged."""
        return self.metrics[-1]["step"] if self.metrics else 0

    @property
    def finished(self) -> bool:
        """Whether all steps are done, as far as is known."""
        return self.total_steps is not None and self.step >= self.total_steps


def load_runs(folders: list[str]) -> list[Run]:
    """Read run folders. Raises UserError only for what is no folder, or holds no file of a run."""
    paths = [Path(folder) for folder in folders]
    for path in paths:
        if not path.is_dir():
            raise UserError(f"{path}: no such folder; give the folder of a run")
        if not is_run(path):
            below = list(islice(filter(is_run, sorted(path.glob("*/"))), 3))
            such = f", such as {', '.join(map(str, below))}" if below else ""
            names = ", ".join(READ[:3])
            raise UserError(f"{path}: holds no run (no {names}, ...); give a run folder{such}")
    names = [path.resolve().name or str(path) for path in paths]
    if len(set(names)) < len(names):
        names = ["/".join(path.resolve().parts[-2:]) for path in paths]
    if len(set(names)) < len(names):
        names = [f"{name} ({i + 1})" for i, name in enumerate(names)]
    return [load_run(path, name) for path, name in zip(paths, names, strict=True)]


def load_run(folder: Path, name: str) -> Run:
    """Read one run folder."""
    run = Run(name, folder)
    run.metrics = _metrics(run)
    settings = flatten(_structure(run, "config.yaml", "the settings are not shown"))
    run.config = upgrade_names(settings, RENAMED_FIELDS)
    run.environment = flatten(_structure(run, "environment.json", "the machine is not shown"))
    for file in _found(run, "evaluation*.json", "evaluation*/*.json"):
        path = file.relative_to(folder).as_posix()
        run.evaluations[path] = flatten(_structure(run, path, "its results are not shown"))
    for file in _found(run, "confusion.png", "evaluation*/confusion.png"):
        if uri := _picture(run, file):
            run.confusions[file.relative_to(folder).as_posix()] = uri
    _bad_files(run)
    _progress(run)
    _pictures(run)
    _diagnostics(run)
    return run


def _found(run: Run, *patterns: str) -> list[Path]:
    files = sorted(file for pattern in patterns for file in run.folder.glob(pattern))
    if len(files) > MOST_FILES:
        run.missing.append(f"{patterns[0]}: {len(files) - MOST_FILES} more files are not shown")
    return files[:MOST_FILES]


def signature(folder: Path) -> tuple:
    """Changes when anything that the report reads does: names, sizes and times of files."""
    found = []
    for pattern in READ:
        for file in folder.glob(pattern):
            try:
                status = file.stat()
            except OSError:  # removed since
                continue
            found.append((str(file), status.st_size, status.st_mtime_ns))
    return tuple(sorted(found))


def reason_of(error: Exception) -> str:
    """An error in a few words."""
    text = getattr(error, "strerror", None) or str(error)
    return " ".join(text.split())[:200]


def number(value: object) -> float | None:
    """A finite number, or None."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        value = float(value)
    except OverflowError:
        return None
    return value if math.isfinite(value) else None


def flatten(value: object) -> dict[str, str]:
    """Nested dicts and lists as dotted names and short texts, at most ``MOST_FIELDS``."""
    found: dict[str, str] = {}
    for name, text in _walk(value, "", 0):
        if len(found) >= MOST_FIELDS:
            found["…"] = "more than can be shown"
            break
        found[name or "value"] = text
    return found


def _walk(value: object, name: str, depth: int) -> Iterator[tuple[str, str]]:
    inner = f"{name}." if name else ""
    if isinstance(value, dict) and value and depth < 8:
        for key, part in value.items():
            yield from _walk(part, f"{inner}{_short(key, 200)}", depth + 1)
    elif isinstance(value, list) and depth < 8 and any(isinstance(x, (dict, list)) for x in value):
        for index, part in enumerate(value):
            yield from _walk(part, f"{inner}{index}", depth + 1)
    elif isinstance(value, list):
        shown = ", ".join(_short(part, 60) for part in value[:12])
        yield name, shown + (f", … ({len(value)} values)" if len(value) > 12 else "")
    else:
        yield name, _short(value, 500)


def _short(value: object, most: int) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if value is None:
        return "–"
    if isinstance(value, (dict, list)):
        return f"({len(value)} values)"
    if isinstance(value, int) and value.bit_length() > 200:
        return "(a very large number)"
    text = value if isinstance(value, str) else str(value)
    return text if len(text) <= most else text[: most - 1] + "…"


def _lines(run: Run, name: str) -> Iterator[dict]:
    """The objects of a JSON-lines file; what is left out is named."""
    try:
        lines = Lines(run.folder, run.folder / name)
        for row in lines:
            yield upgrade_names(row, RENAMED_METRICS)
    except (OSError, ValueError) as error:
        run.missing.append(f"{name}: cannot be read ({reason_of(error)})")
    else:
        run.missing += [f"{name}: {note}" for note in lines.notes]


def _metrics(run: Run) -> list[dict]:
    if not (run.folder / "metrics.jsonl").is_file():
        run.missing.append("metrics.jsonl: not there; there are no curves")
        return []
    rows: dict[int, dict] = {}
    nowhere = 0
    for row in _lines(run, "metrics.jsonl"):
        step = number(row.pop("step", None))
        if step is None or not 0 <= step < 1e15:
            nowhere += 1
            continue
        values = {str(name)[:100]: number(value) for name, value in list(row.items())[:200]}
        rows.setdefault(int(step), {"step": int(step)}).update(values)
    if nowhere:
        run.missing.append(f"metrics.jsonl: {nowhere} lines without a step left out")
    if not rows:
        run.missing.append("metrics.jsonl: holds no metrics yet; there are no curves")
    return [rows[step] for step in sorted(rows)]


def _structure(run: Run, name: str, consequence: str) -> object:
    """What a JSON or YAML file holds; {}, and a line in ``missing``, where it is damaged."""
    file = run.folder / name
    if not file.is_file():
        run.missing.append(f"{name}: not there; {consequence}")
        return {}
    try:
        return read_structure(run.folder, file)
    except (OSError, ValueError) as error:
        run.missing.append(f"{name}: cannot be read ({reason_of(error)}); {consequence}")
        return {}


def _bad_files(run: Run) -> None:
    if (run.folder / "bad_files.jsonl").is_file():
        for row in _lines(run, "bad_files.jsonl"):
            run.bad_files.append(
                (_short(row.get("path", "?"), 500), _short(row.get("reason", ""), 300))
            )


def _progress(run: Run) -> None:
    """Samples and total steps, from the newest checkpoint or else the settings."""
    names = [file.parent.name for file in run.folder.glob("checkpoints/step_*/state.json")]
    steps = [name for name in names if re.fullmatch(r"step_[0-9]{8,18}", name)]
    if steps:
        name = f"checkpoints/{max(steps, key=lambda name: int(name[5:]))}/state.json"
        state = _structure(run, name, "the number of samples is not known")
        if isinstance(state, dict):
            steps, samples = number(state.get("steps")), number(state.get("samples"))
            run.total_steps = None if steps is None else int(steps)
            run.samples = None if samples is None else int(samples)
    if run.total_steps is None and run.config.get("run.steps", "").isdecimal():
        run.total_steps = int(run.config["run.steps"][:18])


def _is_classifier(run: Run) -> bool:
    """Whether it is a fine-tuning: nothing is reconstructed there, or mined."""
    return any(name.startswith("augment.") for name in run.config)


def _steps(folder: Path, suffix: str) -> dict[str, list[tuple[int, Path]]]:
    """Files called NAME_STEP.suffix, by name, in order of step, at most ``MOST_PICTURES``."""
    found: dict[str, list[tuple[int, Path]]] = {}
    for file in folder.glob(f"*.{suffix}"):
        match = re.fullmatch(r"(.+?)_?(\d{1,15})", file.stem)
        if match and file.is_file():
            found.setdefault(match[1], []).append((int(match[2]), file))
    for name, files in found.items():
        files.sort()
        if len(files) > MOST_PICTURES:
            last = len(files) - 1
            chosen = {round(i * last / (MOST_PICTURES - 1)) for i in range(MOST_PICTURES)}
            found[name] = [files[i] for i in sorted(chosen)]
    return dict(sorted(found.items())[:MOST_FILES])


def _pictures(run: Run) -> None:
    folder = run.folder / "pictures"
    for name, files in _steps(folder, "png").items():
        for step, file in files:
            if uri := _picture(run, file):
                run.pictures.setdefault(name, []).append((step, uri))
    if not run.pictures and not _is_classifier(run):
        run.missing.append("pictures: none there; there is no gallery")


def _picture(run: Run, file: Path) -> str | None:
    """A picture as a data URI; None, and a line in ``missing``, where it is damaged."""
    name = file.relative_to(run.folder).as_posix()
    try:
        status = inside(run.folder, file).stat()
        return _data_uri(str(file), status.st_size, status.st_mtime_ns)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        why = str(error) if "link" in str(error) else "damaged"
        run.missing.append(f"{name}: {why}; left out")
        return None


@lru_cache(maxsize=256)
def _data_uri(path: str, size: int, changed: int) -> str:
    """A picture as a data URI: what can be decoded, and smaller where it is large.

    ``size`` and ``changed`` are there for the cache: a page that follows a run asks again.
    """
    with Image.open(path, formats=["PNG"]) as image:
        if max(image.size) > LARGEST_SIDE or image.width * image.height > MOST_PIXELS:
            raise ValueError("too large")
        image.load()
        picture = image.convert("RGB")
    out = io.BytesIO()
    kind = "png" if size <= PLAIN_PNG else "webp"
    if kind == "png":
        picture.save(out, "PNG")
    else:
        picture.save(out, "WEBP", quality=88, method=2)
    return f"data:image/{kind};base64,{base64.b64encode(out.getvalue()).decode()}"


def _diagnostics(run: Run) -> None:
    folder = run.folder / "diagnostics"
    for step, file in _steps(folder, "json").get("step", []):
        name = file.relative_to(run.folder).as_posix()
        value = _structure(run, name, "left out")
        values = _checked(value)
        if values:
            run.diagnostics.append((step, values))
        elif value:
            run.missing.append(f"{name}: not as it should be; left out")
    if not run.diagnostics and not _is_classifier(run):
        run.missing.append(
            "diagnostics: none there; calibration and the map of hard tubes are not shown"
        )


def _checked(value: object) -> dict | None:
    """Diagnostics in the form that is drawn, or None."""
    if not isinstance(value, dict) or not isinstance(value.get("maps"), dict):
        return None
    maps = {}
    for name in ("loss", "hardness", "hard"):
        rows = value["maps"].get(name)
        if rows is None:
            continue
        if not isinstance(rows, list) or not all(isinstance(row, list) for row in rows):
            return None
        sizes = {len(row) for row in rows}
        if len(sizes) != 1 or not 0 < len(rows) * max(sizes) <= MOST_CELLS:
            return None
        maps[name] = [[number(cell) for cell in row] for row in rows]
    values = {"maps": maps, "clips": number(value.get("clips")), "calibration": None}
    bins = value.get("calibration")
    if isinstance(bins, dict):
        lists = [bins.get(name) for name in ("loss", "best")]
        if not all(isinstance(part, list) and 0 < len(part) <= 100 for part in lists):
            return None
        values["calibration"] = {
            name: [number(part) for part in bins[name]] for name in ("loss", "best")
        }
    return values
