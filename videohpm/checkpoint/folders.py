"""The folders of a run's checkpoints, and how one appears, is replaced and goes in one move.

A checkpoint is written as ``.partial_STEP``, flushed to disk and renamed ``step_STEP``; one that is
to go is renamed ``.removed_STEP`` before it is deleted. So whatever is called ``step_…`` is
complete, wherever a crash fell.

Only folders named exactly so are looked at. Whatever else lies beside them (``step_best``, an
archive, a note) is neither read nor touched, and a checkpoint into which somebody put a file of
their own is no longer removed.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from os import PathLike
from pathlib import Path

from videohpm.compat import RENAMED_STATE, upgrade_names
from videohpm.errors import UserError
from videohpm.hub import resolve

BEST = "best"
"""Where a fine-tuning run keeps the weights that did best in validation."""
PREFIX, PARTIAL, REMOVED = "step_", ".partial_", ".removed_"


def check_writable(folder: Path, option: str) -> None:
    """UserError where nothing can be written to ``folder``, which need not be there yet."""
    nearest = next(path for path in (folder, *folder.parents) if path.exists())
    if not nearest.is_dir():
        raise UserError(f"{option}: {nearest} is a file; give a folder")
    if not os.access(nearest, os.W_OK):
        raise UserError(f"{option}: {nearest} cannot be written to; give another folder")


def checkpoints(run: Path) -> list[Path]:
    """The complete checkpoints of a run, oldest first."""
    return _numbered(run, PREFIX)


def latest(run: Path) -> Path | None:
    """The newest checkpoint of a run, if it has any."""
    found = checkpoints(run)
    return found[-1] if found else None


def find_weights(path: str | PathLike[str]) -> Path:
    """The folder of weights that ``path`` means, for every command and function.

    Of a run the best weights where it keeps them (fine-tuning does), else its newest checkpoint; a
    checkpoint or an export is that itself, and a name of the Hub the folder in its cache. Raises
    UserError where there are none.
    """
    path = resolve(path)
    if path.name == "model.safetensors":
        path = path.parent
    for folder in (path / BEST, path):
        if (folder / "model.safetensors").is_file():
            return folder
    newest = latest(path)
    if newest is None:
        raise UserError(
            f"{path}: no model here; give a run folder, a checkpoint or an export "
            "(a folder with model.safetensors and config.json)"
        )
    return newest


def step_of(folder: Path) -> int:
    """The optimiser steps that had been done when a checkpoint was written."""
    return int(folder.name.removeprefix(PREFIX))


def begin(run: Path, step: int) -> Path:
    """An empty folder for the checkpoint of ``step`` to be written in."""
    tidy(run)
    partial = run / "checkpoints" / f"{PARTIAL}{step:08d}"
    partial.mkdir(parents=True)
    return partial


def commit(partial: Path, keep: int) -> Path:
    """Make a written folder a checkpoint of the run; drop all but it and the newest others.

    Args:
        keep: how many stay. A run that went back to an older step has later ones besides, and those
            that hold files of somebody else's are neither counted nor dropped.
    """
    for file in partial.iterdir():
        flush(file)
    flush(partial)
    folder = partial.parent
    final = folder / partial.name.replace(PARTIAL, PREFIX)
    removed = folder / final.name.replace(PREFIX, REMOVED)
    if final in checkpoints(folder.parent) and holds_nothing_else(final):
        final.rename(removed)  # the same step again, after a resume from an older checkpoint
    elif os.path.lexists(final):
        set_aside(final, "replaced")
    partial.rename(final)
    flush(folder)
    others = [path for path in checkpoints(folder.parent) if path != final]
    others = [path for path in others if holds_nothing_else(path)]
    for old in others[: max(0, len(others) - keep + 1)]:
        old.rename(folder / old.name.replace(PREFIX, REMOVED))
    tidy(folder.parent)
    return final


def tidy(run: Path) -> None:
    """Clear away what a crash left behind; one process only.

    What cannot be removed now (a network disk keeps files that somebody reads) is tried again the
    next time.
    """
    for removed in reversed(_numbered(run, REMOVED)):
        final = removed.with_name(removed.name.replace(REMOVED, PREFIX))
        if latest(run) is None:  # the crash fell between the two renames of its replacement
            removed.rename(final)
        else:
            shutil.rmtree(removed, ignore_errors=True)
    for partial in _numbered(run, PARTIAL):
        shutil.rmtree(partial, ignore_errors=True)


def set_aside(path: Path, why: str) -> Path:
    """Rename a checkpoint so that it no longer counts; returns its new place. Nothing is lost."""
    number, new = 1, path.with_name(f"{path.name}_{why}")
    while os.path.lexists(new):
        number += 1
        new = path.with_name(f"{path.name}_{why}_{number}")
    path.rename(new)
    return new


def holds_nothing_else(folder: Path) -> bool:
    """Whether a checkpoint holds no more than was written: False where that is not known."""
    try:
        state = upgrade_names(json.loads((folder / "state.json").read_text()), RENAMED_STATE)
        names = {f"{name}.safetensors" for name in ("model", "optimizer", *state["ema_modules"])}
        found = list(folder.iterdir())
    except (OSError, ValueError, KeyError, TypeError):
        return False
    names |= {"config.json", "state.json"}
    return all(file.name in names and file.is_file() and not file.is_symlink() for file in found)


def _numbered(run: Path, prefix: str) -> list[Path]:
    """The folders that are named as they are here: a prefix and a step, in order of the steps."""
    found = {}
    for path in (run / "checkpoints").glob(f"{prefix}*"):
        digits = re.fullmatch(r"[0-9]{8,18}", path.name.removeprefix(prefix))
        step = int(digits[0]) if digits else -1
        if path.name == f"{prefix}{step:08d}" and path.is_dir() and not path.is_symlink():
            found[step] = path
    return [found[step] for step in sorted(found)]


def flush(path: Path) -> None:
    """Wait until a file or folder is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
