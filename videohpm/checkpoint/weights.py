"""Weights out and in: what a folder with ``model.safetensors`` and ``config.json`` holds."""

from __future__ import annotations

import json
import math
from contextlib import suppress
from os import PathLike
from pathlib import Path

from safetensors.torch import save_file
from torch import nn

from videohpm.checkpoint import checksums
from videohpm.checkpoint.metadata import (
    FORMAT,
    OWN,
    VERSION,
    read_config,
    read_described,
    read_metadata,
)
from videohpm.checkpoint.soundness import name_another
from videohpm.config.architecture import Architecture, MAEConfig
from videohpm.config.plain import as_plain
from videohpm.errors import DamagedError, UserError
from videohpm.hpm import LossTeacher
from videohpm.hub import resolve
from videohpm.models import MaskedAutoencoder, VideoViT
from videohpm.models.bounds import expected_shapes, misfits
from videohpm.models.build import Model, build_model, encoder_in

OF_WHOLE = ("labels", "metrics", "step", "task", "pretraining")
"""Entries of config.json that say nothing of an encoder alone."""


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


def load_model(
    path: str | PathLike[str],
    *,
    revision: str | None = None,
    cache_dir: str | PathLike[str] | None = None,
) -> Model:
    """A saved model, on the CPU and in evaluation mode.

    Args:
        path: a run folder (its best weights, else its newest checkpoint), a checkpoint, an export,
            or the name of a model on the Hugging Face Hub: ``org/name``, ``org/name@revision``. A
            path that is here wins over a name there; ``hf://org/name`` is a name always.
        revision: branch, tag or commit there.
        cache_dir: where to keep what is downloaded, instead of the Hub's own cache.

    Raises UserError when there is none, or it is damaged.
    """
    folder, metadata = read_metadata(resolve(path, revision, cache_dir))
    try:
        config = read_config(metadata)
    except (TypeError, ValueError) as error:
        raise UserError(f"{folder}/config.json: describes no model ({error})") from None
    _check_fit(folder, config, "model.safetensors")
    model = build_model(config)
    _load_from(folder, model, "model.safetensors")
    with suppress(UserError):  # weights are as good where the state of their run is damaged
        metadata = read_described(folder)
    model.metadata = {name: value for name, value in metadata.items() if name not in OWN}
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


def load_encoder(
    path: str | PathLike[str],
    *,
    revision: str | None = None,
    cache_dir: str | PathLike[str] | None = None,
) -> VideoViT:
    """The encoder of whatever model is saved there; see :func:`load_model`."""
    model = load_model(path, revision=revision, cache_dir=cache_dir)
    encoder = encoder_in(model)
    encoder.metadata = {n: v for n, v in model.metadata.items() if n not in OF_WHOLE}
    return encoder


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
