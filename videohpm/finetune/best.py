"""The weights of a run that did best in validation."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from videohpm import checkpoint
from videohpm.engine import TorchEngine
from videohpm.evaluate import BEST
from videohpm.models import VideoClassifier


def replace_best(run: Path, engine: TorchEngine, model: VideoClassifier, about: dict) -> None:
    """Write ``model`` as the best of a run. Every rank must call it; the first one writes.

    File by file: each is whole at any moment.

    Args:
        model: the engine's model, or an average of it.
        about: what config.json should say beside the model.
    """
    weights = {name: engine.full_tensor(p) for name, p in model.named_parameters()}
    if engine.rank > 0:
        return
    whole = VideoClassifier(**model.config)
    whole.load_state_dict(weights)
    best, partial = run / BEST, run / ".partial_best"
    shutil.rmtree(partial, ignore_errors=True)
    checkpoint.save_weights(partial, whole, extra=about)
    best.mkdir(parents=True, exist_ok=True)
    for file in partial.iterdir():
        os.replace(file, best / file.name)
    partial.rmdir()
