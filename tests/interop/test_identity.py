"""Ours → each layout → ours, bit for bit; where a layout cannot hold something, it is said."""

import pytest
import torch

from videohpm.config.architecture import encoder_of
from videohpm.models import MAEConfig, VideoClassifierConfig

ENCODER = ("dim", "depth", "heads", "frames", "image_size", "patch", "tubelet", "position",
           "class_token", "norm_eps", "final_norm")  # fmt: skip
DECODER = ("dim", "depth", "heads", "projection_bias")
IMAGE = {"frames": 1, "tubelet": 1, "position": "sincos_2d", "class_token": True}
HPM = IMAGE | {"projection_bias": True, "target": "raw", "predictor_unit": "tube"}
MAE = HPM | {"target": "joint", "predictor_unit": None}
PLAIN = {"predictor_unit": None}
LEARNED = {"position": "learned"}
WIDE = PLAIN | {"decoder_mlp_ratio": 48 / 11, "mlp_ratio": 48 / 11}

CASES = [
    ("videohpm", "MaskedAutoencoder", {}),
    ("videohpm", "VideoClassifier", {"pool": "first_token"}),
    ("videohpm", "VideoViT", LEARNED),
    ("videomae", "MaskedAutoencoder", PLAIN),
    ("videomae", "MaskedAutoencoder", WIDE),
    ("videomae", "MaskedAutoencoder", PLAIN | {"image_size": (32, 48)}),
    ("videomae", "VideoClassifier", {}),
    ("videomae", "VideoClassifier", {"pool": "first_token"} | LEARNED),
    ("videomae", "VideoViT", {"final_norm": False}),
    ("huggingface", "MaskedAutoencoder", PLAIN | {"norm_eps": 1e-5}),
    ("huggingface", "MaskedAutoencoder", WIDE),
    ("huggingface", "VideoClassifier", {"image_size": (32, 48)}),
    ("huggingface", "VideoClassifier", {"pool": "first_token"}),
    ("huggingface", "VideoViT", {}),
    ("timm", "VideoViT", IMAGE),
    ("timm", "VideoViT", IMAGE | LEARNED | {"class_token": False, "image_size": (32, 48)}),
    ("timm", "VideoClassifier", IMAGE | {"pool": "class_token"}),
    ("mae", "MaskedAutoencoder", HPM),
    ("mae", "MaskedAutoencoder", MAE),
    ("mae", "VideoClassifier", IMAGE),
    ("mae", "VideoViT", IMAGE | LEARNED),
]


def architecture(config) -> list:
    """What every layout must keep of a model's configuration."""
    kept = [getattr(encoder_of(config), name) for name in ENCODER]
    if isinstance(config, MAEConfig):
        unit = config.predictor and config.predictor.unit
        kept += [config.target, unit, *(getattr(config.decoder, name) for name in DECODER)]
    if isinstance(config, VideoClassifierConfig):
        kept += [config.classes, config.pool]
    return kept


@pytest.mark.parametrize(("layout", "kind", "arguments"), CASES)
def test_identity(micro, tmp_path, layout, kind, arguments):
    model = micro.make(kind, **arguments)
    micro.save(model, tmp_path / "ours")
    there = micro.convert(tmp_path / "ours", tmp_path / "there", layout)
    assert not there.not_written and there.target == layout
    assert (tmp_path / "there/README.md").exists()
    back = micro.convert(tmp_path / "there", tmp_path / "back")
    assert not back.missing
    weights, _ = micro.read(tmp_path / "back")
    wanted = model.state_dict()
    assert weights.kind == kind and weights.tensors.keys() == wanted.keys()
    assert all(torch.equal(tensor, weights.tensors[name]) for name, tensor in wanted.items())
    assert architecture(weights.config) == architecture(model.config)


def test_hpm_keeps_its_teacher(micro, tmp_path):
    from videohpm.checkpoint import load_teacher
    from videohpm.hpm import LossTeacher

    model, other = micro.make("MaskedAutoencoder", **HPM), micro.make("MaskedAutoencoder", 1, **HPM)
    teacher = LossTeacher(other, read="visible")
    micro.save(model, tmp_path / "ours", teacher)
    micro.convert(tmp_path / "ours", tmp_path / "mae", "mae")
    micro.convert(tmp_path / "mae", tmp_path / "back")
    back = load_teacher(tmp_path / "back")
    assert back.read == "visible" and back.steps is None
    wanted = teacher.model.state_dict()
    assert all(torch.equal(t, wanted[name]) for name, t in back.model.state_dict().items())
    ema, _ = micro.read(tmp_path / "ours", weights="ema")
    assert all(torch.equal(t, ema.tensors[name]) for name, t in wanted.items())


def test_what_is_dropped_is_said(micro, tmp_path):
    from videohpm.hpm import LossTeacher

    model = micro.make("MaskedAutoencoder", key_bias=True)
    micro.save(model, tmp_path / "ours", LossTeacher(model))
    for layout in ("videomae", "huggingface"):
        report = micro.convert(tmp_path / "ours", tmp_path / layout, layout)
        kept, _ = micro.read(tmp_path / layout)
        lost = {name for name in model.state_dict() if name not in kept.tensors}
        assert lost == {n for n in report.not_written if n.startswith("predictor.")}
        assert any(name.startswith("teacher: ") for name in report.not_written)
        changed = {n for n, t in kept.tensors.items() if not torch.equal(t, model.state_dict()[n])}
        assert {f"{n} (key part)" for n in changed} <= report.not_written.keys()
        assert all(name.endswith("qkv.bias") for name in changed) and len(changed) == 3
        assert "not written" in str(report) and "softmax" in str(report)


def test_key_bias_changes_no_output(micro, tmp_path):
    model = micro.make("VideoViT", key_bias=True)
    micro.convert(micro.save(model, tmp_path / "ours"), tmp_path / "vm", "videomae")
    with torch.no_grad():
        micro.close(micro.read(tmp_path / "vm")[0].build()(micro.clips()), model(micro.clips()))


@pytest.mark.parametrize(("layout", "kind", "arguments", "field"), [
    ("videomae", "VideoViT", IMAGE, "class_token"),
    ("videomae", "VideoViT", {"position": "sincos_2d"}, "position"),
    ("videomae", "MaskedAutoencoder", {"projection_bias": True}, "projection_bias"),
    ("huggingface", "VideoViT", IMAGE, "class_token"),
    ("huggingface", "VideoViT", LEARNED, "position"),
    ("huggingface", "MaskedAutoencoder", {"projection_bias": True}, "projection_bias"),
    ("huggingface", "MaskedAutoencoder", {"pixel_decoder": False}, "pixel_decoder"),
    ("huggingface", "MaskedAutoencoder", {"target_dim": 24}, "target_dim"),
    ("videomae", "MaskedAutoencoder", {"target_dim": 24}, "target_dim"),
    ("mae", "MaskedAutoencoder", HPM | {"target_dim": 24}, "target_dim"),
    ("timm", "VideoViT", {}, "frames"),
    ("mae", "MaskedAutoencoder", {}, "frames"),
    ("mae", "MaskedAutoencoder", IMAGE, "projection_bias"),
])  # fmt: skip
def test_what_a_layout_cannot_hold_is_refused(micro, tmp_path, layout, kind, arguments, field):
    from videohpm.errors import UserError

    micro.save(micro.make(kind, **arguments), tmp_path / "ours")
    with pytest.raises(UserError, match=f"^{field}: {layout} cannot hold this model") as caught:
        micro.convert(tmp_path / "ours", tmp_path / "out", layout)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("*out*"))


def test_the_card(micro, tmp_path):
    micro.save(micro.make("VideoClassifier"), tmp_path / "ours")
    micro.convert(
        tmp_path / "ours", tmp_path / "hf", "huggingface", data="Ten clips of mine",
        metrics={"top-1": 71.5},
    )  # fmt: skip
    card = (tmp_path / "hf/README.md").read_text()
    for words in ("Ten clips of mine", "| top-1 | 71.5 |", "Licence", "| classes | 5 |",
                  "VideoMAEForVideoClassification.from_pretrained", "library_name"):  # fmt: skip
        assert words in card
    assert str(tmp_path) not in card
