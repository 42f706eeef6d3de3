"""What goes wrong is named within 50 logged steps, in the log and in the report."""

import numpy as np
import pytest
import torch
from facts import read
from PIL import Image

from videohpm.errors import RunError
from videohpm.hpm import PixelTarget
from videohpm.pretrain import Pretraining
from videohpm.report import load_run, page
from videohpm.report.verdict import (
    COLLAPSING,
    EARLY,
    HEALTHY,
    MEAN_COLOUR,
    NO_MINING,
    STILL,
    kept_rows,
    logged_rows,
    verdict,
)

PLAIN = {
    "run": {"steps": 50, "log_every": 1, "picture_every": 0, "save_every": 0},
    "data": {"workers": 0, "crop": "centre"},
    "model": {
        "arch": "vit_tiny", "frames": 1, "tubelet": 1, "image_size": 32, "patch": 8, "dim": 48,
        "depth": 1, "heads": 2, "decoder_dim": 32, "decoder_depth": 1, "decoder_heads": 2,
        "target": "raw", "position": "sincos_2d",
    },
    "mask": {"ratio": 0.75},
    "optim": {"global_batch_size": 8, "base_lr": 1.2e-1, "warmup_steps": 4},
    "engine": {"device": "cpu", "precision": "fp32"},
    "probe": {"every": 5, "clips": 16},
}  # fmt: skip
LOOK = {
    "probe_loss": 0.3, "mean_colour_loss": 0.5, "effective_rank": 9.0, "feature_spread": 0.1,
    "feature_change": 0.05, "lr": 1e-3, "hard_ratio": 0.3, "knn_top1": 41.25,
    "position_share": 0.4, "true_position_share": 0.2, "teacher_rank_correlation": 0.8,
}  # fmt: skip


def write_images(folder, kind):
    """16 images: the upper half bluish, the lower reddish; or of one colour; or all alike."""
    random = np.random.default_rng(0)
    (folder / "train").mkdir()
    for clip in range(16):
        colours = np.array([[40, 60, 200], [220, 100, 40]])
        if kind == "flat":
            colours = np.full((2, 3), 90)
        elif kind == "halves":
            colours = (colours + random.uniform(-40, 40, (2, 3))).clip(0, 255)
        pixels = np.repeat(colours.astype(np.uint8), 16, 0)[:, None].repeat(32, 1)
        Image.fromarray(pixels).save(folder / "train" / f"{clip}.png")


def train(folder, kind="halves", spoil=None, mines=False, every=5, **optim):
    """(the run's verdict, its page) after 50 steps at most."""
    write_images(folder, kind)
    plain = {name: dict(section) for name, section in PLAIN.items()}
    plain["hpm"] = {"enabled": mines}
    plain["probe"]["every"] = every
    plain["run"]["dir"], plain["data"]["root"] = str(folder / "run"), str(folder / "train")
    plain["optim"] |= optim
    run = Pretraining(read(plain))
    if spoil is not None:
        spoil(run)
    try:
        run.run()
    except RunError:
        assert optim  # of a learning rate that ends a run
    loaded = load_run(folder / "run", "run")
    said = verdict(logged_rows(folder / "run", 50))
    assert said == verdict(loaded.metrics)
    return said, page([loaded])


def test_a_run_that_learns_is_healthy(tmp_path, capsys):
    said, shown = train(tmp_path)
    assert said.name == HEALTHY, said
    assert f'<p class="verdict">{said}'.replace("'", "&#x27;") in shown
    assert f"step 50: {said}" in capsys.readouterr().out


def test_a_teacher_that_hides_the_same_everywhere_is_named(tmp_path):
    """In 50 steps, of clips in which all tubes are equally hard, a teacher learns positions."""
    said, shown = train(tmp_path, mines=True)
    assert said.name == NO_MINING and "position explains" in said.why
    assert shown.count("position explains ") == 1


def test_targets_that_are_zero_are_named(tmp_path, monkeypatch):
    true = PixelTarget.__call__
    monkeypatch.setattr(PixelTarget, "__call__", lambda *args: torch.zeros_like(true(*args)))
    said, shown = train(tmp_path)
    assert said.name == MEAN_COLOUR and "the target is the same everywhere" in said.why
    assert MEAN_COLOUR in shown


def test_clips_of_one_colour_are_named(tmp_path):
    said, _ = train(tmp_path, "flat")
    assert said.name == MEAN_COLOUR and "clips of one colour" in said.why


def test_clips_that_are_all_alike_are_named(tmp_path):
    said, _ = train(tmp_path, "alike")
    assert said.name == COLLAPSING and "clips that are all alike" in said.why


def test_a_learning_rate_a_thousand_times_too_high_is_named(tmp_path):
    said, _ = train(tmp_path, every=1, base_lr=120.0)
    assert said.name in (COLLAPSING, MEAN_COLOUR) and "optim.base_lr" in said.why


def test_an_encoder_that_is_frozen_is_named(tmp_path):
    said, _ = train(tmp_path, spoil=lambda run: run.model.encoder.requires_grad_(False))
    assert said.name == STILL and "frozen weights" in said.why


def test_an_encoder_that_makes_the_same_of_all_clips_is_named(tmp_path):
    def spoil(run):
        run.model.encoder.norm.weight.requires_grad_(False).zero_()

    said, _ = train(tmp_path, spoil=spoil)
    assert said.name == COLLAPSING


@pytest.mark.parametrize(
    ("changes", "name", "said"),
    [
        ({}, HEALTHY, "loss 0.3, of each clip's mean colour 0.5, effective rank 9.0, feature"),
        ({"probe_loss": 0.495}, MEAN_COLOUR, "too few steps so far"),
        ({"probe_loss": 6.0}, MEAN_COLOUR, "12 times that of the mean colour"),
        ({"effective_rank": 1.2}, COLLAPSING, "the same of every clip"),
        ({"feature_spread": 0.001}, COLLAPSING, "the same of every clip"),
        ({"feature_change": 0.0}, STILL, "those of the look before"),
        ({"teacher_rank_correlation": 0.1}, NO_MINING, "hardly knows what is hard"),
        ({"position_share": 0.95}, NO_MINING, "the same positions in every clip"),
        ({"position_share": 0.95, "hard_ratio": 0.05}, HEALTHY, "k-NN 41.2 %"),
        ({"position_share": None}, HEALTHY, "spread 0.1"),
    ],
)
def test_the_name_follows_the_numbers(changes, name, said):
    found = verdict([LOOK | changes] * 5)
    assert found.name == name and said in found.why


def test_what_may_yet_become_good_is_not_judged():
    early = LOOK | {"probe_loss": 0.6}
    assert verdict([]) is None and verdict([{"loss": 1.0}]) is None
    assert verdict([early] * 2).name == EARLY
    assert verdict([early | {"lr": rate} for rate in (1e-4, 2e-4, 3e-4)]).name == EARLY
    assert verdict([early] * 3).name == MEAN_COLOUR
    assert verdict([early | {"probe_loss": 50.0}]).name == MEAN_COLOUR


def test_a_rank_that_falls_far_is_named_however_long_ago_it_was_high():
    rows = [LOOK | {"effective_rank": 40.0}, *[{"loss": 1.0}] * 9, *[LOOK] * 8]
    assert verdict(rows).name == COLLAPSING
    assert "was 40.0 before; usual cause: a learning rate that is too high" in verdict(rows).why
    kept = kept_rows(rows)
    assert len(kept) == 9 and verdict(kept) == verdict(rows)
