"""videohpm's own folders: run folders, checkpoints and exports."""

from __future__ import annotations

from pathlib import Path

from videohpm import checkpoint
from videohpm.errors import UserError
from videohpm.interop.core import KINDS, ReadOptions, Weights, expected_shapes, verify_all_accounted
from videohpm.interop.files import read_json, read_safetensors
from videohpm.interop.report import ConversionReport

NAME = "videohpm"
OWN = ("format", "version", "kind", "model", "teacher")


def find(path: Path) -> Path | None:
    """The folder of our weights that ``path`` means; None when it is none of ours."""
    if path.name == "model.safetensors":
        path = path.parent
    if not path.is_dir():
        return None
    folder = path if (path / "model.safetensors").is_file() else checkpoint.latest(path)
    config = folder and folder / "config.json"
    if not config or not config.is_file():
        return None
    return folder if read_json(config).get("format") == checkpoint.FORMAT else None


def read(folder: Path, report: ConversionReport, options: ReadOptions) -> Weights:
    """What :func:`videohpm.checkpoint.save_weights` wrote."""
    try:
        folder, about = checkpoint.read_about(folder)
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{folder}/config.json: {error} is not as videohpm writes it") from None
    report.layout = f"videohpm {about['kind']}"
    tensors = read_safetensors(folder / "model.safetensors")
    if about["kind"] not in KINDS or not isinstance(about["model"], dict):
        raise UserError(f"{folder}/config.json: kind or model is not what videohpm writes")
    expected = expected_shapes(about["kind"], about["model"])
    mine = {name: tensors[name] for name in expected if name in tensors}
    weights = Weights(about["kind"], about["model"], mine)
    report.loaded |= {name: name for name in weights.tensors}
    weights.tensors = verify_all_accounted(weights, set(tensors), report, options)
    weights.extra = {name: value for name, value in about.items() if name not in OWN}
    if "teacher" in about and (folder / "teacher.safetensors").is_file():
        lean = about["model"] | {"pixel_decoder": False, "drop_path": 0.0, "checkpoint": False}
        found = read_safetensors(folder / "teacher.safetensors")
        own = ConversionReport(
            f"{folder}/teacher.safetensors", loaded={name: name for name in found}
        )
        teacher = Weights("MaskedAutoencoder", lean, dict(found))
        weights.teacher = verify_all_accounted(teacher, set(found), own, options)
        weights.teacher_about = {name: about["teacher"].get(name) for name in ("steps", "read")}
        report.loaded |= {f"teacher: {name}": name for name in own.loaded}
        if options.weights == "ema":
            weights.model, weights.tensors, weights.teacher = lean, weights.teacher, None
    if options.weights == "ema" and weights.model.get("pixel_decoder", True):
        raise UserError(f"{folder}: holds no teacher to take the moving average from")
    return weights


def write(weights: Weights, folder: Path, report: ConversionReport) -> None:
    """model.safetensors, config.json and, where there is a teacher, teacher.safetensors."""
    teacher = weights.build_teacher()
    checkpoint.save_weights(folder, weights.build(), teacher, weights.extra)
    report.written = len(weights.tensors) + len(weights.teacher or ())
