"""Published checkpoints in, other people's layouts out, every tensor accounted for."""

from __future__ import annotations

from pathlib import Path

from videohpm.errors import UserError
from videohpm.interop import mae, timm, videomae
from videohpm.interop.core import ReadOptions, Weights
from videohpm.interop.files import read_source
from videohpm.interop.report import Report

LAYOUTS = (videomae, mae, timm)


def read_weights(source: str | Path, **options) -> tuple[Weights, Report]:
    """The model in ``source``, whatever published layout that has, and the account of its tensors.

    Args:
        source: a checkpoint file, or a folder with one.
        options: see :class:`ReadOptions`.
    """
    chosen = ReadOptions(**options)
    found = read_source(source)
    report = Report(str(source))
    for layout in LAYOUTS:
        name = layout.recognise(found)
        if name is not None:
            report.layout = name
            weights = layout.read(found, report, chosen)
            report.kind, report.model = weights.kind, weights.model
            return weights, report
    names = ", ".join(list(found.tensors)[:4])
    raise UserError(f"{source}: no layout known here has these tensors: {names}, ...")
