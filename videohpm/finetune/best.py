"""The weights of a run that did best in validation."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path

from torch import nn

from videohpm import checkpoint
from videohpm.checkpoint import BEST
from videohpm.engine import TorchEngine, collectives, distributed
from videohpm.errors import UserError

_log = logging.getLogger(__name__)


def best_is_lost(run: Path) -> bool:
    """Whether the best weights of a run cannot be loaded. Every rank must call it.

    The first one looks, and sets aside with a warning what is damaged.
    """
    lost = False
    if distributed.rank() == 0:
        try:
            checkpoint.load_model(run / BEST)
        except UserError as error:
            lost, kept = True, ""
            if (run / BEST).exists():
                kept = f", kept as {checkpoint.set_aside(run / BEST, 'damaged').name}"
            _log.warning("%s%s; the best of the validations to come takes its place", error, kept)
    return collectives.any_rank(lost)


def replace_best(run: Path, engine: TorchEngine, model: nn.Module, metadata: dict) -> None:
    """Write ``model`` as the best of a run. Every rank must call it; the first one writes.

    File by file: each is complete at any moment.

    Args:
        model: the engine's model, or an average of it.
        metadata: plain values that config.json holds beside the model's.
    """
    full = engine.unsharded_copy(model)
    if engine.rank > 0:
        return
    best, partial = run / BEST, run / ".partial_best"
    shutil.rmtree(partial, ignore_errors=True)
    checkpoint.save_weights(partial, full, extra=metadata)
    best.mkdir(parents=True, exist_ok=True)
    for file in partial.iterdir():
        os.replace(file, best / file.name)
    partial.rmdir()
