"""Encoders, autoencoders and classifiers."""

from videohpm.config.architecture import (
    DecoderConfig,
    MAEConfig,
    PredictorConfig,
    VideoClassifierConfig,
    ViTConfig,
    classifier_config,
    mae_config,
    vit_config,
)
from videohpm.config.sizes import SIZES
from videohpm.models.classifier import VideoClassifier
from videohpm.models.mae import MaskedAutoencoder, Output
from videohpm.models.vit import VideoViT

__all__ = [
    "SIZES",
    "DecoderConfig",
    "MAEConfig",
    "MaskedAutoencoder",
    "Output",
    "PredictorConfig",
    "VideoClassifier",
    "VideoClassifierConfig",
    "VideoViT",
    "ViTConfig",
    "classifier_config",
    "mae_config",
    "vit_config",
]
