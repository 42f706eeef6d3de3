"""A tiny classifier with random weights, saved as fine-tuning saves the best."""

from pathlib import Path

import pytest
import torch

from videohpm import evaluate
from videohpm.checkpoint import save_weights
from videohpm.models import VideoClassifier, VideoViT, ViTConfig

TINY = {"frames": 4, "image_size": 32, "patch": 8, "tubelet": 2, "dim": 24, "depth": 1, "heads": 2}
CLASSES = [f"class {i}" for i in range(32)]


def tiny_classifier(classes=32, head_scale=20.0, **changes) -> VideoClassifier:
    torch.manual_seed(0)
    model = VideoClassifier.create(classes=classes, head_scale=head_scale, **TINY | changes)
    return model.eval()


@pytest.fixture(scope="session")
def classifier_folder(tmp_path_factory) -> Path:
    """A run folder with best weights only."""
    folder = tmp_path_factory.mktemp("run")
    protocol = evaluate.EvalProtocol(frames=4, size=(32, 32), sampling="dense", stride=2, clips=2)
    save_weights(
        folder / "best", tiny_classifier(), extra=evaluate.classifier_metadata(protocol, CLASSES)
    )
    return folder


@pytest.fixture(scope="session")
def encoder_folder(tmp_path_factory) -> Path:
    """An export of an encoder."""
    folder = tmp_path_factory.mktemp("encoder")
    torch.manual_seed(0)
    save_weights(folder, VideoViT(ViTConfig(**TINY)))
    return folder
