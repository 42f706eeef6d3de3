"""Models from their configurations, whichever of the three kinds they are."""

from __future__ import annotations

from videohpm.config.architecture import Architecture, MAEConfig, VideoClassifierConfig, ViTConfig
from videohpm.models.classifier import VideoClassifier
from videohpm.models.mae import MaskedAutoencoder
from videohpm.models.vit import VideoViT

Model = VideoViT | MaskedAutoencoder | VideoClassifier
CONFIGS: dict[str, type[Architecture]] = {
    "VideoViT": ViTConfig,
    "MaskedAutoencoder": MAEConfig,
    "VideoClassifier": VideoClassifierConfig,
}
"""The kinds of models by the names of their classes, as config.json has them."""


def build_model(config: Architecture) -> Model:
    """The model that ``config`` describes. Raises ValueError when its sizes do not fit."""
    if isinstance(config, ViTConfig):
        return VideoViT(config)
    if isinstance(config, MAEConfig):
        return MaskedAutoencoder(config)
    return VideoClassifier(config)


def kind_of(config: Architecture) -> str:
    """The name of the class of the model that ``config`` describes."""
    return next(kind for kind, made_of in CONFIGS.items() if isinstance(config, made_of))


def encoder_in(model: Model) -> VideoViT:
    """The encoder of a model, which may be all of it."""
    return model if isinstance(model, VideoViT) else model.encoder
