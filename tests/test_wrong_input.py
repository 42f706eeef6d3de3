"""Every mistake gives one clear line that names the field or file, exit code 2, no traceback."""

from pathlib import Path

import av
import numpy as np
import pytest
import yaml
from PIL import Image

from videohpm.cli import main

MICRO = {
    "run": {"steps": 1},
    "data": {"workers": 0, "stride": 1},
    "model": {
        "arch": "vit_tiny", "frames": 4, "image_size": 32, "patch": 8, "dim": 24, "depth": 1,
        "heads": 2, "decoder_dim": 16, "decoder_depth": 1, "decoder_heads": 2,
    },
    "mask": {"ratio": 0.75},
    "optim": {"global_batch_size": 2, "warmup_steps": 1},
    "engine": {"device": "cpu"},
}  # fmt: skip

# What is typed, and what the line must say.
FIELDS = {
    "unknown key": (
        ["--optim.base_lrr", "1"],
        "optim.base_lrr: no such field; did you mean optim.base_lr?",
    ),
    "unknown section": (["--optimizer.lr", "1"], "optimizer.lr: no such field"),
    "wrong type": (["--optim.base_lr", "fast"], "optim.base_lr: 'fast' is not a number"),
    "a fraction of a frame": (
        ["--model.frames", "4.5"],
        "model.frames: '4.5' is not a whole number",
    ),
    "a word for a switch": (
        ["--hpm.enabled", "maybe"],
        "hpm.enabled: 'maybe' is not true or false",
    ),
    "frames not divisible": (["--model.frames", "5"], "model.frames: 5 is not a multiple"),
    "size not divisible": (["--model.image_size", "30"], "model.image_size: 30x30"),
    "three sizes": (["--model.image_size", "[32,32,32]"], "model.image_size"),
    "unknown size": (["--model.arch", "vit_gigantic"], "model.arch: 'vit_gigantic'"),
    "heads not dividing": (["--model.heads", "5"], "model.dim: 24 must be a multiple"),
    "unknown target": (["--model.target", "hog"], "model.target: 'hog'"),
    "features of nothing": (
        ["--model.target", "frozen_encoder"],
        "model.target_encoder: give one with model.target frozen_encoder, and only then",
    ),
    "features not asked for": (
        ["--model.target_encoder", "runs/other"],
        "model.target_encoder: give one with model.target frozen_encoder, and only then",
    ),
    "features that are not there": (
        ["--data.root", "{good}", "--model.target", "frozen_encoder"]
        + ["--model.target_encoder", "not/there"],
        "not/there: no such path here, and the Hub cannot be reached",
    ),
    "features of no teacher": (
        ["--data.root", "{good}", "--model.target", "ema_encoder", "--hpm.enabled", "false"],
        "model.target: ema_encoder is the teacher's encoder; set hpm.enabled true",
    ),
    "pixels of features": (
        ["--data.root", "{good}", "--model.target", "ema_encoder", "--hpm.hardness", "pixels"],
        "hpm.hardness: pixels is no measure of features",
    ),
    "unknown loss of tokens": (
        ["--model.target_loss", "l1"],
        "model.target_loss: 'l1' is not one of mse, smooth_l1, cosine",
    ),
    "unknown position": (["--model.position", "rope"], "model.position: 'rope'"),
    "drop path of one": (["--model.drop_path", "1"], "model.drop_path"),
    "nothing visible": (["--mask.ratio", "1"], "mask.ratio: 1"),
    "no tube visible": (["--mask.ratio", "0.01"], "mask.ratio: 0.01 of 16 units masks 0"),
    "unknown unit": (["--mask.unit", "block"], "mask.unit: 'block'"),
    "token masks, tube scores": (["--mask.unit", "token"], "hpm.predictor_unit: a score a tube"),
    "a thinned teacher of tokens": (
        [
            "--mask.unit",
            "token",
            "--hpm.predictor_unit",
            "token",
            "--hpm.teacher_samples_per_tube",
            "1",
        ],
        "hpm.teacher_samples_per_tube",
    ),
    "a thinned student of tokens": (
        ["--mask.unit", "token", "--hpm.predictor_unit", "token", "--mask.scorer", "student"]
        + ["--hpm.teacher_samples_per_tube", "1"],
        "hpm.teacher_samples_per_tube: with mask.unit token student must see every time step",
    ),
    "thinned attention to tokens": (
        ["--mask.unit", "token", "--hpm.enabled", "false", "--mask.scorer", "attention"]
        + ["--hpm.teacher_samples_per_tube", "1"],
        "hpm.teacher_samples_per_tube: with mask.unit token attention must see every time step",
    ),
    "a fraction of a step": (
        ["--hpm.teacher_samples_per_tube", "1.5"],
        "hpm.teacher_samples_per_tube: 1.5; give a whole number of time steps, or below 1 a share",
    ),
    "the spread of one loss": (
        ["--hpm.objective", "absolute", "--mask.ratio", "0.1"],
        "hpm.objective: absolute standardises the losses of what is masked, and with mask.ratio "
        "0.1 that is one tube",
    ),
    "a numbered CPU": (["--engine.device", "cpu:0"], "engine.device: 'cpu:0' is not auto, cpu,"),
    "a GPU of no number": (["--engine.device", "cuda:x"], "engine.device: 'cuda:x' is not auto,"),
    "a score of no predictor": (
        ["--data.root", "{good}", "--mask.scorer", "student", "--hpm.enabled", "false"],
        "mask.scorer: student asks the loss predictor; set hpm.enabled true",
    ),
    "change within one step": (
        ["--data.root", "{good}", "--mask.scorer", "change", "--model.frames", "2"],
        "mask.scorer: change compares moments, and there is one only",
    ),
    "motion of an image": (
        ["--data.root", "{good}", "--mask.scorer", "motion", "--model.frames", "1"]
        + ["--model.tubelet", "1"],
        "mask.scorer: motion compares moments, and there is one only",
    ),
    "unknown scorer": (["--mask.scorer", "entropy"], "mask.scorer: 'entropy' is not one of"),
    "unknown choice": (["--mask.choice", "best"], "mask.choice: 'best' is not one of"),
    "a choice without scores": (
        ["--mask.choice", "drawn", "--mask.scorer", "none"],
        "mask.choice: drawn ranks by a scorer, and there is none with mask.scorer none",
    ),
    "a choice of no teacher": (
        ["--mask.choice", "easiest", "--hpm.enabled", "false"],
        "mask.choice: easiest ranks by a scorer, and there is none; set hpm.enabled true",
    ),
    "an unknown use": (["--mask.use", "show"], "mask.use: 'show' is not one of hide, decode"),
    "a use without scores": (
        ["--mask.use", "weight", "--mask.scorer", "none"],
        "mask.use: weight ranks by a scorer, and there is none with mask.scorer none; give another",
    ),
    "all decoded by choice": (
        ["--mask.use", "decode"],
        "mask.decode_ratio: with mask.use decode give the share of what is masked",
    ),
    "half of an image's tube": (
        ["--mask.decode_ratio", "0.5", "--model.frames", "1", "--model.tubelet", "1"],
        "mask.decode_ratio: a tube of one time step is decoded whole or not at all; give 1, or",
    ),
    "no scores to center": (
        ["--hpm.center_scores", "true", "--hpm.enabled", "false"],
        "hpm.center_scores: centers the scores of a scorer, and there is none; set hpm.enabled",
    ),
    "clips chosen by a scorer of tubes": (
        ["--mask.use", "sample", "--mask.scorer", "change"],
        "mask.scorer: with mask.use sample masks are random; leave change out",
    ),
    "clips chosen otherwise": (
        ["--mask.use", "sample", "--mask.choice", "easiest"],
        "mask.choice: with mask.use sample masks are random; leave easiest out",
    ),
    "clips chosen, scores centered": (
        ["--mask.use", "sample", "--hpm.center_scores", "true"],
        "hpm.center_scores: with mask.use sample masks are random, and there are no scores",
    ),
    "clips chosen, and no teacher": (
        ["--mask.use", "sample", "--model.target", "ema_encoder"],
        "model.target: with mask.use sample masks are random, and there is no teacher; ema_encoder",
    ),
    "clips that are never seen": (
        ["--mask.use", "sample", "--hpm.hard_ratio_end", "0.8"],
        "hpm.hard_ratio_start, hpm.hard_ratio_end: with mask.use sample how far a clip's share",
    ),
    "share over one": (["--hpm.hard_ratio_end", "1.5"], "hpm.hard_ratio_end: 1.5"),
    "momentum below zero": (["--hpm.momentum_start", "-1"], "hpm.momentum_start: -1"),
    "unknown objective": (["--hpm.objective", "best"], "hpm.objective: 'best'"),
    "empty batch": (["--optim.global_batch_size", "0"], "optim.global_batch_size: 0"),
    "batch not divisible": (["--engine.grad_accum_steps", "3"], "engine.grad_accum_steps = 3"),
    "negative rate": (["--optim.base_lr", "-1"], "optim.base_lr: -1"),
    "beta of one": (["--optim.betas", "[0.9,1.0]"], "optim.betas"),
    "one beta": (["--optim.betas", "[0.9]"], "optim.betas"),
    "negative clip": (["--engine.grad_clip", "-1"], "engine.grad_clip: -1"),
    "unknown precision": (["--engine.precision", "fp8"], "engine.precision: 'fp8'"),
    "unknown device": (["--engine.device", "tpu"], "engine.device: 'tpu'"),
    "no steps": (["--run.steps", "0"], "run.steps: 0"),
    "steps and epochs": (["--run.epochs", "2"], "run.steps: 1, but run.epochs is 2"),
    "negative workers": (["--data.workers", "-1"], "data.workers: -1"),
    "unknown crop": (["--data.crop", "random"], "data.crop"),
    "bad share over one": (["--data.max_bad_fraction", "2"], "data.max_bad_fraction: 2"),
    "no data named": ([], "data.root: neither a folder nor a manifest"),
    "missing folder": (["--data.root", "not/there"], "data.root: not/there"),
    "missing manifest": (["--data.manifest", "not/there.csv"], "data.manifest: not/there.csv"),
    "missing config": (["--config", "not/there.yaml"], "not/there.yaml"),
    "missing checkpoint": (["--data.root", "{good}", "--run.resume", "not/there"], "not/there"),
}


def write_video(path: Path, frames: int) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width = stream.height = 48
        stream.pix_fmt = "yuv420p"
        for number in range(frames):
            picture = np.full((48, 48, 3), number * 10 % 255, np.uint8)
            for packet in stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)


def _text(folder):
    (folder / "clip.mp4").write_text("not a video at all\n" * 40)


def _truncated(folder):
    write_video(folder / "clip.mp4", 30)
    data = (folder / "clip.mp4").read_bytes()
    (folder / "clip.mp4").write_bytes(data[: len(data) // 2])


def _images(folder):
    Image.new("RGB", (48, 48)).save(folder / "picture.png")


def _manifest(text):
    def write(folder):
        write_video(folder / "clip.mp4", 8)
        (folder / "list.csv").write_text(text)

    return write


# What lies in the folder, and what the line must say.
FILES = {
    "empty folder": (lambda folder: None, "data.root: no "),
    "a folder of text": (lambda f: (f / "a.txt").write_text("x"), "data.root: no "),
    "text named mp4": (_text, "clip.mp4"),
    "empty file": (lambda f: (f / "clip.mp4").write_bytes(b""), "clip.mp4"),
    "truncated video": (_truncated, "clip.mp4"),
    "video shorter than the clip": (lambda f: write_video(f / "clip.mp4", 3), "3 of the 4 frames"),
    "one-frame video": (lambda f: write_video(f / "clip.mp4", 1), "1 of the 4 frames"),
    "images for a video model": (_images, "data.root: images, but the model takes clips of 4"),
    "listed and missing": (_manifest("path\nclip2.mp4\n"), "clip2.mp4"),
    "no path column": (_manifest("file,label\nclip.mp4,0\n"), "data.manifest"),
    "header only": (_manifest("path,label\n"), "data.manifest"),
    "empty manifest": (_manifest(""), "data.manifest"),
    "a row too long": (_manifest("path,label\nclip.mp4,0,1\n"), "line 2"),
    "frames not a number": (_manifest("path,frames\nclip.mp4,many\n"), "frames 'many'"),
}

CONFIGS = {
    "not YAML": ("run: [unclosed\n", "config.yaml"),
    "a list": ("- run\n", "config.yaml"),
    "unknown section in a file": ("trainer:\n  steps: 1\n", "trainer"),
    "unknown key in a file": ("optim:\n  learning_rate: 1\n", "optim.learning_rate: no such field"),
    "a section given twice": (
        "data:\n  stride: 2\ndata:\n  workers: 0\n",
        "config.yaml line 3: data is given twice; give it once",
    ),
    "a field given twice": (
        "model:\n  frames: 8\n  dim: 24\n  frames: 4\n",
        "config.yaml line 4: frames is given twice; give it once",
    ),
    "wrong type in a file": (
        "optim:\n  global_batch_size: many\n",
        "optim.global_batch_size: 'many' is not a whole number",
    ),
}


def refuse(arguments: list[str], capsys) -> str:
    """The one line of a command that must fail as a user's mistake."""
    code = main(arguments)
    said = capsys.readouterr().err.strip()
    assert code == 2, said
    lines = [line for line in said.splitlines() if not line.startswith("replaced an unreadable")]
    assert len(lines) == 1, said
    assert lines[0].startswith("videohpm: ")
    assert "Traceback" not in said
    return lines[0]


@pytest.fixture(scope="module")
def micro(tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("config") / "micro.yaml"
    file.write_text(yaml.safe_dump(MICRO))
    return file


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("good")
    write_video(folder / "clip.mp4", 8)
    return folder


@pytest.mark.parametrize("kind", FIELDS)
def test_a_wrong_field(kind, micro, good, tmp_path, capsys):
    typed, said = FIELDS[kind]
    typed = [word.replace("{good}", str(good)) for word in typed]
    run = ["--run.dir", str(tmp_path / "run")]
    assert said in refuse(["pretrain", "--config", str(micro), *run, *typed], capsys)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("kind", FILES)
def test_a_wrong_file(kind, micro, tmp_path, capsys):
    make, said = FILES[kind]
    folder = tmp_path / "data"
    folder.mkdir()
    make(folder)
    data = ["--data.root", str(folder)]
    if (folder / "list.csv").exists():
        data = ["--data.manifest", str(folder / "list.csv")]
    run = ["--run.dir", str(tmp_path / "run")]
    assert said in refuse(["pretrain", "--config", str(micro), *run, *data], capsys)


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_wrong_config(kind, tmp_path, capsys):
    text, said = CONFIGS[kind]
    (tmp_path / "config.yaml").write_text(text)
    assert said in refuse(["pretrain", "--config", str(tmp_path / "config.yaml")], capsys)


def test_a_wrong_command(capsys):
    assert "did you mean pretrain?" in refuse(["pretrian"], capsys)


def test_the_good_input_is_good(micro, good, tmp_path, capsys):
    run = ["--run.dir", str(tmp_path / "run"), "--data.root", str(good)]
    assert main(["pretrain", "--config", str(micro), *run]) == 0


def test_every_field_is_documented(capsys):
    with pytest.raises(SystemExit) as exit:
        main(["pretrain", "--help"])
    assert exit.value.code == 0
    text = capsys.readouterr().out
    entries = [" ".join(entry.split()) for entry in text.split("\n  --")[1:]]
    own = [entry for entry in entries if "." in entry.split()[0] and "(type:" in entry]
    assert len(own) > 60
    undocumented = [e for e in own if len(e.split("(type:")[0].split()) < 5]
    assert not undocumented
