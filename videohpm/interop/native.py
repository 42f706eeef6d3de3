"""videohpm's own folders: run folders, checkpoints and exports."""

from __future__ import annotations

from pathlib import Path

from videohpm import checkpoint
from videohpm.checkpoint.checksums import read_tensors
from videohpm.errors import UserError
from videohpm.interop.core import ReadOptions, Weights, expected_shapes, verify_all_accounted
from videohpm.interop.files import read_json
from videohpm.interop.report import ConversionReport
from videohpm.models import MAEConfig

NAME = "videohpm"
OWN = ("format", "version", "kind", "model", "teacher")


def find(path: Path) -> Path | None:
    """The folder of videohpm's weights that ``path`` means; None when it is another layout's."""
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
    folder, metadata = checkpoint.read_metadata(folder)
    report.layout = f"videohpm {metadata['kind']}"
    tensors = read_tensors(folder / "model.safetensors")
    try:
        config = checkpoint.read_config(metadata)
    except (TypeError, ValueError) as error:
        raise UserError(f"{folder}/config.json: describes no model ({error})") from None
    expected = expected_shapes(config)
    found = {name: tensors[name] for name in expected if name in tensors}
    weights = Weights(config, found)
    report.loaded |= {name: name for name in found}
    weights.tensors = verify_all_accounted(weights, set(tensors), report, options)
    weights.extra = {name: value for name, value in metadata.items() if name not in OWN}
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
