"""Features as targets, beside literal versions; losses of tokens; what does not go together."""

import json
import math

import pytest
import torch
from safetensors.torch import save_file

from videohpm import checkpoint, hpm, interop
from videohpm.config import DataConfig, HPMConfig, MaskConfig, ModelConfig, PretrainConfig
from videohpm.config.model import TOKEN_LOSSES
from videohpm.errors import UserError
from videohpm.grid import Mask
from videohpm.interop.frozen import encoders_of
from videohpm.models import MaskedAutoencoder, VideoViT, vit_config

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.1)
OWN_MEAN, OWN_STD = (0.5, 0.4, 0.3), (0.25, 0.5, 0.2)
SIZES = {"arch": "vit_tiny", "frames": 4, "image_size": 32, "patch": 16}
NARROW = {"dim": 24, "depth": 1, "heads": 2, "decoder_dim": 12, "decoder_depth": 1,
          "decoder_heads": 2}  # fmt: skip


def config(encoder=None, target="frozen_encoder", **changes) -> PretrainConfig:
    model = SIZES | NARROW | {"target": target, "target_encoder": encoder and str(encoder)}
    return PretrainConfig(model=ModelConfig(**model | changes), data=DataConfig(mean=MEAN, std=STD))


def made(settings: PretrainConfig, teacher=None) -> hpm.Target:
    build = hpm.TARGETS[settings.model.target]
    return build(settings.model.grid(), settings, encoders_of(lambda: teacher))


def pixels(seed: int = 0) -> torch.Tensor:
    return torch.rand(2, 3, 4, 32, 32, generator=torch.Generator().manual_seed(seed))


def normalised(values, mean, std):
    shape = (3, 1, 1, 1)
    return (values - torch.tensor(mean).view(shape)) / torch.tensor(std).view(shape)


def standardised(values: torch.Tensor) -> torch.Tensor:
    return (values - values.mean()) / (values.var(unbiased=False) + 1e-5).sqrt()


MASK = Mask.from_units(torch.tensor([[0, 3], [2, 1]]), config("x").model.grid())


def timm_folder(folder, architecture="test_vit", **arguments) -> str:
    """A tiny network as timm keeps one on disk, of random weights; its name for us."""
    import timm

    torch.manual_seed(0)
    network = timm.create_model(architecture, num_classes=0, **arguments)
    folder.mkdir()
    save_file(network.state_dict(), folder / "model.safetensors")
    about = {"mean": list(OWN_MEAN), "std": list(OWN_STD), "num_classes": 0}
    about = {"architecture": architecture, "num_classes": 0, "model_args": arguments,
             "pretrained_cfg": about | {"input_size": [3, 32, 32]}}  # fmt: skip
    (folder / "config.json").write_text(json.dumps(about))
    return f"timm:local-dir:{folder}"


def export(folder, **shape) -> VideoViT:
    """An encoder that was saved with its normalisation."""
    torch.manual_seed(1)
    encoder = VideoViT(vit_config("vit_tiny", **SIZES_OF | shape)).eval()
    checkpoint.save_weights(folder, encoder, extra={"mean": OWN_MEAN, "std": OWN_STD})
    return encoder


SIZES_OF = {name: SIZES[name] for name in ("frames", "image_size", "patch")} | {
    "dim": 36, "depth": 2, "heads": 2, "class_token": True,
}  # fmt: skip


@pytest.mark.parametrize("name", TOKEN_LOSSES)
def test_a_loss_of_tokens_is_the_literal_one(name):
    predicted, targets = 2 * torch.randn(2, 3, 5), torch.randn(2, 3, 5)
    found = hpm.TOKEN_LOSSES[name](predicted, targets)
    for clip in range(2):
        for token in range(3):
            a, b = predicted[clip, token].tolist(), targets[clip, token].tolist()
            errors = [abs(x - y) for x, y in zip(a, b, strict=True)]
            inner = sum(x * y for x, y in zip(a, b, strict=True))
            expected = {
                "mse": sum(e * e for e in errors) / 5,
                "smooth_l1": sum(e * e / 2 if e < 1 else e - 0.5 for e in errors) / 5,
                "cosine": 1 - inner / math.hypot(*a) / math.hypot(*b),
            }
            assert float(found[clip, token]) == pytest.approx(expected[name], rel=1e-4)


def test_the_configuration_knows_the_losses():
    assert tuple(hpm.TOKEN_LOSSES) == TOKEN_LOSSES


IMAGE_MODELS = {
    "test_vit": ({"image_size": 32}, {"img_size": 32}),
    # Without a class token.
    "vit_relpos_small_patch16_224": ({"image_size": 32}, {"img_size": 32}),
    "test_resnet": ({"image_size": 64, "patch": 32}, {}),  # (B, D, h, w)
    "test_mambaout": ({"image_size": 64, "patch": 32}, {}),  # (B, h, w, D)
}


@pytest.mark.parametrize("name", IMAGE_MODELS)
def test_features_of_a_timm_model_are_those_of_the_first_frame_of_each_step(tmp_path, name):
    import timm

    ours, arguments = IMAGE_MODELS[name]
    source = timm_folder(tmp_path / "network", name, **arguments)
    network = timm.create_model(source.removeprefix("timm:"), pretrained=True).eval()
    settings = config(source, **ours)
    size = settings.model.image_size
    video = torch.rand(2, 3, 4, size, size)
    found = made(settings)(normalised(video, MEAN, STD), MASK)
    assert found.shape == (2, 4, network.num_features) and found.dtype == torch.float32
    for clip in range(2):
        for place, token in enumerate(MASK.decoded[clip].tolist()):
            step, row, column = token // 4, token // 2 % 2, token % 2
            image = normalised(video[clip, :, 2 * step : 2 * step + 1], OWN_MEAN, OWN_STD)[:, 0]
            with torch.no_grad():
                values = network.forward_features(image[None])[0]
            if values.ndim == 2:
                value = values[int(name == "test_vit") + 2 * row + column]
            else:
                value = values[:, row, column] if name == "test_resnet" else values[row, column]
            torch.testing.assert_close(
                found[clip, place], standardised(value), atol=1e-4, rtol=1e-4
            )


def test_features_of_an_encoder_of_videos_are_those_of_the_whole_clip(tmp_path):
    encoder = export(tmp_path / "encoder")
    target = made(config(tmp_path / "encoder"))
    video = pixels()
    found = target(normalised(video, MEAN, STD), MASK)
    with torch.no_grad():
        tokens = encoder(normalised(video, OWN_MEAN, OWN_STD))[:, 1:]
    for clip in range(2):
        for place, token in enumerate(MASK.decoded[clip].tolist()):
            expected = standardised(tokens[clip, token])
            torch.testing.assert_close(found[clip, place], expected, atol=1e-4, rtol=1e-4)


def test_an_encoder_of_images_sees_frames(tmp_path):
    encoder = export(tmp_path / "encoder", frames=1, tubelet=1)
    video = pixels()
    found = made(config(tmp_path / "encoder"))(normalised(video, MEAN, STD), MASK)
    own = normalised(video, OWN_MEAN, OWN_STD)
    for clip in range(2):
        for place, token in enumerate(MASK.decoded[clip].tolist()):
            with torch.no_grad():
                tokens = encoder(own[clip : clip + 1, :, token // 4 * 2][:, :, None])[0, 1:]
            expected = standardised(tokens[token % 4])
            torch.testing.assert_close(found[clip, place], expected, atol=1e-4, rtol=1e-4)


def test_a_folder_of_hugging_face_gives_the_features_of_what_it_was_made_of(tmp_path):
    export(tmp_path / "encoder", class_token=False)
    interop.convert(tmp_path / "encoder", tmp_path / "hf", "huggingface")
    clips = normalised(pixels(), MEAN, STD)
    ours, own = (made(config(tmp_path / name))(clips, MASK) for name in ("encoder", "hf"))
    torch.testing.assert_close(own, ours, atol=1e-4, rtol=1e-4)


def test_a_frozen_encoder_stays_as_it_is(tmp_path):
    export(tmp_path / "encoder", drop_path=0.5)
    target = made(config(tmp_path / "encoder"))
    clips = normalised(pixels(), MEAN, STD)
    before = target(clips, MASK)
    assert torch.equal(target.train()(clips, MASK), before)
    assert not any(weight.requires_grad for weight in target.parameters())


def test_features_of_the_teacher_follow_it():
    settings = config(target="ema_encoder", class_token=True)
    target = made(settings)
    assert target.dim == 24
    torch.manual_seed(0)
    student = MaskedAutoencoder(settings.model_config(target.dim))
    teacher = hpm.LossTeacher(student, 1)
    target = made(settings, teacher)
    clips = normalised(pixels(), MEAN, STD)
    for _ in range(2):
        with torch.no_grad():
            tokens = teacher.model.encoder(clips)[:, 1:]
        for clip in range(2):
            for place, token in enumerate(MASK.decoded[clip].tolist()):
                expected = standardised(tokens[clip, token])
                found = target(clips, MASK)[clip, place]
                torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
        with torch.no_grad():
            for weight in student.parameters():
                weight.add_(torch.randn_like(weight))
        teacher.update(student, 0.5)


def test_the_hardness_of_features_is_their_loss():
    target = hpm.FeatureTarget(lambda clips: torch.randn(2, 8, 5), 5)
    losses = torch.rand(2, 4)
    given = torch.zeros(2, 4, 5)
    assert target.hardness(losses, given, given, pixels(), MASK) is losses
    assert target.to_pixels(given, pixels(), MASK) is None


WRONG = {
    "another patch": (
        {"patch": 8},
        r"has 2x2 tokens of 16x16 pixels a frame, this model 4x4 tokens of 8x8 pixels a frame",
    ),
    "more frames": (
        {"frames": 8},
        r"encoder has 2x2x2 tokens of 2x16x16 pixels, this model 4x2x2 tokens of 2x16x16 pixels",
    ),
    "a larger image": ({"image_size": 64}, r"has 2x2x2 .* this model 2x4x4"),
    "a longer tubelet": ({"tubelet": 4}, r"of 2x16x16 pixels, this model 1x2x2 .*of 4x16x16"),
    "not there": ({"target_encoder": "not/there"}, "not/there: no such path here"),
    "unknown to timm": ({"target_encoder": "timm:no_such"}, "timm cannot give no_such"),
    "no weights": ({"target_encoder": "timm:test_vit_relpos"}, "timm cannot give test_vit_relpos"),
}  # fmt: skip


@pytest.mark.parametrize("kind", WRONG)
def test_what_has_other_tokens_or_cannot_be_read_is_refused(kind, tmp_path):
    changes, names = WRONG[kind]
    source = tmp_path / "encoder"
    if kind == "another patch":
        source = timm_folder(source, img_size=32)
    else:
        export(source)
    with pytest.raises(UserError, match=names):
        made(config(**{"encoder": source} | changes) if "target_encoder" not in changes else
             config(changes["target_encoder"]))  # fmt: skip


def test_what_features_do_not_go_with_is_refused():
    with pytest.raises(UserError, match=r"model\.target_encoder: give one with model\.target froz"):
        config(None)
    with pytest.raises(UserError, match=r"model\.target_encoder: give one"):
        config("somewhere", target="raw")
    settings = config(target="ema_encoder")
    for changes in ({"hpm": HPMConfig(enabled=False)}, {"mask": MaskConfig(scorer="change")}):
        with pytest.raises(UserError, match="model.target: ema_encoder is the teacher's encoder"):
            made(PretrainConfig(model=settings.model, **changes))
    with pytest.raises(UserError, match=r"hpm\.hardness: pixels is no measure of features"):
        made(PretrainConfig(model=settings.model, hpm=HPMConfig(hardness="pixels")))
