"""The weights of a run that did best in validation."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from torch import nn

from videohpm import checkpoint
from videohpm.engine import TorchEngine
from videohpm.interop.native import BEST


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
