"""timm is the judge of image encoders and classifiers, both ways."""

import pytest
import timm
import torch
from packaging.version import Version
from timm.models import save_for_hf

# Before 1.0.31 timm's own exports do not hold the number of heads: it is given.
UNSAID = {"heads": 3} if Version(timm.__version__) < Version("1.0.31") else {}


def images(micro):
    return micro.clips(1)


def their_vit(micro, **arguments):
    sizes = {"img_size": 32, "patch_size": 16, "embed_dim": 24, "depth": 2, "num_heads": 3}
    return micro.randomise(timm.create_model("vit_base_patch16_224", **sizes | arguments))


@pytest.mark.parametrize("position", ["sincos_2d", "learned"])
@pytest.mark.parametrize("class_token", [True, False])
@torch.no_grad()
def test_an_encoder_in_timm(micro, tmp_path, class_token, position):
    model = micro.make(
        "VideoViT",
        key_bias=True,
        **micro.IMAGE | {"position": position, "class_token": class_token},
    )
    micro.convert(micro.save(model, tmp_path / "ours"), tmp_path / "timm", "timm")
    there = timm.create_model(f"local-dir:{tmp_path / 'timm'}", pretrained=True).eval()
    micro.close(there.forward_features(images(micro)[:, :, 0]), model(images(micro)))
    back, report = micro.read(tmp_path / "timm")
    assert report.layout == "timm image encoder" and back.encoder_config.heads == 3
    assert back.encoder_config.position == position
    assert all(torch.equal(t, back.tensors[name]) for name, t in model.state_dict().items())


@pytest.mark.parametrize("pool", ["mean", "class_token"])
@torch.no_grad()
def test_a_classifier_in_timm(micro, tmp_path, pool):
    model = micro.make("VideoClassifier", pool=pool, key_bias=True, **micro.IMAGE)
    micro.convert(micro.save(model, tmp_path / "ours"), tmp_path / "timm", "timm")
    there = timm.create_model(f"local-dir:{tmp_path / 'timm'}", pretrained=True).eval()
    micro.close(there(images(micro)[:, :, 0]), model(images(micro)))
    back, _ = micro.read(tmp_path / "timm")
    assert all(torch.equal(t, back.tensors[name]) for name, t in model.state_dict().items())


@pytest.mark.parametrize("arguments", [
    {"num_classes": 0}, {"num_classes": 5}, {"num_classes": 5, "global_pool": "avg"},
    {"num_classes": 0, "class_token": False, "global_pool": "avg", "fc_norm": False},
])  # fmt: skip
@torch.no_grad()
def test_a_vit_of_timm_here(micro, tmp_path, arguments):
    there = their_vit(micro, **arguments)  # with a learned table, the class token's row included
    save_for_hf(there, tmp_path / "timm", safe_serialization=True)
    weights, report = micro.read(tmp_path / "timm", **UNSAID)
    assert weights.encoder_config.position == "learned"
    wanted = there if arguments["num_classes"] else there.forward_features
    micro.close(weights.build()(images(micro)), wanted(images(micro)[:, :, 0]))
    micro.save(weights.build(), tmp_path / "ours")
    micro.convert(tmp_path / "ours", tmp_path / "back", "timm")
    again = timm.create_model(f"local-dir:{tmp_path / 'back'}", pretrained=True).eval()
    micro.close(again(images(micro)[:, :, 0]), there(images(micro)[:, :, 0]))


def test_pooling_behind_the_final_norm_is_refused(micro, tmp_path):
    from videohpm.errors import UserError

    there = their_vit(micro, num_classes=5, global_pool="avg", fc_norm=False)
    save_for_hf(there, tmp_path / "timm", safe_serialization=True)
    with pytest.raises(UserError, match="pools by avg behind the final norm"):
        micro.read(tmp_path / "timm", **UNSAID)


@torch.no_grad()
def test_the_encoder_of_an_autoencoder(micro, tmp_path):
    model = micro.make("MaskedAutoencoder", **micro.IMAGE)
    report = micro.convert(micro.save(model, tmp_path / "ours"), tmp_path / "timm", "timm")
    there = timm.create_model(f"local-dir:{tmp_path / 'timm'}", pretrained=True).eval()
    micro.close(there.forward_features(images(micro)[:, :, 0]), model.encoder(images(micro)))
    assert report.not_written["decoder_embed.weight"] == "only the encoder is written"
    assert set(model.state_dict()) == {f"encoder.{n}" for n in model.encoder.state_dict()} | set(
        report.not_written
    )


@torch.no_grad()
def test_inflation_and_its_inverse(micro, tmp_path):
    """An inflated model sees a repeated frame as the image, and sums back to it."""
    model = micro.make("VideoViT", **micro.IMAGE | {"position": "learned"})
    micro.convert(micro.save(model, tmp_path / "ours"), tmp_path / "image", "timm")
    options = {"inflate": 2, "frames": 2}
    video, _ = micro.read(tmp_path / "image", **options)
    assert (video.grid.t, video.grid.tubelet) == (1, 2)
    repeated = images(micro).expand(-1, -1, 2, -1, -1)
    micro.close(video.build()(repeated), model(images(micro)))
    micro.convert(tmp_path / "image", tmp_path / "video", **options)
    micro.convert(tmp_path / "video", tmp_path / "back", "timm")
    back, _ = micro.read(tmp_path / "back")
    assert all(torch.equal(t, back.tensors[name]) for name, t in model.state_dict().items())


@torch.no_grad()
def test_an_inflated_autoencoder_predicts_each_frame_alike(micro, tmp_path):
    from videohpm.grid import Mask

    model = micro.make("MaskedAutoencoder", projection_bias=True, **micro.IMAGE)
    micro.save(model, tmp_path / "ours")
    video, _ = micro.read(tmp_path / "ours", inflate=4, frames=4)
    video = video.build()
    masked = torch.tensor([[0, 2, 3], [0, 1, 2]])
    image_out = model(images(micro), Mask.from_units(masked, model.grid))
    clip = images(micro).expand(-1, -1, 4, -1, -1)
    video_out = video(clip, Mask.from_units(masked, video.grid))
    micro.close(video_out.pixels.unflatten(-1, (4, -1)), image_out.pixels[:, :, None].expand(
        -1, -1, 4, -1))  # fmt: skip
    micro.close(video_out.scores, image_out.scores)
