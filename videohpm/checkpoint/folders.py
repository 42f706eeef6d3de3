"""The folders of a run's checkpoints, and how one appears, is replaced and goes in one move.

A checkpoint is written as ``.partial_STEP``, flushed to disk and renamed ``step_STEP``; one that is
to go is renamed ``.removed_STEP`` before it is deleted. So whatever is called ``step_…`` is
complete, wherever a crash fell.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from videohpm.errors import UserError

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
    return sorted((run / "checkpoints").glob(f"{PREFIX}*"))


def latest(run: Path) -> Path | None:
    """The newest checkpoint of a run, if it has any."""
    found = checkpoints(run)
    return found[-1] if found else None


def begin(run: Path, step: int) -> Path:
    """An empty folder for the checkpoint of ``step`` to be written in."""
    tidy(run)
    partial = run / "checkpoints" / f"{PARTIAL}{step:08d}"
    partial.mkdir(parents=True)
    return partial


def commit(partial: Path, keep: int) -> Path:
    """Make a written folder a checkpoint of the run; drop all but it and the newest others.

    Args:
        keep: how many stay. A run that went back to an older step has later ones besides.
    """
    for file in partial.iterdir():
        flush(file)
    flush(partial)
    folder = partial.parent
    final = folder / partial.name.replace(PARTIAL, PREFIX)
    removed = folder / final.name.replace(PREFIX, REMOVED)
    if final.exists():  # the same step again, after a resume from an older checkpoint
        final.rename(removed)
    partial.rename(final)
    flush(folder)
    others = [path for path in checkpoints(folder.parent) if path != final]
    for old in others[: max(0, len(others) - keep + 1)]:
        old.rename(folder / old.name.replace(PREFIX, REMOVED))
    tidy(folder.parent)
    return final


def tidy(run: Path) -> None:
    """Clear away what a crash left behind; one process only."""
    folder = run / "checkpoints"
    for removed in sorted(folder.glob(f"{REMOVED}*"), reverse=True):
        final = folder / removed.name.replace(REMOVED, PREFIX)
        if latest(run) is None:  # the crash fell between the two renames of its replacement
            removed.rename(final)
        else:
            shutil.rmtree(removed)
    for partial in folder.glob(f"{PARTIAL}*"):
        shutil.rmtree(partial)


def flush(path: Path) -> None:
    """Wait until a file or folder is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
