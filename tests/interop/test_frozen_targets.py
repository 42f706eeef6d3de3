"""Frozen encoders as targets, by the command line: trained, drawn, exported and drawn again."""

import json

import numpy as np
import pytest
from made_runs import write_timm_export

from videohpm import visualize
from videohpm.checkpoint import read_metadata
from videohpm.cli import main

pytestmark = pytest.mark.slow

OWN = {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.25]}
SMALL = {
    "model.arch": "vit_tiny", "model.frames": 4, "model.image_size": 32, "model.patch": 8,
    "model.dim": 24, "model.depth": 1, "model.heads": 2, "model.decoder_dim": 12,
    "model.decoder_depth": 1, "model.decoder_heads": 2, "mask.ratio": 0.5,
    "hpm.hard_ratio_end": 1.0, "run.steps": 30, "run.log_every": 1, "run.picture_every": 0,
    "optim.global_batch_size": 8, "optim.warmup_steps": 2,
    "optim.base_lr": 3e-2, "engine.device": "cpu", "engine.precision": "fp32", "data.workers": 0,
}  # fmt: skip


def words(values: dict) -> list[str]:
    plain = {k: v if isinstance(v, str) else json.dumps(v) for k, v in values.items()}
    return [word for name, value in plain.items() for word in (f"--{name}", value)]


@pytest.fixture(scope="module")
def work(root, shapes, tmp_path_factory):
    """Where runs are, and the encoders: an export of a run of the demo, and one of timm."""
    folder = tmp_path_factory.mktemp("frozen")
    pretrain(root, shapes, folder / "first", **{"run.steps": 4, "data.mean": OWN["mean"]})
    assert main(["export", str(folder / "first"), str(folder / "export")]) == 0
    write_timm_export(folder / "timm", OWN)
    return folder


def pretrain(root, shapes, run, **changes) -> list[float]:
    """Losses of a run of the demo's recipe at a tiny size."""
    given = SMALL | {"data.root": str(shapes / "train"), "run.dir": str(run)} | changes
    recipe = str(root / "configs/pretrain/demo.yaml")
    assert main(["pretrain", "--config", recipe, *words(given)]) == 0
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


@pytest.fixture(scope="module", params=["export", "timm"])
def trained(request, root, shapes, work):
    """(run, the encoder it was taught by)"""
    encoder = work / request.param
    named = f"timm:local-dir:{encoder}" if request.param == "timm" else str(encoder)
    run = work / f"taught by {request.param}"
    target = {"model.target": "frozen_encoder", "model.target_encoder": named}
    losses = pretrain(root, shapes, run, **target, **{"data.std": [0.2, 0.2, 0.2]})
    assert np.mean(losses[-5:]) < 0.98 * np.mean(losses[:5])
    return run, encoder


def video_of(shapes) -> str:
    return str(sorted((shapes / "validation").glob("*.mp4"))[0])


def test_a_run_and_its_export_are_drawn_alike(trained, shapes, tmp_path):
    run, _ = trained
    out = tmp_path / "export"
    assert main(["export", str(run), str(out), "--what", "all"]) == 0
    kept = read_metadata(out)[1]["pretraining"]
    assert kept["step"] == 30 and "root" not in kept["config"]["data"]
    for model in (run, out):
        picture = tmp_path / f"{model.name}.png"
        assert main(["visualize", str(model), video_of(shapes), "-o", str(picture)]) == 0
        assert picture.stat().st_size > 1000
    whole, drawn = (visualize.inspect_videos(model, [video_of(shapes)]) for model in (run, out))
    # The teacher is no part of an export: masks are random there.
    assert whole.mask.sum() == drawn.mask.sum() and drawn.hard is None
    whole, drawn = (
        visualize.inspect_videos(model, [video_of(shapes)], hard_ratio=0.0) for model in (run, out)
    )
    for name in ("input", "mask", "loss", "scores"):
        np.testing.assert_array_equal(getattr(drawn, name), getattr(whole, name))
    assert drawn.reconstruction is None and np.isfinite(drawn.loss[drawn.mask]).all()


def test_an_encoder_that_is_gone_is_named(trained, shapes, tmp_path, capsys):
    run, encoder = trained
    out = tmp_path / "export"
    assert main(["export", str(run), str(out), "--what", "all"]) == 0
    away = encoder.with_name("away")
    encoder.rename(away)
    try:
        capsys.readouterr()
        code = main(["visualize", str(out), video_of(shapes), "-o", str(tmp_path / "a.png")])
    finally:
        away.rename(encoder)
    said = capsys.readouterr().err
    assert code == 2 and said.count("\n") == 1
    assert "model.target_encoder" in said and encoder.name in said


def test_an_export_of_the_encoder_says_nothing_of_masks(trained, tmp_path):
    run, _ = trained
    assert main(["export", str(run), str(tmp_path / "encoder")]) == 0
    assert "pretraining" not in read_metadata(tmp_path / "encoder")[1]


def test_an_export_that_does_not_say_whose_features_is_one_line(trained, shapes, tmp_path, capsys):
    run, _ = trained
    out = tmp_path / "export"
    assert main(["export", str(run), str(out), "--what", "all"]) == 0
    about = json.loads((out / "config.json").read_text())
    del about["pretraining"]  # as earlier versions wrote it
    (out / "config.json").write_text(json.dumps(about))
    capsys.readouterr()
    code = main(["visualize", str(out), video_of(shapes), "-o", str(tmp_path / "a.png")])
    said = capsys.readouterr().err
    assert code == 2 and said.count("\n") == 1
    assert "does not say whose features its model predicts; give the run" in said


def test_a_teachers_features_are_not_in_an_export(root, shapes, work, tmp_path, capsys):
    run = work / "taught by itself"
    changes = {"model.target": "ema_encoder", "run.steps": 2, "optim.warmup_steps": 1}
    pretrain(root, shapes, run, **changes)
    assert main(["export", str(run), str(tmp_path / "all"), "--what", "all"]) == 0
    capsys.readouterr()
    arguments = [video_of(shapes), "-o", str(tmp_path / "a.png")]
    assert main(["visualize", str(tmp_path / "all"), *arguments]) == 2
    said = capsys.readouterr().err
    assert "features of the teacher, which an export does not hold; give the run" in said
    assert main(["visualize", str(run), *arguments]) == 0


def test_an_export_of_pixels_is_normalised_and_masked_as_its_run(work, shapes, tmp_path):
    out = tmp_path / "export"
    assert main(["export", str(work / "first"), str(out), "--what", "all"]) == 0
    whole, drawn = (
        visualize.inspect_videos(model, [video_of(shapes)], hard_ratio=0.0)
        for model in (work / "first", out)
    )
    for name in ("input", "mask", "loss", "scores", "reconstruction"):
        np.testing.assert_array_equal(getattr(drawn, name), getattr(whole, name))
