"""Ranks and ZeRO stages: the same losses, a divided teacher, checkpoints for all of them.

Real runs of the command line on 1, 2 and 4 ranks over gloo.
"""

import json
import shutil

import pytest
import torch
import yaml
from several import Starter

import videohpm
from videohpm import checkpoint
from videohpm.cli import main

MODEL = {
    "size": "vit_tiny", "frames": 4, "image_size": 32, "patch": 8, "dim": 96, "depth": 1,
    "heads": 2, "decoder_dim": 48, "decoder_depth": 1, "decoder_heads": 2, "target": "raw",
}  # fmt: skip
STEPS = 20


@pytest.fixture(scope="module")
def starter():
    with Starter() as starter:
        yield starter


@pytest.fixture(scope="module")
def settings(shapes) -> dict:
    """20 steps of 8 clips; the teacher moves and chooses from the first steps on."""
    return {
        "run": {"steps": STEPS, "log_every": 1, "picture_every": 0, "save_every": 10},
        "data": {"root": str(shapes / "train"), "workers": 0, "stride": 2},
        "model": MODEL,
        "mask": {"ratio": 0.75},
        "hpm": {"momentum_start": 0.9, "momentum_end": 0.99, "momentum_steps": 10,
                "hard_share_start": 0.3, "teacher_steps": 1},
        "optim": {"batch": 8, "lr": 3e-2, "warmup_steps": 2},
        "engine": {"device": "cpu", "precision": "fp32", "clip": 0.5},
    }  # fmt: skip


@pytest.fixture(scope="module")
def train(starter, settings, tmp_path_factory):
    """train(world, *options) → the run folder of a run that ended well."""
    place = tmp_path_factory.mktemp("runs")
    config = place / "config.yaml"
    config.write_text(yaml.safe_dump(settings))

    def run(world, *options, name=None, folder=None):
        folder = folder or place / (name or "-".join(map(str, ("run", world, *options))))
        if not (folder / "checkpoints" / f"step_{STEPS:08d}").exists():
            job = starter.videohpm(
                world, "pretrain", "--config", config, "--run.dir", folder, *options,
                logs=folder.with_name(folder.name + "-logs"),
            )  # fmt: skip
            assert job.wait() == [0] * world, job.said()
        return folder

    return run


def metrics(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def column(folder, name="loss") -> list[float]:
    return [line[name] for line in metrics(folder)]


def unseen(name: str) -> bool:
    """Whether the loss does not depend on (a part of) a parameter, so that AdamW scales up noise.

    A ranking ignores what is added to all scores, and a softmax what is added to all its inputs:
    the bias of attention's keys.
    """
    return name in ("predictor.head.bias", "predictor.norm.bias") or name.endswith("qkv.bias")


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_two_ranks_at_any_stage_give_the_losses_of_one_process(train, stage, accumulation):
    one = train(1)
    two = train(2, "--engine.zero_stage", stage, "--engine.accumulation", accumulation)
    for name in ("loss", "relative_loss", "gradient_norm", "teacher_distance"):
        assert column(two, name) == pytest.approx(column(one, name), rel=1e-4), name
    assert metrics(one)[-1]["hard_share"] > 0.45  # the teacher did choose
    here, there = videohpm.load_teacher(one), videohpm.load_teacher(two)
    theirs = there.model.state_dict()
    for name, mine in here.model.state_dict().items():
        if not unseen(name):
            torch.testing.assert_close(theirs[name], mine, atol=1e-5, rtol=0, msg=name)
    clips = torch.randn(2, 3, 4, 32, 32)
    scores = [teacher(clips) for teacher in (here, there)]
    scores = [score - score.mean() for score in scores]
    torch.testing.assert_close(*scores, atol=1e-5, rtol=0)


def test_under_stage_3_no_rank_keeps_a_whole_student_or_teacher(
    starter, train, settings, tmp_path, capsys
):
    """And: its export gives the running model's features; a step without a finite gradient
    moves nothing."""
    reference = train(1)
    whole = {
        name: sum(p.numel() * p.element_size() for p in module.parameters())
        for name, module in (
            ("student", videohpm.load_model(reference)),
            ("teacher", videohpm.load_teacher(reference)),
        )
    }
    clips = torch.randn(2, 3, 4, 32, 32)
    torch.save(clips, tmp_path / "clips.pt")
    run = {"run": settings["run"] | {"dir": str(tmp_path / "run"), "steps": 2}}
    plain = settings | run | {"engine": settings["engine"] | {"zero_stage": 3, "accumulation": 2}}
    job = starter.start(
        2, "facts:between_steps", plain, str(tmp_path), whole, logs=tmp_path / "logs"
    )
    assert job.wait() == [0, 0], job.said()
    for rank in (0, 1):
        facts = json.loads((tmp_path / f"facts{rank}.json").read_text())
        assert facts["teacher"] == pytest.approx(0.5, abs=0.01)
        # Biases and norms, which are small, stay whole.
        assert 0.5 <= facts["student"] < 0.55
        assert (facts["moved"], facts["skipped"], facts["same"]) == (False, 1, True)
    assert main(["export", str(tmp_path / "run"), str(tmp_path / "export")]) == 0
    encoder = videohpm.load_encoder(tmp_path / "export")
    running = torch.load(tmp_path / "features1.pt")
    torch.testing.assert_close(encoder(clips), running, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ((2, "--engine.zero_stage", 2), (1,)),
        ((1,), (2, "--engine.zero_stage", 3)),
        ((2, "--engine.zero_stage", 2), (4,)),
        ((2, "--engine.zero_stage", 2), (2, "--engine.zero_stage", 3)),
        ((2, "--engine.zero_stage", 3), (2, "--engine.zero_stage", 0)),
    ],
    ids=lambda side: "-".join(map(str, side[::2])),
)
def test_a_run_goes_on_with_other_ranks_and_stages(train, before, after, tmp_path):
    if before[0] == 2:
        before = (*before, "--engine.accumulation", 1)
    whole, half = train(*before), tmp_path / "half"
    shutil.copytree(whole, half)
    shutil.rmtree(half / "checkpoints" / f"step_{STEPS:08d}")
    train(*after, folder=half)
    assert column(half)[:10] == column(whole)[:10]
    assert column(half) == pytest.approx(column(whole), rel=1e-4)
    assert column(half)[10:] != column(whole)[10:]  # they were trained again


@pytest.mark.parametrize(
    "options",
    [
        ("--engine.zero_stage", 3, "--engine.checkpoint_activations", "true"),
        ("--engine.zero_stage", 2, "--engine.offload", "true"),
    ],
    ids=["recomputed", "offloaded"],
)
def test_saving_memory_changes_nothing(train, options):
    run = train(2, *options)
    assert column(run) == pytest.approx(column(train(1)), rel=1e-4)


def test_bf16_keeps_the_weights_and_the_teacher_in_fp32(train):
    """The ranks compute in bf16 like one process that does; a slow teacher still moves."""
    slow = ("--hpm.momentum_start", 0.9999, "--hpm.momentum_end", 0.9999)
    slow += ("--engine.precision", "bf16")
    one, two = train(1, *slow), train(2, *slow, "--engine.zero_stage", 3)
    assert column(two) == pytest.approx(column(one), rel=0.02)
    for run in (one, two):
        first = checkpoint.checkpoints(run)[0]
        early, late = videohpm.load_teacher(first).model, videohpm.load_teacher(run).model
        weight, other = early.encoder.norm.weight, late.encoder.norm.weight
        assert weight.dtype == torch.float32
        assert not torch.equal(weight, other)
        assert torch.equal(weight.bfloat16(), other.bfloat16())  # bf16 could not tell them apart


def test_zero_in_one_process(train):
    run = train(1, "--engine.zero_stage", 1)
    assert column(run) == pytest.approx(column(train(1)), rel=1e-4)


def test_a_batch_that_cannot_be_divided_is_said_once(starter, settings, tmp_path):
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings))
    job = starter.videohpm(
        2, "pretrain", "--config", tmp_path / "config.yaml", "--run.dir", tmp_path / "run",
        "--optim.batch", 9, logs=tmp_path,
    )  # fmt: skip
    assert job.wait() == [2, 2]
    assert job.said().count("optim.batch: 9 clips cannot be divided equally among 2 processes") == 1
    assert "Traceback" not in job.said()
    assert not (tmp_path / "run").exists()


def test_fine_tuning_divides_and_validates_too(starter, train, shapes, tmp_path):
    """15 videos to validate on: the ranks have unlike numbers, which must not be felt."""
    rows = (shapes / "validation-shape.csv").read_text().splitlines()
    few = shapes / "validation-few.csv"
    few.write_text("\n".join(rows[:16]) + "\n")
    settings = {
        "run": {"steps": 4, "log_every": 1, "save_every": 0},
        "data": {"root": str(shapes), "manifest": str(shapes / "train-shape.csv"), "workers": 0,
                 "stride": 2, "sampling": "dense"},
        "model": {"init": str(train(1)), "drop_path": 0.0},
        "augment": {"mixup": 0.0, "cutmix": 0.0},
        "optim": {"batch": 8, "lr": 0.1, "warmup_steps": 1, "layer_decay": 0.75},
        "engine": {"device": "cpu", "precision": "fp32"},
        "validation": {"root": str(shapes), "manifest": str(few), "every_steps": 2},
        "test": {"clips": 1, "crops": 1, "batch": 2},
        "ema": 0.5,
    }  # fmt: skip
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings))
    for world, name, *options in (1, "one"), (2, "two", "--engine.zero_stage", 3):
        job = starter.videohpm(
            world, "finetune", "--config", tmp_path / "config.yaml",
            "--run.dir", tmp_path / name, *options, logs=tmp_path / f"{name}-logs",
        )  # fmt: skip
        assert job.wait() == [0] * world, job.said()
    trained, validated = (
        [
            [line[column] for line in metrics(tmp_path / name) if column in line]
            for name in ("one", "two")
        ]
        for column in ("loss", "validation_top1")
    )
    assert len(trained[0]) == 4
    assert trained[1] == pytest.approx(trained[0], rel=1e-4)
    assert len(validated[0]) == 2
    assert validated[1] == pytest.approx(validated[0])
    scored = [json.loads((tmp_path / n / "evaluation.json").read_text()) for n in ("one", "two")]
    assert [one["scored"] for one in scored] == [15, 15]
