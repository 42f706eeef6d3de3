"""Weights out and in: what a folder with ``model.safetensors`` and ``config.json`` holds."""

from __future__ import annotations

import json
import math
from os import PathLike
from pathlib import Path

from safetensors.torch import save_file
from torch import nn

from videohpm.checkpoint import checksums
from videohpm.checkpoint.folders import latest
from videohpm.checkpoint.soundness import name_another
from videohpm.compat import RENAMED_MODEL_ARGUMENTS, upgrade_names
from videohpm.config.architecture import (
    Architecture,
    MAEConfig,
    ViTConfig,
    classifier_config,
    mae_config,
)
from videohpm.config.plain import as_plain, from_plain
from videohpm.errors import DamagedError, UserError
from videohpm.hpm import LossTeacher
from videohpm.models import MaskedAutoencoder, VideoViT
from videohpm.models.bounds import expected_shapes, misfits
from videohpm.models.build import CONFIGS, Model, build_model, encoder_in

MOST_JSON = 8 << 20
"""Bytes of config.json that are read."""
BEST = "best"
"""Where a fine-tuning run keeps the weights that did best in validation."""
FORMAT, VERSION = "videohpm", 2
"""Version 1 had a model's arguments in one flat table, and activation checkpointing among them."""


def save_weights(
    folder: Path, model: nn.Module, teacher: LossTeacher | None = None, extra: dict | None = None
) -> None:
    """Write ``model`` (and its teacher) so that :func:`load_model` gives them back.

    Args:
        folder: made if missing.
        model: one of :mod:`videohpm.models`.
        extra: what else config.json should hold (plain JSON values).
    """
    folder.mkdir(parents=True, exist_ok=True)
    _save_tensors(model, folder / "model.safetensors")
    if teacher is not None:
        _save_tensors(teacher.model, folder / "teacher.safetensors")
    write_metadata(folder, model, teacher, extra)


def write_metadata(
    folder: Path, model: nn.Module, teacher: LossTeacher | None, extra: dict | None = None
) -> None:
    """Write config.json: which model to build, and with which configuration."""
    values = {"format": FORMAT, "version": VERSION, "kind": type(model).__name__}
    if teacher is not None:
        values["teacher"] = {"steps": teacher.steps, "read": teacher.read}
    values |= {"model": as_plain(model.config)} | (extra or {})
    (folder / "config.json").write_text(json.dumps(values, indent=2) + "\n")


def load_model(path: str | PathLike[str]) -> Model:
    """The model saved in a run folder (its best weights, else its newest checkpoint), a checkpoint
    or an export.

    On the CPU and in evaluation mode. Raises UserError when there is none, or it is damaged.
    """
    folder, metadata = read_metadata(path)
    try:
        config = read_config(metadata)
    except (TypeError, ValueError) as error:
        raise UserError(f"{folder}/config.json: describes no model ({error})") from None
    _check_fit(folder, config, "model.safetensors")
    model = build_model(config)
    _load_from(folder, model, "model.safetensors")
    return model.eval()


def load_teacher(path: str | PathLike[str]) -> LossTeacher:
    """The teacher saved beside the model. Raises UserError when there is none."""
    folder, metadata = read_metadata(path)
    if "teacher" not in metadata:
        raise UserError(f"{folder}: holds no teacher (it was trained without mining, or exported)")
    try:
        config, settings = read_config(metadata), metadata["teacher"]
        if not isinstance(config, MAEConfig):
            raise ValueError("only an autoencoder has a teacher")
        steps = settings["steps"]
        if steps is not None and not (isinstance(steps, (int, float)) and 0 < steps < math.inf):
            raise ValueError(f"steps: {steps!r} is not a number over 0")
        _check_fit(folder, config.for_teacher(), "teacher.safetensors")
        teacher = LossTeacher(MaskedAutoencoder(config), steps, settings["read"])
    except (TypeError, ValueError, KeyError) as error:
        raise UserError(f"{folder}/config.json: describes no teacher ({error})") from None
    _load_from(folder, teacher.model, "teacher.safetensors")
    return teacher


def load_encoder(path: str | PathLike[str]) -> VideoViT:
    """The encoder of whatever model is saved there."""
    return encoder_in(load_model(path))


def read_metadata(path: str | PathLike[str]) -> tuple[Path, dict]:
    """The folder of weights meant by ``path``, and what its config.json holds.

    Raises UserError where that is not what this version of videohpm, or an earlier one, wrote.
    """
    folder = find_weights(path)
    try:
        with (folder / "config.json").open("rb") as file:
            text = file.read(MOST_JSON + 1)
        if len(text) > MOST_JSON:
            raise ValueError("too large")
        metadata = json.loads(text)
        kind, version = metadata["kind"], metadata["version"]
        known = metadata["format"] == FORMAT and kind in CONFIGS and metadata["model"]
    except KeyError as error:
        raise UserError(f"{folder}/config.json: {error} is missing") from None
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise UserError(f"{folder}/config.json: cannot be read ({error})") from error
    if not known or type(version) is not int or not 1 <= version <= VERSION:
        raise UserError(
            f"{folder}/config.json: {kind} in version {version} of the format is not known to this "
            "version of videohpm"
        )
    return folder, metadata


def read_config(metadata: dict) -> Architecture:
    """The configuration of the model that config.json describes.

    Raises ValueError, naming the field, where it describes none.
    """
    kind, model = metadata["kind"], metadata["model"]
    if metadata["version"] > 1:
        return from_plain(CONFIGS[kind], model)
    if not isinstance(model, dict):
        raise ValueError(f"model: {model!r} is not a mapping of fields")
    model = upgrade_names(model, RENAMED_MODEL_ARGUMENTS)
    model.pop("checkpoint", None)
    if kind == "MaskedAutoencoder":
        return mae_config(**model)
    if kind == "VideoClassifier":
        return classifier_config(**model)
    return from_plain(ViTConfig, model)


def find_weights(path: str | PathLike[str]) -> Path:
    """The folder of weights that ``path`` means, for every command and function.

    Of a run the best weights where it keeps them (fine-tuning does), else its newest checkpoint; a
    checkpoint or an export is that itself. Raises UserError where there are none.
    """
    path = Path(path)
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


def _save_tensors(model: nn.Module, file: Path) -> None:
    state = model.state_dict().items()
    tensors = {name: value.detach().cpu().contiguous() for name, value in state}
    sums = {name: checksums.checksum(name, tensor) for name, tensor in tensors.items()}
    save_file(tensors, file, checksums.metadata(sums))


def _check_fit(folder: Path, config: Architecture, file: str) -> None:
    """UserError where a file holds other tensors than the model, before any of it is built."""
    try:
        found = checksums.TensorReader(folder / file).shapes()
    except DamagedError as error:
        raise DamagedError(f"{error}{name_another(folder)}") from None
    try:
        expected = expected_shapes(config)
    except UserError as error:
        raise UserError(f"{folder}/config.json: describes no model ({error})") from None
    _refuse(folder / file, misfits(expected, found))


def _refuse(file: Path, wrong: list[str]) -> None:
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise UserError(f"{file}: does not fit the model: {', '.join(wrong[:3])}{more}")


def _load_from(folder: Path, model: nn.Module, file: str) -> None:
    """As :func:`load_into`; where it is damaged, a sound checkpoint of the same run is named."""
    try:
        load_into(model, folder / file)
    except DamagedError as error:
        raise DamagedError(f"{error}{name_another(folder)}") from None


def load_into(model: nn.Module, file: Path) -> None:
    """Load a file of weights into ``model``.

    Raises UserError: it is damaged, holds values that are not finite, or does not fit.
    """
    weights, wanted = checksums.read_tensors(file), model.state_dict()
    shapes = [{name: value.shape for name, value in each.items()} for each in (wanted, weights)]
    wrong = misfits(*shapes) or [
        f"{name} is {value.dtype}, not {wanted[name].dtype}"
        for name, value in weights.items()
        if value.dtype != wanted[name].dtype
    ]
    _refuse(file, wrong)
    model.load_state_dict(weights)
