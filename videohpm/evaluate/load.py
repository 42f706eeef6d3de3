"""Trained models with what a test needs besides the weights: class names, views, normalisation."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass

import torch
from torch import Tensor

from videohpm import checkpoint
from videohpm.config import from_plain
from videohpm.config.tasks import CLASSIFY
from videohpm.errors import UserError
from videohpm.evaluate.protocol import EvalProtocol
from videohpm.evaluate.tasks import OutputTask, task_from
from videohpm.models import VideoClassifier, VideoViT
from videohpm.models.build import Model, build_model, encoder_in


@dataclass
class Loaded:
    """A model in evaluation mode, and how its own run would test it."""

    model: Model
    source: str
    protocol: EvalProtocol
    labels: list[str] | None = None
    """Class names, where the model is a classifier that knows them."""
    task: OutputTask = OutputTask()
    """What its outputs mean, where it has a head."""

    @property
    def encoder(self) -> VideoViT:
        """The encoder alone."""
        return encoder_in(self.model)

    def classifier(self) -> VideoClassifier:
        """The model, which must be a classifier. Raises UserError."""
        if not isinstance(self.model, VideoClassifier):
            raise UserError(
                f"{self.source}: holds a {type(self.model).__name__}, which has no classes; give "
                "a fine-tuned model (videohpm finetune makes one)"
            )
        return self.model

    def name_of(self, label: int) -> str:
        """The name of a class, or its number."""
        return self.labels[label] if self.labels else str(label)


def load(path: str | os.PathLike[str]) -> Loaded:
    """The model in a run folder (the best, else the newest), a checkpoint or an export.

    Raises UserError where there is none.
    """
    folder = checkpoint.find_weights(path)
    model, metadata = checkpoint.load_model(folder), checkpoint.read_described(folder)
    grid = model.grid
    known = {"frames": grid.frames, "size": (grid.height, grid.width)}
    try:
        saved = metadata.get("protocol") or {}
        pixels = {name: metadata[name] for name in ("mean", "std") if metadata.get(name)}
        labels = metadata.get("labels")
        protocol = from_plain(EvalProtocol, saved | pixels | known, strict=False)
        task = task_from(metadata.get("task"))
    except (ValueError, TypeError) as error:
        raise UserError(f"{folder}/config.json: damaged ({error})") from None
    return Loaded(model, os.fspath(path), protocol, labels, task)


def classifier_metadata(
    protocol: EvalProtocol, labels: list[str] | None, task: OutputTask | None = None
) -> dict:
    """What config.json holds besides a classifier's weights, as :func:`load` reads it."""
    metadata = {
        "protocol": protocol.plain(),
        "mean": list(protocol.mean),
        "std": list(protocol.std),
    }
    if task is not None and task.name != CLASSIFY:
        metadata["task"] = task.plain()
    return metadata | ({"labels": labels} if labels else {})


def fingerprint(path: str | os.PathLike[str]) -> str:
    """A hash of the weights that ``path`` means."""
    digest = hashlib.sha256()
    with open(checkpoint.find_weights(path) / "model.safetensors", "rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()[:16]


def token_features(model: Model, clips: Tensor) -> Tensor:
    """All tokens that a model's encoder makes of normalised clips: (B, [1+]N, D)."""
    return encoder_in(model)(clips)


def pool_tokens(model: Model, tokens: Tensor) -> Tensor:
    """One feature of all tokens (B, [1+]N, D): what a classifier's head reads, else their mean."""
    if isinstance(model, VideoClassifier):
        return model.pooled(tokens)
    return tokens[:, encoder_in(model).num_prefix_tokens :].mean(1)


def random_copy(model: Model, seed: int) -> Model:
    """A model of the same architecture with random weights, as a baseline."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return build_model(model.config).eval()
