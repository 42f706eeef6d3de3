"""Published implementations' own outputs, from their own checkpoint files."""

import json

import pytest
import torch
from safetensors.torch import load_file

from videohpm import hpm
from videohpm.grid import Mask
from videohpm.interop import read_weights

SIZES = {"image_size": 64, "heads": 3, "decoder_heads": 2}


def close(found, wanted, tolerance=1e-5):
    torch.testing.assert_close(found, wanted, rtol=tolerance, atol=tolerance)


@pytest.fixture(scope="module")
def meta(shared):
    return json.loads((shared / "reference/meta.json").read_text())


@pytest.fixture(scope="module")
def images(shared):
    return load_file(shared / "reference/hpm_image.safetensors")


def test_videomae_pretraining(shared, meta):
    weights, report = read_weights(shared / "reference/videomae_pretrain.pth", **SIZES)
    assert report.layout == "VideoMAE pre-training" and not report.missing
    model, data = weights.build(), load_file(shared / "reference/videomae_pretrain.safetensors")
    clips, mask = data["video"], Mask.from_bool(data["mask"], model.grid)
    out = model(clips, mask)
    close(out.pixels, data["prediction"])
    close(hpm.pixel_targets(clips, mask, model.grid), data["target"])
    loss = hpm.reconstruction_loss(out.pixels, clips, mask, model.grid).mean()
    close(loss[None], data["loss"])
    loss.backward()
    gradients = {name: p.grad for name, p in model.named_parameters()}
    norms = {}
    for name, gradient in gradients.items():
        name = name.replace("decoder_embed", "encoder_to_decoder")
        if name.endswith("qkv.bias"):
            norms[name.replace("qkv.bias", "q_bias")] = gradient.chunk(3)[0].norm().item()
            norms[name.replace("qkv.bias", "v_bias")] = gradient.chunk(3)[2].norm().item()
        else:
            norms[name] = gradient.norm().item()
    assert norms == pytest.approx(meta["videomae_pretrain"]["grad_norms"], rel=1e-4, abs=1e-7)


def test_videomae_finetuning(shared, meta):
    path = shared / "reference/videomae_finetune.pth"
    weights, report = read_weights(path, image_size=64, heads=3)
    assert report.layout == "VideoMAE fine-tuning"
    data = load_file(shared / "reference/videomae_finetune.safetensors")
    with torch.no_grad():
        close(weights.build()(data["video"]), data["logits"])


@pytest.mark.parametrize("which", ["student", "ema"])
def test_hpm_image(shared, meta, images, which):
    path = shared / "reference/hpm_image.pth"
    weights, report = read_weights(path, heads=3, decoder_heads=2, weights=which)
    assert report.layout == "HPM image"
    clips = images["image"][:, :, None]
    if which == "ema":
        assert weights.teacher is None
    else:
        student, mask = weights.build(), Mask.from_bool(images["mask"], weights.grid)
        with torch.no_grad():
            out = student(clips, mask)
        close(out.pixels, images["pixels"])
        close(out.scores, images["predicted_loss"])
        for name, target in (("norm", "joint"), ("raw", "raw")):
            wanted = meta["hpm_image"]["losses"][name]
            losses = hpm.reconstruction_loss(out.pixels, clips, mask, weights.grid, target)
            close(losses, torch.tensor(wanted["matrix"]))
            assert losses.mean().item() == pytest.approx(wanted["mean"], rel=1e-5)
            relative = hpm.relative_loss(out.scores, losses).item()
            assert relative == pytest.approx(wanted["relative"], rel=1e-4)
            absolute = hpm.absolute_loss(out.scores, losses).item()
            assert absolute == pytest.approx(wanted["absolute"], rel=1e-4)
        close(weights.build_teacher()(clips), images["teacher_predicted_loss"])
    if which == "ema":
        with torch.no_grad():
            close(weights.build().score(clips, read="visible"), images["teacher_predicted_loss"])
