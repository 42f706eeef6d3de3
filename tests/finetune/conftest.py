"""A pre-trained model to start from."""

from pathlib import Path

import pytest
import torch
from tiny_runs import TINY

from videohpm.checkpoint import save_weights
from videohpm.models import MaskedAutoencoder


@pytest.fixture(scope="session")
def pretrained(tmp_path_factory) -> Path:
    """An export of an autoencoder with random weights."""
    folder = tmp_path_factory.mktemp("pretrained")
    torch.manual_seed(3)
    model = MaskedAutoencoder.create(
        **TINY, decoder_dim=24, decoder_depth=1, decoder_heads=2, predictor_unit=None
    )
    save_weights(folder, model)
    return folder
