"""Whole runs of tiny models on made videos: the loop, resuming, and what stops it."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml
from handclock import HandClock
from hypothesis import given
from hypothesis import strategies as st

import videohpm
from videohpm import hpm, visualize
from videohpm import pretrain as pretrain_module
from videohpm.config import (
    HPMConfig,
    MaskConfig,
    ModelConfig,
    OnlineProbeConfig,
    OptimConfig,
    PretrainConfig,
    RunConfig,
    as_plain,
)
from videohpm.data import DataConfig, VideoDataset
from videohpm.engine import EngineConfig
from videohpm.errors import RunError, UserError
from videohpm.hpm import LossTeacher
from videohpm.pretrain import Pretraining, pretrain, schedule, train_step
from videohpm.training.changed import changed_settings, told_changes

MODEL = ModelConfig(
    arch="vit_tiny", frames=4, image_size=32, patch=8, dim=48, depth=1, heads=2,
    decoder_dim=32, decoder_depth=1, decoder_heads=2, target="raw",
)  # fmt: skip

LEARNS = OptimConfig(global_batch_size=16, base_lr=6e-2, warmup_steps=4)


def settings(shapes, folder, steps=6, **changes) -> PretrainConfig:
    """A run of a few steps, logged every step; 32 clips, so 4 steps are an epoch."""
    default = PretrainConfig(
        run=RunConfig(dir=str(folder), steps=steps, log_every=1, picture_every=0, save_every=0),
        data=DataConfig(root=str(shapes / "train"), workers=0, stride=2),
        model=MODEL,
        mask=MaskConfig(ratio=0.75),
        hpm=HPMConfig(
            momentum_start=0.9, momentum_end=0.99, momentum_steps=10, teacher_samples_per_tube=1
        ),
        optim=OptimConfig(global_batch_size=8, base_lr=3e-2, warmup_steps=2),
        engine=EngineConfig(device="cpu", precision="fp32"),
    )
    return replace(default, **changes)


def metrics(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def losses(folder) -> list[float]:
    return [line["loss"] for line in metrics(folder)]


@pytest.fixture(scope="module")
def finished(shapes, tmp_path_factory):
    """A run of 40 steps."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    pretrain(settings(shapes, folder, steps=40, optim=LEARNS))
    return folder


def test_a_run_learns_and_leaves_all_that_is_promised(finished):
    logged = metrics(finished)
    assert [line["step"] for line in logged] == list(range(1, 41))
    assert sum(losses(finished)[-5:]) < 0.85 * sum(losses(finished)[:5])
    promised = {
        "step", "loss", "predictor_loss", "hard_ratio", "lr", "clips_per_second", "data_wait",
        "rank_correlation", "teacher_distance",
    }  # fmt: skip
    assert promised <= logged[0].keys()
    assert logged[0]["hard_ratio"] == 0
    assert logged[-1]["hard_ratio"] == pytest.approx(0.5 * 39 / 40)
    assert logged[-1]["teacher_distance"] > 0
    assert list((finished / "pictures").glob("*.png"))
    assert list((finished / "tensorboard").iterdir())
    resolved = yaml.safe_load((finished / "config.yaml").read_text())
    assert resolved["optim"]["base_lr"] == 6e-2
    assert resolved["hpm"]["enabled"] is True


def test_the_predictor_learns_what_is_hard(shapes_module, tmp_path):
    """In clips of new colours in every frame, which are the stronger the further to the right."""
    random = np.random.default_rng(0)
    (tmp_path / "train").mkdir()
    for clip in range(32):
        colours = random.uniform(-1, 1, (8, 4, 4, 3)) * np.array([0, 30, 60, 120])[:, None]
        frames = (128 + colours).astype(np.uint8).repeat(8, 1).repeat(8, 2)
        shapes_module.write_video(tmp_path / "train" / f"{clip}.mp4", frames)
    pretrain(settings(tmp_path, tmp_path / "run", steps=40, optim=LEARNS))
    logged = metrics(tmp_path / "run")
    assert sum(line["rank_correlation"] for line in logged[-5:]) / 5 > 0.25
    assert sum(line["predictor_loss"] for line in logged[-5:]) / 5 < 0.69  # ln 2: knows nothing


def test_what_was_saved_is_given_back(finished):
    model, teacher = videohpm.load_model(finished), videohpm.load_teacher(finished)
    clips = torch.randn(1, 3, 4, 32, 32)
    features = videohpm.load_encoder(finished)(clips)
    torch.testing.assert_close(features, model.encoder(clips))
    assert teacher(clips).shape == (1, 16)
    assert not torch.equal(teacher.model.mask_token, model.mask_token)


def test_a_finished_run_says_so_and_does_nothing(finished, shapes, capsys):
    before = (finished / "metrics.jsonl").read_text()
    pretrain(settings(shapes, finished, steps=40, optim=LEARNS))
    assert "all 40 steps are done" in capsys.readouterr().out
    assert (finished / "metrics.jsonl").read_text() == before


def test_at_hard_share_zero_the_step_is_videomaes(shapes, tmp_path):
    plain = settings(shapes, tmp_path / "plain", hpm=HPMConfig(enabled=False))
    mined = HPMConfig(hard_ratio_end=0.0, predictor_detach=True)
    pretrain(plain)
    pretrain(settings(shapes, tmp_path / "mined", hpm=mined))
    assert losses(tmp_path / "plain") == losses(tmp_path / "mined")
    one, other = (videohpm.load_model(tmp_path / name).encoder for name in ("plain", "mined"))
    assert all(map(torch.equal, one.state_dict().values(), other.state_dict().values()))
    assert metrics(tmp_path / "plain")[0]["predictor_loss"] is None


def test_with_one_frame_the_mask_and_scores_are_image_hpms(shapes, tmp_path):
    image = replace(MODEL, frames=1, tubelet=1, class_token=True, position="sincos_2d")
    said = HPMConfig(predictor_unit="token", score_readout="visible", momentum_steps=10)
    pretrain(settings(shapes, tmp_path / "tokens", model=image, hpm=said))
    pretrain(
        settings(shapes, tmp_path / "tubes", model=image, hpm=replace(said, predictor_unit="tube"))
    )
    assert losses(tmp_path / "tokens") == losses(tmp_path / "tubes")


def test_accumulation_and_workers_change_nothing(shapes, tmp_path):
    pretrain(settings(shapes, tmp_path / "one"))
    halves = EngineConfig(device="cpu", precision="fp32", grad_accum_steps=2)
    data = DataConfig(root=str(shapes / "train"), workers=2, stride=2)
    pretrain(settings(shapes, tmp_path / "two", engine=halves, data=data))
    assert losses(tmp_path / "one") == pytest.approx(losses(tmp_path / "two"), rel=1e-5)


def test_bf16_follows_fp32(shapes, tmp_path):
    pretrain(settings(shapes, tmp_path / "fp32"))
    pretrain(
        settings(shapes, tmp_path / "bf16", engine=EngineConfig(device="cpu", precision="bf16"))
    )
    assert losses(tmp_path / "fp32") == pytest.approx(losses(tmp_path / "bf16"), rel=0.03)


def test_token_masks_train_too(shapes, tmp_path):
    mask = MaskConfig(ratio=0.75, unit="token")
    said = HPMConfig(
        predictor_unit="token",
        teacher_samples_per_tube=0,
        score_readout="visible",
        momentum_steps=5,
    )
    pretrain(settings(shapes, tmp_path / "run", mask=mask, hpm=said, steps=4))
    assert metrics(tmp_path / "run")[-1]["hard_ratio"] > 0


def test_token_masks_of_images_train_with_the_usual_predictor(shapes, tmp_path):
    one = replace(MODEL, frames=1, tubelet=1)
    pretrain(settings(shapes, tmp_path / "tube", model=one))
    by_token = MaskConfig(ratio=0.75, unit="token")
    pretrain(settings(shapes, tmp_path / "token", model=one, mask=by_token))
    assert losses(tmp_path / "token") == losses(tmp_path / "tube")  # a tube is one token there


def test_a_loss_of_the_predictor_that_is_not_finite_stops_the_run(shapes, tmp_path, monkeypatch):
    true = hpm.OBJECTIVES["relative"]
    monkeypatch.setitem(hpm.OBJECTIVES, "relative", lambda *args: true(*args) * float("inf"))
    with pytest.raises(RunError, match=r"step 1: the loss of the loss predictor is inf.*\.mp4"):
        pretrain(settings(shapes, tmp_path / "run"))


def test_settings_that_change_what_is_learnt_are_named_when_a_run_goes_on(shapes, tmp_path, caplog):
    folder = tmp_path / "run"
    config = settings(shapes, folder, steps=2)
    pretrain(config)
    pretrain(replace(config, data=replace(config.data, workers=1, prefetch=3)))
    longer = replace(config, run=replace(config.run, steps=3, log_every=2))
    pretrain(longer)
    assert "was reached with" not in caplog.text
    other = {"mask": replace(config.mask, scorer="change"), "hpm": HPMConfig(weight=0.5)}
    with pytest.raises(UserError, match="^run.dir: .*; all steps are done, so give another run"):
        pretrain(replace(longer, **other))
    pretrain(replace(longer, run=replace(longer.run, steps=4), **other))
    assert "step 3 was reached with mask.scorer loss_teacher, now change; hpm.wei" in caplog.text
    assert "; the run goes on with what is given now" in caplog.text


def test_only_what_changes_steps_is_compared_in_whatever_version():
    now = as_plain(PretrainConfig())
    before = json.loads(json.dumps(now))
    before["run"] |= {"dir": "elsewhere", "steps": 7, "resume": "x"}
    before["engine"], before["probe"] = {"device": "cpu"}, {}
    before["data"] |= {"root": "/a", "workers": 9, "gone": 1}
    assert changed_settings(before, now) == [] == changed_settings({}, now)
    before["run"]["seed"], before["data"]["stride"] = 5, 2
    assert changed_settings(before, now) == ["run.seed 5, now 0", "data.stride 2, now 4"]
    old = before | {"mask": {}, "hpm": {"hard_share_start": 0.25}}
    renamed = {"run.seed 5, now 0", "data.stride 2, now 4", "hpm.hard_ratio_start 0.25, now 0.0"}
    assert set(changed_settings(old, now)) == renamed
    assert told_changes([f"a{i}" for i in range(7)]) == "a0; a1; a2; a3; a4 and 2 more"


def test_what_was_saved_of_other_options_is_left_aside(shapes, tmp_path):
    mining = HPMConfig(center_scores=True, hard_ratio_start=0.5, momentum_steps=5)
    config = settings(shapes, tmp_path / "run", steps=2, hpm=mining)
    pretrain(replace(config, probe=OnlineProbeConfig(every=1, clips=8)))
    run = replace(config.run, steps=4, dir=str(tmp_path / "rest"), resume=str(tmp_path / "run"))
    larger = replace(MODEL, image_size=48)
    probe = OnlineProbeConfig(every=1, clips=12)
    pretrain(replace(config, run=run, model=larger, probe=probe))
    rows = metrics(tmp_path / "rest")
    assert [row["step"] for row in rows] == [3, 4]
    assert rows[0]["feature_change"] is None and rows[1]["feature_change"] > 0


def test_the_absolute_objective_trains_too(shapes, tmp_path):
    said = HPMConfig(objective="absolute", momentum_steps=5)
    pretrain(settings(shapes, tmp_path / "run", hpm=said, steps=3))
    assert len(losses(tmp_path / "run")) == 3


def test_the_mask_hides_what_the_teacher_scores_highest(finished):
    """Not the loop's own word for it: the teacher is asked again."""
    model = videohpm.load_model(finished)
    teacher = LossTeacher(model, 1)
    clips = torch.randn(4, 3, 4, 32, 32)
    mask = hpm.hard_mask(teacher(clips), model.grid, 0.75, 1.0)
    hidden = torch.zeros(4, 16, dtype=torch.bool).scatter(1, mask.tubes, True)
    scores = model.score(clips, teacher.steps)
    lowest_hidden = scores.masked_fill(~hidden, float("inf")).amin(1)
    highest_seen = scores.masked_fill(hidden, float("-inf")).amax(1)
    assert (lowest_hidden >= highest_seen).all()


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_samples(shapes, tmp_path):
    wild = OptimConfig(global_batch_size=8, base_lr=1e30, warmup_steps=4)
    run = RunConfig(dir=str(tmp_path / "run"), steps=12, log_every=4, picture_every=0, save_every=1)
    with pytest.raises(RunError, match=r"step \d+: the loss is (nan|inf).*\.mp4"):
        pretrain(settings(shapes, tmp_path / "run", optim=wild, run=run))
    videohpm.load_model(tmp_path / "run")  # the newest checkpoint is still whole
    weights = videohpm.load_model(tmp_path / "run").state_dict().values()
    assert all(torch.isfinite(value).all() for value in weights)


def test_a_run_goes_on_only_with_its_own_data_and_model(shapes, tmp_path):
    folder = tmp_path / "run"
    pretrain(settings(shapes, folder, steps=2))
    fewer = DataConfig(root=str(shapes / "validation"), workers=0, stride=2)
    with pytest.raises(UserError, match=r"data\.root.*16 samples.*32"):
        pretrain(settings(shapes, folder, data=fewer))
    with pytest.raises(UserError, match="does not fit .* written with model.dim 48, now 64$"):
        pretrain(settings(shapes, folder, model=replace(MODEL, dim=64)))
    with pytest.raises(UserError, match=r"run\.resume: never"):
        pretrain(settings(shapes, folder, run=RunConfig(dir=str(folder), resume="never")))


@pytest.mark.parametrize(
    ("warmup", "said"),
    [
        (
            {"warmup_epochs": 1.5},
            "optim.warmup_epochs: the warm-up (6 steps) is as long as the run",
        ),
        (
            {"warmup_steps": 9},
            "optim.warmup_steps: the warm-up (9 steps) is as long as the run (6)",
        ),
        ({"warmup_steps": 4}, None),
    ],
)
def test_a_warm_up_as_long_as_the_run_is_named(shapes, tmp_path, caplog, warmup, said):
    optim = OptimConfig(global_batch_size=8, base_lr=3e-2, **warmup)
    run = Pretraining(settings(shapes, tmp_path / "run", optim=optim))
    rates = [optim.lr_at(step, run.steps, run.steps_per_epoch) for step in range(run.steps)]
    assert (max(rates) == rates[-1]) == (said is not None)
    assert ("the warm-up" in caplog.text) == (said is not None)
    assert said is None or said in caplog.text


def test_clips_a_second_count_repeats_and_neither_pictures_nor_checkpoints(
    shapes, tmp_path, monkeypatch
):
    clock = HandClock()
    clock.time_runs(monkeypatch)
    for owner, name, seconds in (
        (VideoDataset, "__getitem__", 0.125),
        (pretrain_module, "train_step", 3.0),
        (Pretraining, "evaluate", 100.0),
        (Pretraining, "save", 100.0),
    ):
        monkeypatch.setattr(owner, name, clock.takes(seconds, getattr(owner, name)))
    folder = tmp_path / "run"
    run = RunConfig(dir=str(folder), steps=6, log_every=2, picture_every=1, save_every=3)
    data = DataConfig(root=str(shapes / "train"), workers=0, stride=2, repeats=2)
    pretrain(settings(shapes, folder, run=run, data=data))
    assert pretrain_module.train_step is not train_step
    assert len(list((folder / "pictures").glob("reconstruction_*.png"))) == 6
    assert len(list((folder / "pictures").glob("hidden_*.png"))) == 6
    # 8 samples are read in 1 s, and their 16 clips are trained on in 3.
    assert [line["clips_per_second"] for line in metrics(folder)] == [4.0, 4.0, 4.0]
    assert [line["data_wait"] for line in metrics(folder)] == [0.25, 0.25, 0.25]


@pytest.mark.parametrize("seconds, times", [(0.125, 1), (0.03125, 0)])  # .25 and .08 of the time
def test_a_run_that_waits_for_its_data_says_so_once(
    shapes, tmp_path, monkeypatch, capsys, seconds, times
):
    clock = HandClock()
    clock.time_runs(monkeypatch)
    slow = clock.takes(seconds, VideoDataset.__getitem__)
    monkeypatch.setattr(VideoDataset, "__getitem__", slow)
    slow = clock.takes(3.0, pretrain_module.train_step)
    monkeypatch.setattr(pretrain_module, "train_step", slow)
    data = DataConfig(root=str(shapes / "train"), workers=0, stride=2)
    pretrain(settings(shapes, tmp_path / "run", steps=4, data=data))
    text = "".join(capsys.readouterr())
    assert text.count("waiting for data took 25% of the time") == times
    assert text.count("waiting for data took") == times
    assert text.count("videohpm data bench") == times


def test_killed_and_restarted_gives_the_same_losses_bit_for_bit(shapes, tmp_path):
    config = {
        "run": {"steps": 11, "log_every": 1, "picture_every": 0, "save_every": 3},
        "data": {"root": str(shapes / "train"), "workers": 1, "stride": 2},
        "model": {
            "arch": "vit_tiny", "frames": 4, "image_size": 32, "patch": 8, "dim": 24, "depth": 1,
            "heads": 2, "decoder_dim": 16, "decoder_depth": 1, "decoder_heads": 2,
            "drop_path": 0.2,
        },
        "mask": {"ratio": 0.75},
        "hpm": {"momentum_start": 0.9, "momentum_steps": 10},
        "optim": {"global_batch_size": 6, "base_lr": 1e-2, "warmup_steps": 2},
        "engine": {"device": "cpu", "precision": "fp32", "grad_accum_steps": 2},
    }  # fmt: skip
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))

    def start(folder):
        command = [sys.executable, "-m", "videohpm", "pretrain", "--config"]
        return subprocess.Popen(
            [*command, str(tmp_path / "config.yaml"), "--run.dir", str(folder)],
            stdout=subprocess.DEVNULL,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            start_new_session=True,
        )

    whole, broken = start(tmp_path / "whole"), start(tmp_path / "broken")
    log = tmp_path / "broken" / "metrics.jsonl"
    while broken.poll() is None:  # kill in the second epoch, between two checkpoints
        if log.exists() and log.read_text().count("\n") >= 8:
            os.killpg(broken.pid, signal.SIGKILL)
        time.sleep(0.002)
    broken.wait()
    assert whole.wait() == 0
    resumed = start(tmp_path / "broken")
    assert resumed.wait() == 0
    assert losses(tmp_path / "broken") == losses(tmp_path / "whole")
    assert [line["step"] for line in metrics(tmp_path / "broken")] == list(range(1, 12))


def test_real_clips_train(shared, root, tmp_path):
    """H.264, HEVC, MPEG-4 in AVI and a file with two video streams, by the documented command."""
    from videohpm.cli import main

    code = main(
        ["pretrain", "--config", str(root / "configs/pretrain/demo.yaml")]
        + ["--data.root", str(shared / "videos"), "--run.dir", str(tmp_path / "real")]
        + [
            "--run.steps",
            "2",
            "--optim.global_batch_size",
            "8",
            "--data.workers",
            "0",
            "--run.log_every",
            "1",
        ]
    )
    assert code == 0
    assert len(losses(tmp_path / "real")) == 2
    assert metrics(tmp_path / "real")[-1]["bad_files"] == 0


@given(st.integers(50, 10**6), st.floats(1, 10**4))
def test_the_teachers_horizon_is_a_share_of_the_run_whatever_its_length(steps, steps_per_epoch):
    config = PretrainConfig()
    lag = [1 / (1 - schedule(config, s, steps, steps_per_epoch)["momentum"]) for s in (0, steps)]
    assert lag == pytest.approx([max(1.0, 0.008 * steps), 0.08 * steps], rel=1e-6)
    middle = [schedule(config, s, steps, steps_per_epoch)["momentum"] for s in (steps // 4, steps)]
    start = 1 - 1 / max(1.0, 0.008 * steps)
    assert middle[0] == pytest.approx(
        start + (middle[1] - start) * (steps // 4) / (steps / 2), abs=1e-9
    )


def test_published_momenta_count_epochs_where_they_are_given(root):
    text = (root / "configs/pretrain/imagenet1k_base.yaml").read_text()
    config = PretrainConfig(hpm=HPMConfig(**yaml.safe_load(text)["hpm"]))
    for epoch, wanted in ((0, 0.999), (50, 0.99945), (100, 0.9999), (150, 0.9999)):
        found = schedule(config, epoch * 625, 200 * 625, 625)["momentum"]
        assert found == pytest.approx(wanted, abs=1e-12)


def test_centered_scores_are_resumed_bit_for_bit_and_drawn(shapes, tmp_path):
    mining = HPMConfig(center_scores=True, hard_ratio_start=0.5, momentum_steps=5)
    config = settings(shapes, tmp_path / "whole", model=MODEL, hpm=mining)
    pretrain(replace(config, run=replace(config.run, save_every=3)))
    third = tmp_path / "whole/checkpoints/step_00000003"
    rest = replace(config.run, dir=str(tmp_path / "rest"), resume=str(third))
    pretrain(replace(config, run=rest))
    assert losses(tmp_path / "rest") == losses(tmp_path / "whole")[3:]
    last = [
        json.loads((tmp_path / name / "checkpoints/step_00000006/state.json").read_text())
        for name in ("whole", "rest")
    ]
    assert last[0]["score_center"] == last[1]["score_center"] and any(last[0]["score_center"])
    plain = replace(mining, center_scores=False)
    pretrain(settings(shapes, tmp_path / "plain", model=MODEL, hpm=plain))
    assert losses(tmp_path / "plain") != losses(tmp_path / "whole")
    video = str(sorted((shapes / "validation").glob("*.mp4"))[0])
    drawn = visualize.inspect_videos(tmp_path / "whole", [video], hard_ratio=0.5).hardness
    state = tmp_path / "whole/checkpoints/step_00000006/state.json"
    state.write_text(json.dumps(last[0] | {"score_center": None}))
    uncentered = visualize.inspect_videos(tmp_path / "whole", [video], hard_ratio=0.5).hardness
    center = np.array(last[0]["score_center"]).reshape(uncentered.shape[1:])
    np.testing.assert_allclose(drawn, uncentered - center, atol=1e-5)
