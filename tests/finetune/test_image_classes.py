"""Image mode from the command line, and encoders that change between videos and images."""

import json

import pytest
import torch

from videohpm.checkpoint import load_encoder, load_model, save_weights
from videohpm.cli import main
from videohpm.models import VideoViT, ViTConfig
from videohpm.models.adapt import adapt_encoder

TINY = {"image_size": 32, "patch": 8, "dim": 24, "depth": 2, "heads": 2}


@pytest.fixture(scope="module")
def images(shapes_module, tmp_path_factory):
    """An ImageFolder: a folder for each of the four shapes."""
    out = tmp_path_factory.mktemp("data") / "images"
    shapes_module.prepare(out, train=32, validation=16, images=True, workers=1)
    return out


def flags(**values) -> list[str]:
    return [part for k, v in values.items() for part in (f"--{k.replace('__', '.')}", str(v))]


@pytest.fixture(scope="module")
def chain(images, tmp_path_factory):
    """Pre-train, fine-tune, evaluate and probe on images, all by command."""
    runs = tmp_path_factory.mktemp("runs")
    common = flags(run__steps=4, run__log_every=2, data__workers=0, engine__device="cpu",
                   optim__global_batch_size=8, optim__warmup_steps=1)  # fmt: skip
    model = flags(model__arch="vit_tiny", model__frames=1, model__tubelet=1, model__image_size=32,
                  model__patch=8, model__dim=24, model__depth=2, model__heads=2)  # fmt: skip
    pretrain = flags(
        data__root=images / "train", run__dir=runs / "pre", model__decoder_dim=24,
        model__decoder_depth=1, model__decoder_heads=2, mask__ratio=0.75,
        hpm__predictor_unit="token",
        hpm__momentum_steps=4, model__position="sincos_2d", model__class_token="true",
        model__projection_bias="true",
    )  # fmt: skip
    assert main(["pretrain", *common, *model, *pretrain]) == 0
    tune = flags(
        data__root=images / "train", validation__root=images / "validation", data__flip="true",
        model__init=runs / "pre", run__dir=runs / "tuned", validation__every_steps=2,
        test__resize=36,
    )  # fmt: skip
    assert main(["finetune", *common, *tune]) == 0
    test = flags(model=runs / "tuned", out=runs / "test", data__root=images / "validation",
                 data__workers=0, device="cpu")  # fmt: skip
    assert main(["evaluate", *test]) == 0
    probe = flags(model=runs / "pre", train=images / "train", validation=images / "validation",
                  workers=0, device="cpu", epochs=2, strength="[1.0]")  # fmt: skip
    assert main(["probe", *probe]) == 0
    return runs


def test_every_command_left_its_result(chain, images):
    tuned = json.loads((chain / "tuned/evaluation.json").read_text())
    tested = json.loads((chain / "test/evaluation.json").read_text())
    assert (tuned["scored"], tuned["total"]) == (16, 16) and tuned["protocol"]["resize"] == 36
    assert tested["top1"] == tuned["top1"] and tested["protocol"] == tuned["protocol"]
    probe = json.loads((chain / "pre/probe/probe.json").read_text())
    assert set(probe["probes"]) == {"linear", "attentive", "knn"}
    assert json.loads((chain / "tuned/best/config.json").read_text())["labels"] == [
        "cross", "ring", "square", "triangle",
    ]  # fmt: skip


def test_predict_names_the_class_of_an_image(chain, images, capsys):
    picture = next((images / "validation/square").glob("*.png"))
    assert main(["predict", str(picture), "--model", str(chain / "tuned"), "--device", "cpu"]) == 0
    assert "square" in capsys.readouterr().out


def test_a_video_model_does_not_take_images(chain, images, tmp_path, capsys):
    torch.manual_seed(0)
    save_weights(tmp_path, VideoViT(ViTConfig(frames=4, tubelet=2, **TINY)))
    arguments = [str(tmp_path), str(tmp_path / "out"), "--root", str(images / "validation")]
    assert main(["features", *arguments]) == 2
    assert "model takes clips of 4 frames" in capsys.readouterr().err


def test_a_video_encoder_starts_on_images_and_back(images, shapes, tmp_path):
    """Fine-tuning folds the tubelet over time for images and unfolds it for videos."""
    torch.manual_seed(0)
    video = VideoViT(ViTConfig(frames=4, tubelet=2, **TINY))
    save_weights(tmp_path / "video", video)
    common = flags(run__steps=2, data__workers=0, engine__device="cpu", optim__global_batch_size=4,
                   optim__base_lr=0, optim__min_lr=0)  # fmt: skip
    onto_images = flags(
        model__init=tmp_path / "video", model__frames=1, model__tubelet=1,
        data__root=images / "train", run__dir=tmp_path / "images",
    )  # fmt: skip
    assert main(["finetune", *common, *onto_images]) == 0
    image = load_model(tmp_path / "images/best").encoder
    folded = video.patch_embed.proj.weight.view(24, 3, 2, 8, 8).sum(2).flatten(1)
    assert torch.equal(image.patch_embed.proj.weight, folded)
    onto_videos = flags(
        model__init=tmp_path / "images", model__frames=4, model__tubelet=2,
        data__manifest=shapes / "train-shape.csv", run__dir=tmp_path / "again",
    )  # fmt: skip
    assert main(["finetune", *common, *onto_videos]) == 0
    again = load_model(tmp_path / "again/best").encoder
    halves = again.patch_embed.proj.weight.view(24, 3, 2, 64)
    assert torch.equal(halves[:, :, 0], halves[:, :, 1])
    torch.testing.assert_close(halves.sum(2), folded.view(24, 3, 64))


def test_a_repeated_frame_is_embedded_as_the_image(tmp_path):
    torch.manual_seed(0)
    picture = torch.randn(2, 3, 1, 32, 32)
    for position in ("sincos_2d", "learned"):
        image = VideoViT(ViTConfig(frames=1, tubelet=1, position=position, **TINY)).eval()
        video = adapt_encoder(image, frames=2, tubelet=2)
        torch.testing.assert_close(video(picture.expand(-1, -1, 2, -1, -1)), image(picture))
        back = adapt_encoder(video, frames=1, tubelet=1)
        torch.testing.assert_close(back(picture), image(picture))


def test_another_length_or_size_keeps_the_weights():
    torch.manual_seed(0)
    encoder = VideoViT(ViTConfig(frames=4, tubelet=2, **TINY))
    longer = adapt_encoder(encoder, frames=8, image_size=(32, 48), drop_path=0.2, final_norm=False)
    assert longer.grid.num_tokens == 4 * 4 * 6 and longer.config.drop_path == 0.2
    mine, theirs = longer.state_dict(), encoder.state_dict()
    assert set(theirs) - set(mine) == {"norm.weight", "norm.bias"}
    assert all(torch.equal(value, theirs[name]) for name, value in mine.items())
    learned = VideoViT(ViTConfig(frames=4, tubelet=2, position="learned", **TINY))
    with pytest.raises(ValueError, match="image_size: the weights have learned positions"):
        adapt_encoder(learned, image_size=64)
    with pytest.raises(ValueError, match="frames: the weights have learned positions"):
        adapt_encoder(learned, frames=8)


@pytest.mark.parametrize("position", ["sincos_1d", "sincos_2d"])
def test_fixed_positions_become_learned_ones_that_start_alike(position):
    torch.manual_seed(0)
    fixed = VideoViT(ViTConfig(frames=4, tubelet=2, position=position, **TINY)).eval()
    learned = adapt_encoder(fixed, position="learned")
    assert isinstance(learned.positions, torch.nn.Parameter) and learned.positions.requires_grad
    clips = torch.randn(2, 3, 4, 32, 32)
    assert torch.equal(learned(clips), fixed(clips))
    # For other clips the table is computed anew, and only then becomes a parameter.
    image = adapt_encoder(fixed, position="learned", frames=1, tubelet=1, image_size=64)
    assert torch.equal(image.positions, adapt_encoder(fixed, frames=1, tubelet=1, image_size=64)
                       .positions)  # fmt: skip
    again = adapt_encoder(learned, position="learned")
    assert torch.equal(again.positions, learned.positions)


def test_image_fine_tuning_trains_the_position_embedding(chain, images, tmp_path):
    """From a run with a fixed embedding, as HPM does it; and the result is a model like others."""
    fixed = load_encoder(chain / "pre").positions
    common = flags(
        run__steps=3, data__workers=0, engine__device="cpu", optim__global_batch_size=8,
        optim__warmup_steps=1, data__root=images / "train", model__init=chain / "pre",
        validation__root=images / "validation", run__dir=tmp_path / "run",
    )  # fmt: skip
    assert main(["finetune", *common, "--model.position", "learned"]) == 0
    tuned = load_model(tmp_path / "run/best").encoder
    assert tuned.config.position == "learned"
    moved = (tuned.positions - fixed).abs()
    assert 0 < moved.max() < 0.1 and moved.median() > 0
    again = flags(model=tmp_path / "run", out=tmp_path / "test", device="cpu",
                  data__root=images / "validation", data__workers=0)  # fmt: skip
    assert main(["evaluate", *again]) == 0
    results = [json.loads((tmp_path / n / "evaluation.json").read_text()) for n in ("run", "test")]
    assert results[0]["top1"] == results[1]["top1"]


def test_learned_positions_do_not_become_fixed(chain, images, tmp_path, capsys):
    arguments = flags(
        data__root=images / "train", model__init=chain / "pre", model__position="sincos_1d",
        run__dir=tmp_path, engine__device="cpu",
    )  # fmt: skip
    assert main(["finetune", *arguments]) == 2
    assert "model.position: sincos_1d, but" in capsys.readouterr().err
