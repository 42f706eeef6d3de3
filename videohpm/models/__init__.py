"""Encoders, autoencoders and classifiers."""

from videohpm.config.sizes import SIZES
from videohpm.models.classifier import VideoClassifier
from videohpm.models.mae import MaskedAutoencoder, Output
from videohpm.models.vit import VideoViT

__all__ = ["SIZES", "MaskedAutoencoder", "Output", "VideoClassifier", "VideoViT"]
