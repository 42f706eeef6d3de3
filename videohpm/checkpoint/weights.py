"""Weights out and in: what a folder with ``model.safetensors`` and ``config.json`` holds."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from videohpm.checkpoint.folders import latest
from videohpm.compat import RENAMED_MODEL_ARGUMENTS, upgrade_names
from videohpm.config import options
from videohpm.errors import UserError
from videohpm.hpm import LossTeacher
from videohpm.models import MaskedAutoencoder, VideoClassifier, VideoViT

FORMAT, VERSION = "videohpm", 1
KINDS = {kind.__name__: kind for kind in (MaskedAutoencoder, VideoClassifier, VideoViT)}


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
    write_about(folder, model, teacher, extra)


def write_about(
    folder: Path, model: nn.Module, teacher: LossTeacher | None, extra: dict | None = None
) -> None:
    """Write config.json: what to build, and with which arguments."""
    about = {"format": FORMAT, "version": VERSION, "kind": type(model).__name__}
    if teacher is not None:
        about["teacher"] = {"steps": teacher.steps, "read": teacher.read}
    about |= {"model": model.config} | (extra or {})
    (folder / "config.json").write_text(json.dumps(about, indent=2) + "\n")


def load_model(path: str | Path) -> MaskedAutoencoder | VideoClassifier | VideoViT:
    """The model saved in a run folder (its newest checkpoint), a checkpoint or an export.

    On the CPU and in evaluation mode. Raises UserError when there is none, or it is damaged.
    """
    folder, about = read_about(path)
    try:
        model = KINDS[about["kind"]](**about["model"])
    except (TypeError, ValueError) as error:
        raise UserError(f"{folder}/config.json: says no model ({error})") from None
    load_into(model, folder / "model.safetensors")
    return model.eval()


def load_teacher(path: str | Path) -> LossTeacher:
    """The teacher saved beside the model. Raises UserError when there is none."""
    folder, about = read_about(path)
    if "teacher" not in about:
        raise UserError(f"{folder}: holds no teacher (it was trained without mining, or exported)")
    student = MaskedAutoencoder(**about["model"])
    teacher = LossTeacher(student, about["teacher"]["steps"], about["teacher"]["read"])
    load_into(teacher.model, folder / "teacher.safetensors")
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
        if isinstance(about["model"], dict):
            about["model"] = upgrade_names(about["model"], RENAMED_MODEL_ARGUMENTS)
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
    options.export(source, out, what, weights)
    folder = Path(out)
    if folder.exists() and any(folder.iterdir()):
        raise UserError(f"{out}: exists and is not empty; give another folder")
    model = load_model(source) if weights == "student" else load_teacher(source).model
    save_weights(folder, model.encoder if what == "encoder" else model)
    print(f"{out}: {what} of the {weights} of {find_weights(source)}")


def _tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}


def load_into(model: nn.Module, file: Path) -> None:
    """Load a file of weights into ``model``. Raises UserError when it is damaged or another's."""
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
