"""The former interface, until fine-tuning uses the new one."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from videohpm.checkpoint import folders, runs
from videohpm.checkpoint.weights import load_into, save_weights
from videohpm.errors import UserError
from videohpm.hpm import LossTeacher


@dataclass(frozen=True)
class OldSaved:
    """What a checkpoint holds beside the weights."""

    step: int
    """Optimiser steps done."""
    optimizer: dict
    state: dict
    """Plain values: the run's state, its resolved config and the versions it ran with."""


def old_save(
    run: Path,
    step: int,
    model: nn.Module,
    teacher: LossTeacher | None,
    optimizer: dict,
    state: dict,
    keep: int,
) -> Path:
    """Write the checkpoint of ``step`` into the run folder and drop all but the newest ``keep``."""
    place = run / "checkpoints"
    place.mkdir(parents=True, exist_ok=True)
    final = place / f"{folders.PREFIX}{step:08d}"
    partial = place / f".partial_{step:08d}"
    shutil.rmtree(partial, ignore_errors=True)
    save_weights(partial, model, teacher)
    torch.save(optimizer, partial / "optimizer.pt")
    about = {"step": step, "torch": torch.__version__} | state
    (partial / "state.json").write_text(json.dumps(about, indent=2) + "\n")
    for file in partial.iterdir():
        folders.flush(file)
    folders.flush(partial)
    if final.exists():  # the same step again, after a resume from an older checkpoint
        shutil.rmtree(final)
    partial.rename(final)
    folders.flush(place)
    for old in folders.checkpoints(run)[:-keep]:
        shutil.rmtree(old)
    return final


def old_restore(folder: Path, model: nn.Module, teacher: LossTeacher | None) -> OldSaved:
    """Load a checkpoint's weights into ``model`` and ``teacher``; return the rest.

    Raises UserError when the checkpoint does not fit the model, or is damaged.
    """
    load_into(model, folder / "model.safetensors")
    if teacher is not None:
        load_into(teacher.model, folder / "teacher.safetensors")
    try:
        optimizer = torch.load(folder / "optimizer.pt", map_location="cpu", weights_only=True)
        state = json.loads((folder / "state.json").read_text())
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f"{folder}: damaged checkpoint ({error}); delete it") from error
    return OldSaved(state["step"], optimizer, state)


def save(*arguments):
    return (old_save if isinstance(arguments[2], nn.Module) else runs.save)(*arguments)


def restore(folder, model, teacher):
    if (folder / "optimizer.pt").exists():
        return old_restore(folder, model, teacher)
    return runs.restore(folder, model, teacher)
