"""videohpm's own folders: run folders, checkpoints and exports."""

from __future__ import annotations

from pathlib import Path

from videohpm import checkpoint
from videohpm.checkpoint.checksums import read_tensors
from videohpm.errors import UserError
from videohpm.interop.core import ReadOptions, Weights, verify_all_accounted
from videohpm.interop.files import read_json
from videohpm.interop.report import ConversionReport
from videohpm.models import MAEConfig
from videohpm.models.bounds import expected_shapes

NAME = "videohpm"


def find(path: Path) -> Path | None:
    """The folder of weights that ``path`` means; None where it holds none of ours."""
    try:
        folder = checkpoint.find_weights(path)
    except UserError:
        return None
    config = folder / "config.json"
    if not config.is_file() or read_json(config).get("format") != checkpoint.FORMAT:
        return None
    return folder


def read(folder: Path, report: ConversionReport, options: ReadOptions) -> Weights:
    """What :func:`videohpm.checkpoint.save_weights` wrote."""
    metadata = checkpoint.read_described(folder)
    report.layout = f"videohpm {metadata['kind']}"
    try:
        config = checkpoint.read_config(metadata)
        expected = expected_shapes(config)
    except (TypeError, ValueError, UserError) as error:
        raise UserError(f"{folder}/config.json: describes no model ({error})") from None
    tensors = read_tensors(folder / "model.safetensors")
    found = {name: tensors[name] for name in expected if name in tensors}
    weights = Weights(config, found)
    report.loaded |= {name: name for name in found}
    weights.tensors = verify_all_accounted(weights, set(tensors), report, options)
    weights.extra = {name: value for name, value in metadata.items() if name not in checkpoint.OWN}
    settings = metadata.get("teacher")
    if isinstance(settings, dict) and (folder / "teacher.safetensors").is_file():
        _read_teacher(folder, weights, report, options)
        weights.teacher_settings = {name: settings.get(name) for name in ("steps", "read")}
        if options.weights == "ema" and weights.teacher and isinstance(config, MAEConfig):
            weights.config, weights.tensors = config.for_teacher(), weights.teacher
            weights.teacher = None
    if options.weights == "ema" and not _is_teacher(weights):
        raise UserError(f"{folder}: holds no teacher to take the moving average from")
    return weights


def _is_teacher(weights: Weights) -> bool:
    return isinstance(weights.config, MAEConfig) and not weights.config.pixel_decoder


def _read_teacher(
    folder: Path, weights: Weights, report: ConversionReport, options: ReadOptions
) -> None:
    """Add the teacher beside an autoencoder, accounted for under its own name."""
    if not isinstance(weights.config, MAEConfig):
        raise UserError(f"{folder}/config.json: a {weights.kind} has no teacher")
    found = read_tensors(folder / "teacher.safetensors")
    own = ConversionReport(f"{folder}/teacher.safetensors", loaded={name: name for name in found})
    teacher = Weights(weights.config.for_teacher(), dict(found))
    weights.teacher = verify_all_accounted(teacher, set(found), own, options)
    report.loaded |= {f"teacher: {name}": name for name in own.loaded}


def write(weights: Weights, folder: Path, report: ConversionReport) -> None:
    """model.safetensors, config.json and, where there is a teacher, teacher.safetensors."""
    teacher = weights.build_teacher()
    checkpoint.save_weights(folder, weights.build(), teacher, weights.extra)
    report.written = len(weights.tensors) + len(weights.teacher or ())
