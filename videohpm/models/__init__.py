"""Encoders, autoencoders and classifiers."""

from videohpm.models.classifier import VideoClassifier
from videohpm.models.mae import MaskedAutoencoder, Output
from videohpm.models.vit import VideoViT
from videohpm.models.zoo import SIZES

__all__ = ["SIZES", "MaskedAutoencoder", "Output", "VideoClassifier", "VideoViT"]
