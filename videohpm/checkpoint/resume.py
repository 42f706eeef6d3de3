"""Which checkpoint a run goes on from: the newest that is sound, and does not end in NaN again.

One process decides and tells the others. What cannot be used is renamed, never removed.
"""

from __future__ import annotations

import json
import logging
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from videohpm.checkpoint import folders
from videohpm.checkpoint.soundness import find_damage, name_another, read_state
from videohpm.errors import DamagedError, UserError

NOT_FINITE = "not_finite.jsonl"
MOST_FAILURES = 3
"""How often a run may end in NaN or infinity after the same checkpoint, with the same settings."""

_log = logging.getLogger(__name__)


class Found(NamedTuple):
    """A checkpoint to go on from, and those that were newer and cannot be used: why."""

    folder: Path | None
    damaged: dict[Path, str]


def to_resume(run: Path, resume: str, config: Mapping[str, Any] | None = None) -> Path | None:
    """The checkpoint that ``run.resume`` means; damaged ones are set aside, with a warning.

    Args:
        resume: auto (the newest of the run, if it has any), never, or the path of one, or of a
            run. Where the run holds checkpoints that were written under the same value, the same
            command was started again: it goes on from the newest of those.
        config: the run's configuration as plain values.

    Raises UserError where it is never, but the run has checkpoints; where a path was given and what
    it means is damaged; where all are damaged; and where the loss was not finite again and again.
    """
    own = folders.checkpoints(run)
    if resume == "never":
        if own:
            raise UserError(
                f"run.resume: never, but {run} holds checkpoints; give another --run.dir or remove "
                "it"
            )
        return None
    if resume == "auto":
        given = None
    else:
        own = [path for path in own if _may_be_of(path, resume)]
        given = folders.latest(Path(resume)) or Path(resume)
    found = _newest_sound(own)
    chosen = found.folder or given
    if found.folder is None and given is not None:
        reason = find_damage(given)
        if reason is not None:
            other = name_another(given)
            raise UserError(f"run.resume: {given} cannot be used ({reason}){other}")
    if chosen is None and found.damaged:
        newest, reason = next(iter(found.damaged.items()))
        raise UserError(
            f"run.dir: no checkpoint of {run} is sound (the newest, {newest.name}: {reason}); give "
            "run.resume the path of another, or start anew in another --run.dir"
        )
    for path, reason in found.damaged.items():
        _set_aside(path, "damaged", f"is damaged ({reason})", chosen)
    return _avoid_failures(run, chosen, own, _key(config or {}))


def going_on_from(run: Path, resume: str) -> dict | None:
    """The state of a checkpoint that a run with ``run.resume`` will go on from, the newest that can
    be read; None where the run begins. :func:`to_resume` decides; this only tells beforehand that
    what the run began with is settled."""
    if resume == "never":
        return None
    given = [] if resume == "auto" else [folders.latest(Path(resume)) or Path(resume)]
    for folder in (*reversed(folders.checkpoints(run)), *given):
        try:
            return read_state(folder)
        except UserError:
            continue
    return None


def note_not_finite(run: Path, config: Mapping[str, Any], reason: str) -> None:
    """Remember that a loss or a weight was not finite after the newest checkpoint of a run.

    Args:
        config: the run's configuration as plain values: another gets a new chance.
        reason: what the run ends with.
    """
    _append(run, folders.latest(run), _key(config), reason)


def _avoid_failures(run: Path, chosen: Path | None, own: Sequence[Path], key: str) -> Path | None:
    """``chosen``, or one before it, where a run has ended in NaN after ``chosen`` twice.

    Once may be chance. After the second time an older checkpoint is tried, once: if the way from
    there ends in NaN too, no checkpoint is to blame.
    """
    rows = [row for row in _failures(run) if row["settings"] == key]
    rows = [row for row in rows if row["checkpoint"] == (chosen.name if chosen else None)]
    reasons = [row["reason"] for row in rows if row["reason"]]
    if len(reasons) < MOST_FAILURES - 1:
        return chosen
    tried_before = len(rows) > len(reasons)
    older = _newest_sound([path for path in own if chosen and path.name < chosen.name]).folder
    if len(reasons) >= MOST_FAILURES or (older is None and not tried_before):
        raise UserError(
            f"{run}: ended {len(reasons)} times after {chosen.name if chosen else 'its start'} "
            f"with values that are not finite ({reasons[-1]}); change the settings, e.g. a lower "
            f"optim.base_lr or an engine.grad_clip, or remove {run / NOT_FINITE} to try once more"
        )
    if tried_before or chosen is None:
        return chosen
    _append(run, chosen, key, None)
    _set_aside(chosen, "not_finite", "led to values that are not finite twice", older)
    return older


def _newest_sound(candidates: Sequence[Path]) -> Found:
    damaged: dict[Path, str] = {}
    for folder in reversed(candidates):
        reason = find_damage(folder)
        if reason is None:
            return Found(folder, damaged)
        damaged[folder] = reason
    return Found(None, damaged)


def _set_aside(path: Path, why: str, reason: str, chosen: Path | None) -> None:
    name, step = path.name, folders.step_of(path)
    new = folders.set_aside(path, why)
    lost = step - read_state(chosen)["step"] if chosen else step
    again = f"; {lost} steps are done again" if lost > 0 else ""
    _log.warning(
        "%s %s and is kept as %s; going on from %s%s", name, reason, new.name, chosen, again
    )


def _may_be_of(checkpoint: Path, resume: str) -> bool:
    """Whether a checkpoint was written by a run with this run.resume, as far as is known."""
    try:
        state = read_state(checkpoint)
    except DamagedError:
        return True
    try:
        return state["config"]["run"]["resume"] == resume
    except (KeyError, TypeError):
        return False


def _key(config: Mapping[str, Any]) -> str:
    """A few characters that change with what may change the values of a run."""
    kept = {name: section for name, section in config.items() if name != "run"}
    kept["seed"] = config.get("run", {}).get("seed")
    return f"{zlib.crc32(json.dumps(kept, sort_keys=True).encode()):08x}"


def _append(run: Path, checkpoint: Path | None, settings: str, reason: str | None) -> None:
    """Add a row to the file of failures; ``reason`` None: the checkpoint was set aside for them."""
    name = checkpoint.name if checkpoint else None
    with (run / NOT_FINITE).open("a") as file:
        row = {"checkpoint": name, "settings": settings, "reason": reason}
        file.write(json.dumps(row) + "\n")


def _failures(run: Path) -> list[dict]:
    """The rows of that file; a line that is damaged is left out."""
    rows = []
    try:
        lines = (run / NOT_FINITE).read_text(errors="replace").splitlines()
    except FileNotFoundError:
        return []
    for line in lines:
        try:
            row = json.loads(line)
            rows.append({name: row[name] for name in ("checkpoint", "settings", "reason")})
        except (ValueError, KeyError, TypeError, RecursionError):
            continue
    return rows
