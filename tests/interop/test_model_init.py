"""Pre-training that starts from weights: what is taken, fitted, new and left out, by name."""

import json
import os
import shutil

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import videohpm
from videohpm.checkpoint import load_model, load_teacher, save_weights
from videohpm.cli import main
from videohpm.config import ModelConfig, mae_config
from videohpm.config.model import model_fields
from videohpm.errors import UserError
from videohpm.grid import Mask
from videohpm.hpm import LossTeacher
from videohpm.interop.start import StartReport, start_from

os.environ.setdefault("HF_HUB_OFFLINE", "1")
SHARED = ("decoder", "mask_token", "predictor")
IN_PLAIN = {"predictor_unit": None}


def created(micro, seed=5, **changes):
    """A fresh autoencoder of the micro size."""
    return micro.make("MaskedAutoencoder", seed, **changes)


def accounted(model, weights: int, report: StartReport) -> None:
    """Every tensor of the run, and every one of the weights, in exactly one place."""
    taken = [*report.loaded, *report.adapted]
    assert sorted([*taken, *report.new]) == sorted(model.state_dict())
    assert len(taken) + len(report.left_out) == weights


@pytest.mark.parametrize(
    ("changes", "new", "left_out"),
    [
        ({}, {}, {}),
        (IN_PLAIN, {}, {"predictor": "hpm.enabled is false"}),
        ({"decoder_depth": 2}, dict.fromkeys(SHARED, "decoder_depth: 1 there"),
         dict.fromkeys(SHARED, "2 here")),
        ({"predictor_depth": 2}, {"predictor": "predictor_depth: 1 there, 2 here"},
         {"predictor": "predictor_depth"}),
        ({"target": "raw"}, {"decoder.head": "per_channel there, raw here"},
         {"decoder.head": "per_channel there"}),
        ({"projection_bias": True}, {"decoder_embed.bias": "the weights have none"}, {}),
    ],
)  # fmt: skip
def test_what_another_autoencoder_takes(micro, tmp_path, changes, new, left_out):
    source = created(micro, 1, decoder_depth=1, predictor_depth=1)
    folder = micro.save(source, tmp_path / "w")
    model = created(micro, 2, **{"decoder_depth": 1, "predictor_depth": 1} | changes)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    report = start_from(model, str(folder))
    accounted(model, len(source.state_dict()), report)
    for found, wanted in ((report.new, new), (report.left_out, left_out)):
        for name, why in found.items():
            assert any(name.startswith(part) and said in why for part, said in wanted.items())
        assert all(any(name.startswith(part) for name in found) for part in wanted)
    for name, tensor in model.state_dict().items():
        origin = before if name in report.new else source.state_dict()
        assert torch.equal(tensor, origin[name]), name


@pytest.mark.parametrize(
    ("parts", "taken"),
    [("all", {"encoder", "decoder", "predictor"}), ("decoder", {"encoder", "decoder"}),
     ("encoder", {"encoder"})],
)  # fmt: skip
def test_parts(micro, tmp_path, parts, taken):
    source, model = created(micro, 1), created(micro, 2)
    report = start_from(model, str(micro.save(source, tmp_path / "w")), parts)
    accounted(model, len(source.state_dict()), report)
    found = {name.split(".")[0].split("_")[0] for name in report.loaded}
    assert found - {"mask"} == taken
    assert ("mask_token" in report.loaded) == ("decoder" in taken)
    asked = set(report.left_out.values())
    assert asked == (set() if parts == "all" else {f"model.init_parts: {parts}"})


@pytest.mark.parametrize("kind", ["VideoViT", "VideoClassifier"])
def test_an_encoder_or_a_classifier_gives_its_encoder(micro, tmp_path, kind):
    source, model = micro.make(kind, 1), created(micro, 2)
    report = start_from(model, str(micro.save(source, tmp_path / "w")))
    accounted(model, len(source.state_dict()), report)
    assert report.new["mask_token"] == report.new["predictor.norm.bias"] == f"a {kind} has none"
    own = source if kind == "VideoViT" else source.encoder
    for name, tensor in own.state_dict().items():
        assert torch.equal(model.encoder.state_dict()[name], tensor)
    if kind == "VideoClassifier":
        assert report.left_out["head.weight"] == "an autoencoder has no classes"
        assert report.new["encoder.norm.weight"] == "the weights have none"


def test_a_teacher_beside_the_weights_is_left_out_by_name(micro, tmp_path):
    source, model = created(micro, 1), created(micro, 2)
    teacher = LossTeacher(source, 1)
    folder = micro.save(source, tmp_path / "w", teacher)
    report = start_from(model, str(folder))
    accounted(model, len(source.state_dict()) + len(teacher.model.state_dict()), report)
    assert "teacher: mask_token" in report.left_out


def test_an_image_model_becomes_a_video_model_that_sees_a_repeated_frame_alike(micro, tmp_path):
    image = created(micro, 1, **micro.IMAGE, projection_bias=True, target="joint")
    micro.convert(micro.save(image, tmp_path / "ours"), tmp_path / "mae", "mae")
    video = created(micro, 2, position="sincos_2d", class_token=True, projection_bias=True,
                    frames=4, tubelet=2, target="joint")  # fmt: skip
    report = start_from(video, str(tmp_path / "mae/checkpoint.pth"))
    assert set(report.adapted) == {
        "encoder.patch_embed.proj.weight", "decoder.head.weight", "decoder.head.bias"
    }  # fmt: skip
    assert any("positions are computed for 2x2x2" in note for note in report.source.notes)
    still = micro.clips(1).expand(-1, -1, 2, -1, -1)
    first = videohpm.MaskedAutoencoder.create(
        **micro.SIZE
        | micro.DECODER
        | {
            "position": "sincos_2d",
            "class_token": True,
            "projection_bias": True,
            "frames": 2,
            "tubelet": 2,
            "target": "joint",
        }
    )  # one step: the positions of an image
    first.load_state_dict(video.state_dict())
    mask = torch.tensor([[True, False, True, True]] * 2)
    with torch.no_grad():
        seen = image(micro.clips(1), Mask.from_bool(mask, image.grid)).pixels
        out = first.eval()(still, Mask.from_bool(mask, first.grid)).pixels
    micro.close(out, seen.repeat(1, 1, 2))


def test_other_frames_and_sizes(micro, tmp_path):
    source = created(micro, 1)
    model = created(micro, 2, frames=8, image_size=(48, 64))
    report = start_from(model, str(micro.save(source, tmp_path / "w")))
    accounted(model, len(source.state_dict()), report)
    assert not report.adapted and not report.new
    assert any("4x3x4 tokens; the weights know 2x2x2" in note for note in report.source.notes)


@pytest.mark.parametrize(
    ("source", "model", "message"),
    [
        ({"dim": 48}, {}, "model.dim: 24, but .* has 48; leave it out, and model.arch"),
        ({"patch": 8}, {}, "model.patch: 16, but .* has 8; leave it out"),
        ({"position": "sincos_2d"}, {}, "model.position: sincos_1d, but .* has sincos_2d"),
        ({}, {"tubelet": 4}, "model.tubelet: the weights are for 2 frames and cannot become 4"),
        ({"mlp_ratio": 2.0}, {}, "model.mlp_ratio: 4.0, but .* has 2.0"),
    ],
)
def test_another_encoder_is_refused(micro, tmp_path, source, model, message):
    folder = micro.save(created(micro, 1, **source), tmp_path / "w")
    with pytest.raises(UserError, match=message):
        start_from(created(micro, 2, **model), str(folder))


def test_learned_positions_are_refused(micro, tmp_path):
    folder = micro.save(micro.make("VideoViT", position="learned"), tmp_path / "w")
    with pytest.raises(UserError, match="model.init: .* has learned positions"):
        start_from(created(micro), str(folder))


@settings(max_examples=40, deadline=None)
@given(
    st.fixed_dictionaries(
        {},
        optional={
            "arch": st.sampled_from(["vit_tiny", "vit_base", "vit_giant"]),
            "frames": st.sampled_from([2, 4, 16]),
            "image_size": st.sampled_from([32, 224, [32, 64]]),
            "dim": st.just(48),
            "depth": st.sampled_from([1, 12, 40]),
            "heads": st.just(8),
            "mlp_ratio": st.sampled_from([2.0, 4.0, 48 / 11]),
            "decoder_dim": st.sampled_from([96, 384]),
            "decoder_depth": st.sampled_from([1, 4, 12]),
            "decoder_heads": st.sampled_from([3, 8]),
            "decoder_mlp_ratio": st.sampled_from([1.0, 4.0]),
            "norm_eps": st.sampled_from([1e-6, 1e-12]),
            "head_norm_eps": st.just(1e-5),
            "final_norm": st.booleans(),
            "position": st.sampled_from(["sincos_1d", "sincos_2d"]),
            "class_token": st.booleans(),
            "projection_bias": st.booleans(),
            "patch_init": st.sampled_from(["default", "xavier"]),
            "target": st.sampled_from(["raw", "joint"]),
        },
    )
)
def test_fields_describe_any_autoencoder(given_fields):
    fields = {"decoder_dim": 96, "decoder_heads": 3} | given_fields
    if isinstance(fields.get("image_size"), list):
        fields["image_size"] = tuple(fields["image_size"])
    made = mae_config(**fields)
    again = mae_config(**ModelConfig(**model_fields(made)).architecture())
    assert again == made


# Whole runs ---------------------------------------------------------------------------------

TINY = [
    "--run.picture_every", "0", "--run.save_every", "0", "--run.log_every", "5",
    "--data.workers", "0", "--data.stride", "1", "--mask.ratio", "0.5",
    "--optim.global_batch_size", "4", "--optim.warmup_steps", "2", "--optim.base_lr", "3e-2",
    "--engine.device", "cpu", "--engine.precision", "fp32",
]  # fmt: skip


def run(shapes, folder, *arguments) -> int:
    where = ["--data.root", str(shapes / "train"), "--run.dir", str(folder)]
    return main(["pretrain", *where, *TINY, *map(str, arguments)])


@pytest.fixture(scope="module")
def continued(shapes, tmp_path_factory):
    """Transformers' checkpoint, continued for 20 steps: (its folder, the run's)."""
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("continued")
    config = transformers.VideoMAEConfig(
        image_size=32, num_frames=4, hidden_size=24, num_hidden_layers=2, num_attention_heads=3,
        intermediate_size=60, decoder_num_attention_heads=2, decoder_hidden_size=16,
        decoder_num_hidden_layers=1, decoder_intermediate_size=48,
    )  # fmt: skip
    torch.manual_seed(0)
    transformers.VideoMAEForPreTraining(config).save_pretrained(folder / "hf")
    assert run(shapes, folder / "run", "--model.init", folder / "hf", "--run.steps", 20) == 0
    return folder / "hf", folder / "run"


def test_a_transformers_checkpoint_in_and_out_again(continued, micro, tmp_path):
    transformers = pytest.importorskip("transformers")
    source, folder = continued
    account = (folder / "init.txt").read_text()
    assert "Hugging Face VideoMAEForPreTraining" in account and "left out" not in account
    assert "new: 16 (predictor.blocks.*" in account

    ours = load_model(folder)
    assert main(["convert", str(folder), str(tmp_path / "out"), "--to", "huggingface"]) == 0
    there = transformers.VideoMAEForPreTraining.from_pretrained(tmp_path / "out").eval()
    begun = transformers.VideoMAEForPreTraining.from_pretrained(source).eval()
    clips, mask = micro.clips(), torch.zeros(2, 8, dtype=torch.bool)
    mask[0, [0, 3, 4, 7]] = mask[1, [1, 2, 5, 6]] = True
    with torch.no_grad():
        wanted = there(clips.transpose(1, 2), bool_masked_pos=mask).logits
        found = ours(clips, Mask.from_bool(mask, ours.grid)).pixels
        before = begun(clips.transpose(1, 2), bool_masked_pos=mask).logits
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    assert (before - wanted).abs().max() > 0.01  # it was trained


def test_step_zero_is_the_checkpoint(continued, micro):
    """What the run started from computes what transformers computes, and so does its teacher."""
    transformers = pytest.importorskip("transformers")
    source, folder = continued
    begun = transformers.VideoMAEForPreTraining.from_pretrained(source).eval()
    model = micro.randomise(videohpm.MaskedAutoencoder(load_model(folder).config), 9)
    start_from(model, str(source))
    with torch.no_grad():
        wanted = begun.videomae(micro.clips().transpose(1, 2)).last_hidden_state
        micro.close(model.encoder(micro.clips()), wanted)
        micro.close(LossTeacher(model, 1).model.encoder(micro.clips()), wanted)


def test_a_run_that_goes_on_needs_its_weights_no_more(continued, shapes, tmp_path, capsys):
    source, folder = continued
    shutil.copytree(source, tmp_path / "hf")
    begin = ["--model.init", tmp_path / "hf", "--run.epochs", 0.5]
    assert run(shapes, tmp_path / "run", *begin) == 0
    assert "loaded: " in capsys.readouterr().out
    shutil.rmtree(tmp_path / "hf")
    assert run(shapes, tmp_path / "run", *begin[:2], "--run.epochs", 1) == 0
    assert "8 steps done" in capsys.readouterr().out
    assert load_model(tmp_path / "run").config == load_model(folder).config
    assert run(shapes, tmp_path / "new", *begin) == 2
    assert f"model.init: {tmp_path / 'hf'}" in capsys.readouterr().err


def test_the_teacher_starts_from_the_weights(micro, shapes, tmp_path):
    """A run whose teacher hardly moves: it stays what was loaded."""
    source = created(micro, 1, predictor_depth=1)
    folder = micro.save(source, tmp_path / "w", mean=[0.5] * 3, std=[0.25] * 3)
    still = ["--hpm.momentum_start", 1, "--hpm.momentum_end", 1, "--run.steps", 2]
    assert run(shapes, tmp_path / "run", "--model.init", folder, *still) == 0
    teacher, wanted = load_teacher(tmp_path / "run").model, source.state_dict()
    assert all(torch.equal(t, wanted[name]) for name, t in teacher.state_dict().items())
    config = json.loads((tmp_path / "run/checkpoints/step_00000002/state.json").read_text())
    assert config["config"]["data"]["mean"] == [0.5] * 3


def test_other_clips_and_pixels_from_the_command_line(micro, shapes, tmp_path, capsys):
    folder = tmp_path / "w"
    save_weights(folder, created(micro, 1), extra={"mean": [0.5] * 3})
    other = ["--model.frames", 8, "--model.image_size", "[32,48]", "--data.mean", "[0.4,0.4,0.4]"]
    assert run(shapes, tmp_path / "run", "--model.init", folder, *other, "--run.steps", 1) == 0
    said = capsys.readouterr().out
    assert "positions are computed for 4x2x3 tokens; the weights know 2x2x2" in said
    assert "data.mean: (0.4, 0.4, 0.4), the weights were trained with [0.5, 0.5, 0.5]" in said
    assert load_model(tmp_path / "run").grid.frames == 8


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--model.init", "no/such/folder"], "model.init: no/such/folder: there is no such file"),
        (["--model.init", "WEIGHTS", "--model.arch", "vit_small"], "leave it out, and model.arch"),
        (["--model.init", "WEIGHTS", "--model.init_parts", "head"], "model.init_parts: 'head'"),
        (["--model.position", "learned"], "model.position: 'learned' is not one of"),
    ],
)
def test_mistakes_are_one_line(micro, shapes, tmp_path, capsys, arguments, said):
    folder = micro.save(micro.make("MaskedAutoencoder", dim=192, depth=12, heads=3), tmp_path / "w")
    arguments = [str(folder) if each == "WEIGHTS" else each for each in arguments]
    assert run(shapes, tmp_path / "run", *arguments) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


@pytest.mark.parametrize("layout", ["videomae", "huggingface"])
def test_finetuning_starts_from_any_layout_too(micro, tmp_path, layout):
    from videohpm.config import ClassifierConfig, FinetuneConfig
    from videohpm.finetune.start import init_defaults, start_classifier

    source = micro.make("MaskedAutoencoder", 1)
    ours = micro.save(source, tmp_path / "w", mean=[0.5] * 3, std=[0.25] * 3)
    micro.convert(ours, tmp_path / "out", layout)
    path = tmp_path / "out" / ("checkpoint.pth" if layout == "videomae" else "")
    config = ClassifierConfig(init=str(path), frames=8, drop_path=0.0)
    encoder = start_classifier(config, 3).encoder
    assert encoder.grid.frames == 8
    wanted = source.encoder.state_dict()
    assert all(torch.equal(t, wanted[name]) for name, t in encoder.state_dict().items())
    known = init_defaults(FinetuneConfig(model=config))
    assert known == ({} if layout == "videomae" else {
        "data.mean": (0.5, 0.5, 0.5), "data.std": (0.25, 0.25, 0.25)})  # fmt: skip
    with pytest.raises(UserError, match="model.weights: .* holds no teacher; give student"):
        start_classifier(ClassifierConfig(init=str(path), weights="teacher"), 3)
