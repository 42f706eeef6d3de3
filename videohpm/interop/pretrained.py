"""What ``from_pretrained``, ``save_pretrained`` and ``push_to_hub`` of a model do."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from videohpm import checkpoint, hub
from videohpm.errors import UserError
from videohpm.interop import native
from videohpm.interop.card import write_card
from videohpm.interop.convert import read_weights
from videohpm.interop.core import Weights
from videohpm.interop.report import ConversionReport
from videohpm.models.build import Model

CARD = "README.md"


def from_pretrained(
    kind: type,
    path: str | PathLike[str],
    *,
    revision: str | None = None,
    cache_dir: str | PathLike[str] | None = None,
) -> Any:
    """See :meth:`videohpm.models.pretrained.Pretrained.from_pretrained`."""
    folder = hub.resolve(path, revision, cache_dir)
    if native.find(folder) is None and folder.exists():
        weights, _ = read_weights(folder)
        model = weights.build()
        model.metadata = weights.extra
    else:
        model = checkpoint.load_model(folder)
    if not isinstance(model, kind):
        own = type(model).__name__
        raise UserError(
            f"{path}: holds a {own}, not a {kind.__name__}; use {own}.from_pretrained, or "
            "videohpm.load_encoder for the encoder of any"
        )
    return model


def save_pretrained(model: Model, folder: str | PathLike[str]) -> Path:
    """See :meth:`videohpm.models.pretrained.Pretrained.save_pretrained`."""
    folder = Path(folder)
    if folder.is_file():
        raise UserError(f"folder: {folder} is a file; give a folder")
    extra = dict(model.metadata)
    checkpoint.save_weights(folder, model, extra=extra)
    weights = Weights(model.config, dict(model.state_dict()), extra=extra)
    report = ConversionReport("a model in memory", native.NAME, out=str(folder), target=native.NAME)
    report.kind, report.config, report.written = weights.kind, model.config, len(weights.tensors)
    report.loaded = {name: name for name in weights.tensors}
    write_card(weights, folder, report)
    return folder


def push_to_hub(model: Model, name: str, *, private: bool = False) -> str:
    """See :meth:`videohpm.models.pretrained.Pretrained.push_to_hub`."""
    repository, _ = hub.split_name(name)
    with TemporaryDirectory() as place:
        folder = save_pretrained(model, Path(place) / repository.partition("/")[2])
        return hub.push(folder, name, private)
