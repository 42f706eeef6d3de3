"""Ranks and ZeRO stages: the same losses, a divided teacher, checkpoints for all of them.

Real runs of the command line on 1, 2 and 4 ranks over gloo.
"""

import json
import shutil

import pytest
import torch
import yaml
from safetensors.torch import load_file

import videohpm
from videohpm import checkpoint
from videohpm.cli import main

MODEL = {
    "arch": "vit_tiny", "frames": 4, "image_size": 32, "patch": 8, "dim": 96, "depth": 1,
    "heads": 2, "decoder_dim": 48, "decoder_depth": 1, "decoder_heads": 2, "target": "raw",
}  # fmt: skip
STEPS = 20


@pytest.fixture(scope="module")
def settings(shapes) -> dict:
    """20 steps of 8 clips; the teacher moves and chooses from the first steps on."""
    return {
        "run": {"steps": STEPS, "log_every": 1, "picture_every": 0, "save_every": 10},
        "data": {"root": str(shapes / "train"), "workers": 0, "stride": 2},
        "model": MODEL,
        "mask": {"ratio": 0.75},
        "hpm": {"momentum_start": 0.9, "momentum_end": 0.99, "momentum_steps": 10,
                "hard_ratio_start": 0.3, "teacher_samples_per_tube": 1},
        "optim": {"global_batch_size": 8, "base_lr": 3e-2, "warmup_steps": 2},
        "engine": {"device": "cpu", "precision": "fp32", "grad_clip": 0.5},
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


def seen(name: str, weight: torch.Tensor) -> torch.Tensor | None:
    """What of a parameter the loss depends on: of the rest, AdamW scales up mere noise.

    A ranking ignores what is added to all scores, and a softmax what is added to all its inputs:
    the bias of attention's keys.
    """
    if name in ("predictor.head.bias", "predictor.norm.bias"):
        return None
    return weight.view(3, -1)[::2] if name.endswith("qkv.bias") else weight


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_two_ranks_at_any_stage_give_the_losses_of_one_process(train, stage, accumulation):
    one = train(1)
    two = train(2, "--engine.zero_stage", stage, "--engine.grad_accum_steps", accumulation)
    for name in ("loss", "predictor_loss", "gradient_norm", "teacher_distance"):
        assert column(two, name) == pytest.approx(column(one, name), rel=1e-4), name
    assert metrics(one)[-1]["hard_ratio"] > 0.45  # the teacher did choose
    here, there = videohpm.load_teacher(one), videohpm.load_teacher(two)
    theirs = there.model.state_dict()
    for name, mine in here.model.state_dict().items():
        if seen(name, mine) is not None:
            both = seen(name, theirs[name]), seen(name, mine)
            torch.testing.assert_close(*both, atol=1e-5, rtol=0, msg=name)
    clips = torch.randn(2, 3, 4, 32, 32)
    scores = [teacher(clips) for teacher in (here, there)]
    scores = [score - score.mean() for score in scores]
    torch.testing.assert_close(*scores, atol=1e-5, rtol=0)


CENTERED = ("--hpm.center_scores", "true")


def score_center(run, step=STEPS) -> list[float]:
    text = (run / "checkpoints" / f"step_{step:08d}" / "state.json").read_text()
    return json.loads(text)["score_center"]


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_centered_scores_are_those_of_one_process(train, stage):
    """Each rank sees its own clips; the running mean is of all of them, and so are the masks."""
    one = train(1, *CENTERED)
    two = train(2, "--engine.zero_stage", stage, "--engine.grad_accum_steps", 2, *CENTERED)
    assert column(two) == pytest.approx(column(one), rel=1e-4)
    assert column(one) != column(train(1))  # and the masks are others than without
    # What is added to all scores says nothing, and the predictor's last bias is mere noise.
    here, there = (torch.tensor(score_center(run)) for run in (one, two))
    torch.testing.assert_close(there - there.mean(), here - here.mean(), atol=1e-5, rtol=0)


def test_centered_scores_go_on_with_other_ranks(train, tmp_path):
    whole = train(2, "--engine.zero_stage", 3, "--engine.grad_accum_steps", 2, *CENTERED)
    half = tmp_path / "half"
    shutil.copytree(whole, half)
    shutil.rmtree(half / "checkpoints" / f"step_{STEPS:08d}")
    train(1, *CENTERED, folder=half)
    assert column(half) == pytest.approx(column(whole), rel=1e-4)


@pytest.fixture(scope="module")
def watched(starter, settings, tmp_path_factory):
    """watched(stage) → folder of a run in which the gradient of one step was infinite on a rank,
    and what each rank saw."""
    done = {}

    def run(stage):
        if stage not in done:
            place = tmp_path_factory.mktemp(f"stage{stage}")
            torch.save(torch.randn(2, 3, 4, 32, 32), place / "clips.pt")
            said = {"dir": str(place / "run"), "steps": 5, "picture_every": 2, "save_every": 2}
            plain = settings | {
                "run": settings["run"] | said,
                "engine": settings["engine"] | {"zero_stage": stage, "grad_accum_steps": 2},
            }
            job = starter.start(2, "facts:between_steps", plain, str(place), logs=place / "logs")
            assert job.wait() == [0, 0], job.said()
            facts = [json.loads((place / f"facts{rank}.json").read_text()) for rank in (0, 1)]
            done[stage] = place, facts
        return done[stage]

    return run


def test_under_stage_3_no_rank_keeps_a_whole_student_or_teacher_between_steps(watched):
    place, facts = watched(3)
    whole = {
        name: sum(p.numel() * p.element_size() for p in module.parameters())
        for name, module in (
            ("student", videohpm.load_model(place / "run")),
            ("teacher", videohpm.load_teacher(place / "run")),
        )
    }
    for rank in facts:
        assert len(rank["kept"]) == 6  # before each step, and after the last
        for kept in rank["kept"]:
            assert kept["teacher"] / whole["teacher"] == pytest.approx(0.5, abs=0.01)
            # Biases and norms, which are small, stay whole.
            assert 0.5 <= kept["student"] / whole["student"] < 0.55
            assert kept["whole"] == 0


def test_an_export_of_a_divided_run_gives_the_running_models_features(watched, tmp_path, capsys):
    place, _ = watched(3)
    assert main(["export", str(place / "run"), str(tmp_path / "export")]) == 0
    encoder = videohpm.load_encoder(tmp_path / "export")
    clips = torch.load(place / "clips.pt")
    for rank in (0, 1):
        running = torch.load(place / f"features{rank}.pt")
        torch.testing.assert_close(encoder(clips), running, atol=1e-5, rtol=0)


@pytest.mark.parametrize("stage", [2, 3])
def test_a_skipped_step_moves_neither_weights_nor_teacher_nor_schedules(watched, stage):
    place, facts = watched(stage)
    for rank in facts:
        assert (rank["moved"], rank["same"]) == (False, True)
        assert (rank["skipped"], rank["updates"]) == (1, 4)
        planned = rank["planned"]
        assert planned[2] != planned[3]
        # The third step was the skipped one.
        assert rank["schedules"] == [planned[step] for step in (0, 1, 2, 2, 3)]
    logged = [line.get("skipped_steps", 0) for line in metrics(place / "run")]
    assert logged == [0, 0, 1, 1, 1]
    newest = checkpoint.latest(place / "run")
    assert json.loads((newest / "state.json").read_text())["skipped"] == 1


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
        before = (*before, "--engine.grad_accum_steps", 1)
    whole, half = train(*before), tmp_path / "half"
    shutil.copytree(whole, half)
    last = half / "checkpoints" / f"step_{STEPS:08d}"
    shutil.rmtree(last)
    train(*after, folder=half)
    assert last.is_dir()  # the steps before it were trained again
    assert column(half)[:10] == column(whole)[:10]
    assert column(half) == pytest.approx(column(whole), rel=1e-4)


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


@pytest.mark.parametrize("stage", [2, 3])
def test_bf16_keeps_the_weights_and_the_teacher_in_fp32(train, stage):
    """The ranks compute in bf16 like one process that does; a slow teacher still moves.

    It chooses no tube: where bf16 rounds two scores alike, a choice would follow the rounding.
    """
    slow = ("--hpm.momentum_start", 0.9999, "--hpm.momentum_end", 0.9999)
    slow += ("--engine.precision", "bf16", "--hpm.hard_ratio_start", 0, "--hpm.hard_ratio_end", 0)
    one, two = train(1, *slow), train(2, *slow, "--engine.zero_stage", stage)
    assert column(two) == pytest.approx(column(one), rel=0.02)
    assert column(two) != column(
        train(2, "--engine.zero_stage", stage, "--engine.grad_accum_steps", 1)
    )
    for run in (one, two):
        first, last = checkpoint.checkpoints(run)
        early, late = videohpm.load_teacher(first).model, videohpm.load_teacher(last).model
        weight, other = early.encoder.norm.weight, late.encoder.norm.weight
        assert weight.dtype == torch.float32
        assert not torch.equal(weight, other)
        assert torch.equal(weight.bfloat16(), other.bfloat16())  # bf16 could not tell them apart
        for file in ("model", "optimizer"):
            for name, value in load_file(last / f"{file}.safetensors").items():
                assert value.dtype == torch.float32
                assert value.ndim < 2 or not torch.equal(value, value.bfloat16().float()), name


def test_zero_in_one_process(train):
    run = train(1, "--engine.zero_stage", 1)
    assert column(run) == pytest.approx(column(train(1)), rel=1e-4)


def test_a_batch_that_cannot_be_divided_is_said_once(starter, settings, tmp_path):
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings))
    job = starter.videohpm(
        2, "pretrain", "--config", tmp_path / "config.yaml", "--run.dir", tmp_path / "run",
        "--optim.global_batch_size", 9, logs=tmp_path,
    )  # fmt: skip
    assert job.wait() == [2, 2]
    assert (
        job.said().count(
            "optim.global_batch_size: 9 clips cannot be divided equally among 2 processes"
        )
        == 1
    )
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
        "optim": {"global_batch_size": 8, "base_lr": 0.1, "warmup_steps": 1, "layer_decay": 0.75},
        "engine": {"device": "cpu", "precision": "fp32"},
        "validation": {"root": str(shapes), "manifest": str(few), "every_steps": 2},
        "test": {"clips": 1, "crops": 1, "batch": 2},
        "ema": 0.5,
    }  # fmt: skip
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings))
    names = ("one", "two", "three")
    for world, name, *options in (
        (1, "one"),
        (2, "two", "--engine.zero_stage", 2),
        (2, "three", "--engine.zero_stage", 3),
    ):
        job = starter.videohpm(
            world, "finetune", "--config", tmp_path / "config.yaml",
            "--run.dir", tmp_path / name, *options, logs=tmp_path / f"{name}-logs",
        )  # fmt: skip
        assert job.wait() == [0] * world, job.said()
    trained, validated = (
        [[line[column] for line in metrics(tmp_path / name) if column in line] for name in names]
        for column in ("loss", "validation_top1")
    )
    assert len(trained[0]) == 4
    assert len(validated[0]) == 2
    for divided in (1, 2):
        assert trained[divided] == pytest.approx(trained[0], rel=1e-4)
        assert validated[divided] == pytest.approx(validated[0])
    scored = [json.loads((tmp_path / name / "evaluation.json").read_text()) for name in names]
    assert [one["scored"] for one in scored] == [15, 15, 15]


def test_settings_that_deepspeed_refuses_are_said_once(starter, settings, tmp_path):
    mine = tmp_path / "mine.json"
    mine.write_text(json.dumps({"zero_optimization": {"reduce_buckets": 1}}))
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings))
    job = starter.videohpm(
        2, "pretrain", "--config", tmp_path / "config.yaml", "--run.dir", tmp_path / "run",
        "--engine.deepspeed_config", mine, logs=tmp_path,
    )  # fmt: skip
    assert job.wait() == [2, 2]
    assert job.said().count("mine.json: DeepSpeed refuses it") == 1
    assert "reduce_buckets" in job.said()
    assert "Traceback" not in job.said()
