"""Configurations of models: flat names, plain values and back, and what is refused."""

import json

import pytest
import torch

from videohpm.config import ClassifierConfig, DataConfig, FinetuneConfig, PretrainConfig
from videohpm.config.plain import as_plain, from_plain
from videohpm.errors import ConfigError, UserError
from videohpm.evaluate.protocol import EvalProtocol
from videohpm.models import (
    SIZES,
    MAEConfig,
    MaskedAutoencoder,
    VideoClassifierConfig,
    ViTConfig,
    classifier_config,
    mae_config,
    vit_config,
)

CONFIGS = [
    PretrainConfig(),
    FinetuneConfig(model=ClassifierConfig(image_size=[32, 48])),
    DataConfig(root="clips", sampling="segments", crop_scales=(1.0, 0.5)),
    EvalProtocol(frames=4, size=(32, 48)),
    vit_config("vit_tiny", image_size=(32, 48), patch=8, position="learned"),
    mae_config("vit_tiny", predictor_unit=None, class_token=True, norm_eps=1e-5),
    mae_config("vit_giant", predictor_depth=1, predictor_unit="token", head_norm_eps=1e-5),
    classifier_config("vit_tiny", classes=3, pool="attentive", head_dropout=0.5),
]


@pytest.mark.parametrize("config", CONFIGS)
def test_json_and_back(config):
    plain = json.loads(json.dumps(as_plain(config)))
    again = from_plain(type(config), plain)
    assert again == config


def test_architectures_can_be_keys():
    assert hash(mae_config("vit_tiny")) == hash(mae_config("vit_tiny"))


def test_unknown_names_are_refused_or_left_out():
    for values in ({"sampling": "segments", "colour": 3}, {"sampling": "segments"}):
        config = from_plain(DataConfig, values, strict=False)
        assert config.sampling == "segments"
    with pytest.raises(ConfigError, match="^colour: DataConfig has no such field"):
        from_plain(DataConfig, {"colour": 3})
    with pytest.raises(ConfigError, match="^sampling: 'all' is not"):
        from_plain(DataConfig, {"sampling": "all"})


def test_a_named_size_and_what_is_changed():
    for name, size in SIZES.items():
        config = mae_config(name)
        encoder, decoder = config.encoder, config.decoder
        assert (encoder.dim, encoder.depth, encoder.heads) == (size.dim, size.depth, size.heads)
        assert encoder.mlp_ratio == size.mlp_ratio and decoder.mlp_ratio == 4.0
        wanted = (size.decoder_dim, size.decoder_depth, size.decoder_heads)
        assert (decoder.dim, decoder.depth, decoder.heads) == wanted
    changed = mae_config(
        "vit_tiny", dim=24, decoder_dim=16, decoder_mlp_ratio=3, norm_eps=1e-5, depth=None,
        projection_bias=True, predictor_detach=True, pixel_decoder=False, image_size=[32, 48],
    )  # fmt: skip
    assert (changed.encoder.dim, changed.encoder.depth) == (24, SIZES["vit_tiny"].depth)
    assert (changed.decoder.dim, changed.decoder.mlp_ratio) == (16, 3.0)
    assert changed.encoder.norm_eps == changed.decoder.norm_eps == 1e-5
    assert changed.decoder.projection_bias and changed.predictor.detach
    assert changed.encoder.image_size == (32, 48) and not changed.pixel_decoder
    assert mae_config(predictor_unit=None, predictor_depth=3).predictor is None


@pytest.mark.parametrize(("arguments", "message"), [
    ({"depths": 3}, "encoder.depths: ViTConfig has no such field"),
    ({"decoder_width": 3}, "decoder.width: DecoderConfig has no such field"),
    ({"predictor_target": 3}, "predictor.target: PredictorConfig has no such field"),
    ({"frames": "four"}, "encoder.frames: 'four' is not a whole number"),
    ({"class_token": 1}, "encoder.class_token: 1 is not true or false"),
    ({"image_size": [1, 2, 3]}, r"encoder.image_size: \[1, 2, 3\] is not a whole number or a list"),
    ({"predictor_unit": "frame"}, "predictor_unit: 'frame' is not one of tube, token"),
])  # fmt: skip
def test_a_mistake_names_the_field(arguments, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        mae_config("vit_tiny", **arguments)


def test_what_is_no_configuration():
    with pytest.raises(UserError, match="model.arch: 'vit_x' is not one of vit_tiny"):
        mae_config("vit_x")
    with pytest.raises(ValueError, match="^classes: missing"):
        from_plain(VideoClassifierConfig, {})
    with pytest.raises(ValueError, match="^encoder: 4 is not a mapping"):
        from_plain(MAEConfig, {"encoder": 4})
    with pytest.raises(ValueError, match="^ViTConfig: .* is not a mapping"):
        from_plain(ViTConfig, [1])
    with pytest.raises(ValueError, match="^pool: 'max' is not one of"):
        classifier_config("vit_tiny", classes=3, pool="max")


def test_a_classifiers_final_norm_follows_from_its_pooling():
    for pool, final_norm in (("mean", False), ("attentive", True), ("first_token", True)):
        config = VideoClassifierConfig(classes=3, pool=pool)
        assert config.encoder.final_norm == final_norm


def test_what_is_left_out_of_a_teacher():
    model = MaskedAutoencoder.create(
        "vit_tiny", frames=2, image_size=16, depth=1, decoder_depth=1, drop_path=0.1
    )
    config = model.config.for_teacher()
    assert config.encoder.drop_path == 0 and not config.pixel_decoder
    teacher = MaskedAutoencoder(config)
    clips = torch.zeros(1, 3, 2, 16, 16)
    assert teacher.score(clips).shape == (1, 1)
    with pytest.raises(ValueError, match="^pixel_decoder: "):
        teacher(clips, None)
    alone = MaskedAutoencoder.create("vit_tiny", frames=2, image_size=16, predictor_unit=None)
    with pytest.raises(ValueError, match="^predictor: "):
        alone.score(clips)
