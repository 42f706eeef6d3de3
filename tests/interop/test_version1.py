"""Files that version 1 of the format wrote (tests/fixtures/version1) load with the same outputs.

They were made by the code of that version: micro models of random weights, and what it computed.
"""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from videohpm import hpm
from videohpm.checkpoint import load_encoder, load_model, load_teacher
from videohpm.errors import UserError
from videohpm.models import MaskedAutoencoder, VideoClassifier, VideoViT

VERSION1 = Path(__file__).parents[1] / "fixtures/version1"


@pytest.fixture(scope="module")
def outputs() -> dict[str, torch.Tensor]:
    return load_file(VERSION1 / "outputs.safetensors")


@pytest.fixture(scope="module")
def clips() -> torch.Tensor:
    return (torch.arange(2 * 3 * 4 * 4 * 6).view(2, 3, 4, 4, 6) * 0.37).sin()


def masked(model: MaskedAutoencoder):
    shuffle_ids = torch.tensor([[3, 1, 5, 0, 2, 4], [0, 4, 2, 5, 1, 3]])
    return hpm.random_mask(model.grid, 0.5, shuffle_ids, "tube")


def same(found: torch.Tensor, wanted: torch.Tensor) -> None:
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6)


@torch.no_grad()
def test_an_autoencoder_and_its_teacher(outputs, clips):
    model = load_model(VERSION1 / "mae")
    assert isinstance(model, MaskedAutoencoder)
    out = model(clips, masked(model))
    same(out.pixels, outputs["pixels"])
    same(out.scores, outputs["scores"])
    teacher = load_teacher(VERSION1 / "mae")
    assert (teacher.steps, teacher.read) == (1, "query")
    same(teacher(clips), outputs["teacher"])
    config = model.config
    assert config.target == "joint" and config.encoder.patch_init == "xavier"
    assert config.predictor.detach and config.predictor.depth == 2
    assert config.encoder.drop_path == 0.1 and config.decoder.head_norm_eps == 1e-5


@torch.no_grad()
def test_a_classifier_and_an_encoder(outputs, clips):
    classifier, encoder = load_model(VERSION1 / "classifier"), load_encoder(VERSION1 / "encoder")
    assert isinstance(classifier, VideoClassifier) and isinstance(encoder, VideoViT)
    same(classifier(clips), outputs["classes"])
    same(encoder(clips), outputs["tokens"])
    assert classifier.config.head_dropout == 0.3 and classifier.config.pool == "attentive"


@pytest.mark.parametrize("name", ["mae", "classifier", "encoder"])
def test_converting_writes_todays_version(micro, tmp_path, name):
    report = micro.convert(VERSION1 / name, tmp_path / "new")
    assert not report.missing and not report.not_written
    old, new = load_model(VERSION1 / name), load_model(tmp_path / "new")
    assert old.config == new.config and '"version": 2' in (tmp_path / "new/config.json").read_text()
    wanted = old.state_dict()
    assert all(torch.equal(value, wanted[key]) for key, value in new.state_dict().items())


@torch.no_grad()
def test_what_it_wrote_beside_videomaes_weights(micro, outputs, clips):
    """Heads, frames and pixels, which the weights do not show, are read without being given."""
    weights, report = micro.read(VERSION1 / "videomae.pth")
    model = weights.build()
    assert weights.config.decoder.heads == 4 and weights.encoder_config.image_size == (4, 6)
    assert not any("taken" in note for note in report.notes)
    same(model(clips, masked(model)).pixels, outputs["videomae"])


def test_damage_is_one_line(tmp_path):
    for old, new in (('"frames": 4', '"frames": "x"'), ('"size"', '"sise"'), ("vit_tiny", "vit_x")):
        for name in ("model.safetensors", "config.json"):
            (tmp_path / name).write_bytes((VERSION1 / "mae" / name).read_bytes())
        text = (tmp_path / "config.json").read_text()
        assert old in text
        (tmp_path / "config.json").write_text(text.replace(old, new))
        with pytest.raises(UserError, match=r"config.json: describes no model|model.arch") as error:
            load_model(tmp_path)
        assert "\n" not in str(error.value)
