"""Weights out and in; checkpoints that a crash at any byte cannot spoil.

A folder of weights, whether a checkpoint or an export, holds ``model.safetensors`` and
``config.json`` (what to build, and with which arguments); ``teacher.safetensors`` where there is
a teacher. A checkpoint adds ``optimizer.pt`` and ``state.json``. It is written under a temporary
name, flushed to disk and renamed, so a folder called ``step_…`` is always whole.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from videohpm.errors import UserError
from videohpm.hpm import LossTeacher
from videohpm.models import MaskedAutoencoder, VideoClassifier, VideoViT

FORMAT, VERSION = "videohpm", 1
KINDS = {kind.__name__: kind for kind in (MaskedAutoencoder, VideoClassifier, VideoViT)}
PREFIX = "step_"


def save_weights(
    folder: Path, model: nn.Module, teacher: LossTeacher | None = None, extra: dict | None = None
) -> None:
    """Write ``model`` (and its teacher) so that :func:`load_model` gives them back.

    Args:
        folder: made if missing.
        extra: what else config.json should say (plain JSON values).
    """
    folder.mkdir(parents=True, exist_ok=True)
    save_file(_tensors(model), folder / "model.safetensors", {"format": "pt"})
    if teacher is not None:
        save_file(_tensors(teacher.model), folder / "teacher.safetensors", {"format": "pt"})
    about = {"format": FORMAT, "version": VERSION, "kind": type(model).__name__}
    if teacher is not None:
        about["teacher"] = {"steps": teacher.step_count, "read": teacher.read}
    about |= {"model": model.config} | (extra or {})
    (folder / "config.json").write_text(json.dumps(about, indent=2) + "\n")


def load_model(path: str | Path) -> MaskedAutoencoder | VideoClassifier | VideoViT:
    """The model saved in a run folder (its newest checkpoint), a checkpoint or an export.

    On the CPU and in evaluation mode. Raises UserError when there is none, or it is damaged.
    """
    folder, about = read_about(path)
    model = KINDS[about["kind"]](**about["model"])
    _load_into(model, folder / "model.safetensors")
    return model.eval()


def load_teacher(path: str | Path) -> LossTeacher:
    """The teacher saved beside the model. Raises UserError when there is none."""
    folder, about = read_about(path)
    if "teacher" not in about:
        raise UserError(f"{folder}: holds no teacher (it was trained without mining, or exported)")
    student = MaskedAutoencoder(**about["model"])
    teacher = LossTeacher(student, about["teacher"]["steps"], about["teacher"]["read"])
    _load_into(teacher.model, folder / "teacher.safetensors")
    return teacher


def load_encoder(path: str | Path) -> VideoViT:
    """The encoder of whatever is saved there."""
    model = load_model(path)
    return model if isinstance(model, VideoViT) else model.encoder


def read_about(path: str | Path) -> tuple[Path, dict]:
    """The folder of weights meant by ``path``, and what its config.json says."""
    folder = find_weights(path)
    try:
        about = json.loads((folder / "config.json").read_text())
        known = about["format"] == FORMAT and about["kind"] in KINDS and about["model"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder}/config.json: cannot be read ({error})") from error
    if not known or about["version"] > VERSION:
        raise UserError(
            f"{folder}/config.json: {about['kind']} in version {about.get('version')} of the "
            "format is not known to this version of videohpm"
        )
    return folder, about


def find_weights(path: str | Path) -> Path:
    """A run's newest checkpoint, or ``path`` itself where it holds weights."""
    path = Path(path)
    if path.name == "model.safetensors":
        path = path.parent
    if (path / "model.safetensors").is_file():
        return path
    newest = latest(path)
    if newest is None:
        raise UserError(
            f"{path}: no model here; give a run folder, a checkpoint or an export "
            "(a folder with model.safetensors and config.json)"
        )
    return newest


def export(source: str, out: str, what: str = "encoder", weights: str = "student") -> None:
    """Write the weights of a run or checkpoint to a folder of their own.

    Args:
        source: run folder (its newest checkpoint) or checkpoint.
        out: folder to write: model.safetensors and config.json.
        what: encoder alone, or all.
        weights: student or teacher (whose encoder is a moving average of the student's).
    """
    if what not in ("encoder", "all") or weights not in ("student", "teacher"):
        raise UserError(
            f"export: --what is encoder or all, --weights student or teacher; not {what}, {weights}"
        )
    folder = Path(out)
    if folder.exists() and any(folder.iterdir()):
        raise UserError(f"{out}: exists and is not empty; give another folder")
    model = load_model(source) if weights == "student" else load_teacher(source).model
    save_weights(folder, model.encoder if what == "encoder" else model)
    print(f"{out}: {what} of the {weights} of {find_weights(source)}")


@dataclass(frozen=True)
class Saved:
    """What a checkpoint holds beside the weights."""

    step: int
    """Optimiser steps done."""
    optimizer: dict
    state: dict
    """Plain values: the run's state, its resolved config and the versions it ran with."""


def save(
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
    final = place / f"{PREFIX}{step:08d}"
    partial = place / f".partial_{step:08d}"
    shutil.rmtree(partial, ignore_errors=True)
    save_weights(partial, model, teacher)
    torch.save(optimizer, partial / "optimizer.pt")
    about = {"step": step, "torch": torch.__version__} | state
    (partial / "state.json").write_text(json.dumps(about, indent=2) + "\n")
    for file in partial.iterdir():
        _flush(file)
    _flush(partial)
    if final.exists():  # the same step again, after a resume from an older checkpoint
        shutil.rmtree(final)
    partial.rename(final)
    _flush(place)
    for old in checkpoints(run)[:-keep]:
        shutil.rmtree(old)
    return final


def restore(folder: Path, model: nn.Module, teacher: LossTeacher | None) -> Saved:
    """Load a checkpoint's weights into ``model`` and ``teacher``; return the rest.

    Raises UserError when the checkpoint does not fit the model, or is damaged.
    """
    _load_into(model, folder / "model.safetensors")
    if teacher is not None:
        _load_into(teacher.model, folder / "teacher.safetensors")
    try:
        optimizer = torch.load(folder / "optimizer.pt", map_location="cpu", weights_only=True)
        state = json.loads((folder / "state.json").read_text())
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f"{folder}: damaged checkpoint ({error}); delete it") from error
    return Saved(state["step"], optimizer, state)


def checkpoints(run: Path) -> list[Path]:
    """The whole checkpoints of a run, oldest first."""
    return sorted((run / "checkpoints").glob(f"{PREFIX}*"))


def latest(run: Path) -> Path | None:
    """The newest checkpoint of a run, if it has any."""
    found = checkpoints(run)
    return found[-1] if found else None


def _tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}


def _load_into(model: nn.Module, file: Path) -> None:
    try:
        weights = load_file(file)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{file}: cannot be read ({error})") from error
    mine = model.state_dict()
    wrong = [
        f"{name} {list(weights[name].shape) if name in weights else 'missing'}"
        for name in sorted(mine.keys() | weights.keys())
        if name not in mine or name not in weights or mine[name].shape != weights[name].shape
    ]
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise UserError(f"{file}: does not fit the model: {', '.join(wrong[:3])}{more}")
    model.load_state_dict(weights)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
