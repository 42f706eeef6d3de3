"""Whole fine-tuning runs of tiny models: what they leave behind, resuming, what stops them."""

import csv
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from handclock import HandClock
from tiny_runs import PLAIN, settings, two_process_settings

from videohpm import evaluate
from videohpm.checkpoint import latest, load_encoder, load_model
from videohpm.config import (
    ClassifierConfig,
    LossConfig,
    ValidationConfig,
)
from videohpm.data import VideoDataset
from videohpm.errors import UserError
from videohpm.finetune import finetune
from videohpm.finetune import run as finetune_module
from videohpm.finetune.labels import class_weights
from videohpm.finetune.run import Finetuning


def metrics(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def losses(folder) -> list[float]:
    return [line["loss"] for line in metrics(folder) if "loss" in line]


@pytest.fixture(scope="module")
def finished(shapes, tmp_path_factory):
    """A run of 40 steps on its own validation clips, so that it can learn them by heart."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    loss = LossConfig(label_smoothing=0.0)
    config = settings(shapes, folder, steps=40, augment=PLAIN, loss=loss)
    data = replace(config.data, crop="centre")
    config = replace(
        config,
        data=data,
        validation=replace(config.validation, manifest=data.manifest, every_steps=20),
        model=replace(config.model, drop_path=0.0),
        optim=replace(config.optim, global_batch_size=16, base_lr=0.15, layer_decay=1.0),
    )
    finetune(config)
    return folder


def test_a_run_learns_and_leaves_all_that_is_promised(finished):
    found = losses(finished)
    assert len(found) == 40 and np.mean(found[-5:]) < 0.8 * np.mean(found[:5])
    for name in (
        "config.yaml", "environment.json", "metrics.jsonl", "evaluation.json", "predictions.csv",
        "confusion.png", "best/model.safetensors", "best/config.json", "tensorboard",
    ):  # fmt: skip
        assert (finished / name).exists(), name
    summary = json.loads((finished / "evaluation.json").read_text())
    assert summary["top1"] > 40 > 25, "well above chance on what it was trained on"
    assert (summary["scored"], summary["total"], summary["views"]) == (32, 32, 2)
    with (finished / "predictions.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 32
    assert yaml.safe_load((finished / "config.yaml").read_text())["run"]["steps"] == 40


def test_every_checkpoint_says_how_its_clips_are_cut_and_what_its_classes_are(finished):
    best, last = evaluate.load(finished), evaluate.load(latest(finished))
    assert last.protocol == best.protocol and last.labels == best.labels


def test_the_best_weights_are_those_of_the_best_validation(finished):
    validations = [line for line in metrics(finished) if "validation_top1" in line]
    assert [line["step"] for line in validations] == [20, 40]
    about = json.loads((finished / "best/config.json").read_text())
    best = max(validations, key=lambda line: (line["validation_top1"], -line["step"]))
    assert about["step"] == best["step"]
    assert about["metrics"]["top1"] == best["validation_top1"]
    state = json.loads((latest(finished) / "state.json").read_text())
    assert state["best"]["step"] == best["step"]


def test_evaluate_says_what_the_run_said(finished, shapes, tmp_path):
    from videohpm.cli import main

    arguments = [
        "evaluate", "--model", str(finished), "--out", str(tmp_path), "--device", "cpu",
        "--data.manifest", str(shapes / "train-shape.csv"), "--data.workers", "0",
        "--test.batch", "8",
    ]  # fmt: skip
    assert main(arguments) == 0
    mine = json.loads((finished / "evaluation.json").read_text())
    again = json.loads((tmp_path / "evaluation.json").read_text())
    assert {k: mine[k] for k in ("top1", "top5", "protocol")} == {
        k: again[k] for k in ("top1", "top5", "protocol")
    }
    assert (tmp_path / "predictions.csv").read_text() == (finished / "predictions.csv").read_text()


def test_the_result_says_which_weights_were_tested(finished, shapes, tmp_path, capsys):
    """Of two runs that differ in nothing else: the best, or the last ones."""
    summary = json.loads((finished / "evaluation.json").read_text())
    assert summary["test_weights"] == "best" and summary["model"] == str(finished / "best")
    outputs = {}
    for which in ("best", "last"):
        config = settings(shapes, tmp_path / which, steps=4, ema=0.5, test_weights=which)
        config = replace(config, validation=replace(config.validation, every_steps=2))
        run = Finetuning(config)
        run.run()
        with torch.no_grad():
            run.average.model.head.weight.neg_()  # the last ones are told by that
        capsys.readouterr()
        run.test()
        outputs[which] = capsys.readouterr().out
        summary = json.loads((tmp_path / which / "evaluation.json").read_text())
        assert summary["test_weights"] == which
        rows = (tmp_path / which / "predictions.csv").read_text()
        again = evaluate.load(tmp_path / which).classifier() if which == "best" else None
        model = again or run.average.model
        scores = run._score(model, run.validation, run.protocol)
        assert f"{scores.probabilities[0].max():.6f}" in rows
    assert "tested: the last weights (step 4)" in outputs["last"]
    assert "tested: the best weights in validation (step " in outputs["best"]
    assert "chosen on these samples" in outputs["best"]


def test_the_last_weights_are_tested_again_after_a_restart(shapes, tmp_path):
    config = settings(shapes, tmp_path, steps=3, ema=0.5, test_weights="last")
    finetune(config)
    first = (tmp_path / "predictions.csv").read_text()
    (tmp_path / "predictions.csv").unlink()
    finetune(config)
    assert (tmp_path / "predictions.csv").read_text() == first


def test_unknown_weights_to_test_are_refused(shapes, tmp_path):
    with pytest.raises(ValueError, match="test_weights: 'first' is not one of best, last"):
        settings(shapes, tmp_path, test_weights="first")


def stop_after_step_4(run: Finetuning, save=Finetuning.save) -> None:
    save(run)
    if run.done == 4:
        raise KeyboardInterrupt


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_a_resumed_run_is_the_uninterrupted_one(shapes, tmp_path, monkeypatch, ema):
    """With everything that is random switched on."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    finetune(settings(shapes, whole, steps=6, ema=ema))
    config = settings(shapes, parts, steps=6, ema=ema)
    config = replace(config, run=replace(config.run, save_every=2))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Finetuning, "save", stop_after_step_4)
        finetune(config)
    finetune(config)
    assert losses(parts) == losses(whole)
    assert [m.get("validation_top1") for m in metrics(parts) if m["step"] == 6] == [
        m.get("validation_top1") for m in metrics(whole) if m["step"] == 6
    ]
    for name in ("best", "checkpoints/step_00000006"):
        a, b = load_model(whole / name), load_model(parts / name)
        for (key, value), other in zip(
            a.state_dict().items(), b.state_dict().values(), strict=True
        ):
            assert torch.equal(value, other), key


def test_batch_and_accumulation_do_not_change_what_is_learnt(shapes, tmp_path):
    """The same clips, augmentation and mixing; so the same losses, but for rounding."""
    found = {}
    for parts in (1, 2, 4):
        config = settings(shapes, tmp_path / str(parts), steps=4)
        config = replace(
            config,
            model=replace(config.model, drop_path=0.0),  # drawn anew for every micro-batch
            engine=replace(config.engine, grad_accum_steps=parts),
        )
        finetune(config)
        found[parts] = losses(tmp_path / str(parts))
    assert found[2] == pytest.approx(found[1], rel=1e-4)
    assert found[4] == pytest.approx(found[1], rel=1e-4)


def test_it_starts_from_the_given_encoder(shapes, pretrained, tmp_path):
    config = replace(settings(shapes, tmp_path), model=ClassifierConfig(init=str(pretrained)))
    model, encoder = Finetuning(config).engine.model, load_encoder(pretrained)
    mine = model.encoder.state_dict()
    for name, value in encoder.state_dict().items():
        if not name.startswith("norm."):  # a new norm stands behind the pooling
            assert torch.equal(mine[name], value), name
    assert not any(name.startswith("norm.") for name in mine)
    assert model.head.weight.std() < 1e-4, "the head starts small"
    scratch = replace(config, model=ClassifierConfig(init=str(pretrained), scratch=True))
    fresh = Finetuning(scratch).engine.model
    assert fresh.config == model.config
    name = "encoder.blocks.0.mlp.fc1.weight"
    assert not torch.equal(fresh.state_dict()[name], model.state_dict()[name])


@pytest.mark.parametrize("pool", ["mean", "attentive"])
def test_a_frozen_encoder_stays_and_its_head_learns(shapes, pretrained, tmp_path, pool):
    config = replace(
        settings(shapes, tmp_path, steps=3),
        model=ClassifierConfig(init=str(pretrained), freeze=True, pool=pool),
    )
    finetune(config)
    before, after = load_encoder(pretrained).state_dict(), load_model(tmp_path / "best")
    for name, value in after.encoder.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert after.head.weight.abs().max() > 2e-4


def test_an_average_is_kept_as_best(shapes, tmp_path):
    config = settings(shapes, tmp_path, steps=5, ema=0.5)
    finetune(config)
    best, last = load_model(tmp_path / "best"), load_model(tmp_path / "checkpoints/step_00000005")
    assert not torch.equal(best.head.weight, last.head.weight)


def test_the_average_follows_as_the_formula_says():
    from videohpm.finetune.average import WeightAverage

    model = torch.nn.Linear(3, 2)
    average = WeightAverage(model, 0.8)
    wanted = model.weight.detach().clone()
    for step in range(12):
        with torch.no_grad():
            model.weight.add_(torch.randn(2, 3))
        average.update(model, step)
        decay = min(0.8, (1 + step) / (10 + step))
        wanted = decay * wanted + (1 - decay) * model.weight.detach()
    torch.testing.assert_close(average.model.weight, wanted)


def test_the_average_of_a_bf16_model_is_not_rounded_away():
    from videohpm.finetune.average import WeightAverage

    model = torch.nn.Linear(3, 2).bfloat16()
    average = WeightAverage(model, 0.9999)
    start = average.model.weight.clone()
    with torch.no_grad():
        model.weight.add_(1.0)
    average.update(model, 10**6)
    assert average.model.weight.dtype == torch.float32
    moved = (average.model.weight - start).mean().item()
    assert moved == pytest.approx(1 - 0.9999, rel=0.02)


def test_class_weights_make_rare_classes_count_alike():
    labels = np.array([0] * 6 + [1] * 3 + [3])
    weights = class_weights("balanced", labels, 4)
    assert weights[2] == 0 and weights[labels].mean().item() == pytest.approx(1)
    totals = [weights[c].item() * (labels == c).sum() for c in (0, 1, 3)]
    assert totals == pytest.approx([10 / 3] * 3)
    assert class_weights("none", labels, 4) is None
    given = class_weights([1.0, 2.0, 1.0, 1.0], labels, 4)
    assert (given[1] / given[0]).item() == pytest.approx(2)
    with pytest.raises(UserError, match="loss.class_weights: 2 numbers for 4 classes"):
        class_weights([1.0, 2.0], labels, 4)
    with pytest.raises(UserError, match="loss.class_weights: .* every sample weighs 0"):
        class_weights([0.0, 0.0, 5.0], np.array([0, 1, 1]), 3)


def test_without_validation_the_last_weights_are_the_best(shapes, tmp_path):
    finetune(settings(shapes, tmp_path, steps=2, validation=ValidationConfig()))
    best, last = load_model(tmp_path / "best"), load_model(tmp_path)
    assert torch.equal(best.head.weight, last.head.weight)
    assert not (tmp_path / "evaluation.json").exists()


def test_a_finished_run_is_tested_again_and_not_trained(shapes, tmp_path, capsys):
    config = settings(shapes, tmp_path, steps=2)
    finetune(config)
    (tmp_path / "evaluation.json").unlink()
    capsys.readouterr()
    finetune(config)
    said = capsys.readouterr().out
    assert "all 2 steps are done" in said and "16 of 16 scored" in said
    assert (tmp_path / "evaluation.json").exists()


def test_damaged_best_weights_are_kept_aside_and_replaced(shapes, tmp_path, caplog):
    config = settings(shapes, tmp_path, steps=4)
    finetune(config)
    file = tmp_path / "best" / "model.safetensors"
    damaged = bytearray(file.read_bytes())
    damaged[-2] ^= 4
    file.write_bytes(damaged)
    with pytest.raises(
        UserError, match="test_weights: best.*are lost, .*; give --test_weights last"
    ):
        finetune(config)
    assert "best_damaged; the best of the validations to come" in caplog.text
    longer = replace(config, run=replace(config.run, steps=6))
    finetune(longer)
    assert json.loads((tmp_path / "evaluation.json").read_text())["best_step"] == 6
    assert (tmp_path / "best_damaged" / file.name).read_bytes() == damaged
    last = load_model(tmp_path / "checkpoints/step_00000006")
    assert torch.equal(load_model(tmp_path / "best").head.weight, last.head.weight)


def test_clips_a_second_count_repeats_and_neither_validation_nor_checkpoints(
    shapes, tmp_path, monkeypatch
):
    clock = HandClock()
    clock.time_runs(monkeypatch)
    for owner, name, seconds in (
        (VideoDataset, "__getitem__", 0.125),
        (finetune_module, "train_step", 3.0),
        (Finetuning, "validate", 100.0),
        (Finetuning, "save", 100.0),
    ):
        monkeypatch.setattr(owner, name, clock.takes(seconds, getattr(owner, name)))
    config = settings(shapes, tmp_path, steps=6)
    config = replace(
        config,
        run=replace(config.run, log_every=2, save_every=3),
        data=replace(config.data, repeats=2),
        validation=replace(config.validation, every_steps=3),
    )
    finetune(config)
    assert sum("validation_top1" in line for line in metrics(tmp_path)) == 2
    trained = [line for line in metrics(tmp_path) if "loss" in line]
    # 8 samples are read in 1 s, and their 16 clips are trained on in 3.
    assert [line["clips_per_second"] for line in trained] == [4.0, 4.0, 4.0]
    assert [line["data_wait"] for line in trained] == [0.25, 0.25, 0.25]


SCRIPT = """
import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, sys.argv[1])
from tiny_runs import two_process_settings
from videohpm.finetune import finetune

finetune(two_process_settings(Path(sys.argv[2]), Path(sys.argv[3])))
"""


def test_two_processes_train_what_one_does(shapes, tmp_path):
    """The same losses, best weights and test, to rounding."""
    (tmp_path / "run.py").write_text(SCRIPT)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    arguments = [tmp_path / "run.py", Path(__file__).parent, shapes, tmp_path / "two"]
    done = subprocess.run(
        [*launcher, "--nproc_per_node", "2", *map(str, arguments)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("16 of 16 scored") == 1
    finetune(two_process_settings(shapes, tmp_path / "one"))
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-4)
    one, two = (load_model(tmp_path / n / "best") for n in ("one", "two"))
    torch.testing.assert_close(one.head.weight, two.head.weight, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"init": "nowhere"}, "nowhere: no model here"),
        ({"dim": 48}, "model.dim: 48, but .* has 24; leave it out"),
        ({"arch": "vit_large"}, "model.arch: vit_large has dim 1024, but .* has 24; leave it out"),
        ({"tubelet": 4}, "model.tubelet: the weights are for 2 frames"),
        ({"frames": 5}, "model.frames: 5 is not a multiple"),
        ({"pool": "class_token"}, "model.pool: class_token needs"),
    ],
)
def test_models_that_do_not_fit_are_refused(shapes, pretrained, tmp_path, change, said):
    model = ClassifierConfig(**{"init": str(pretrained)} | change)
    with pytest.raises(UserError, match=said):
        Finetuning(replace(settings(shapes, tmp_path / "run"), model=model))
    assert not (tmp_path / "run").exists()


def test_a_file_where_the_run_should_be_is_refused(shapes, tmp_path):
    (tmp_path / "letter.txt").write_text("keep me")
    for folder in (tmp_path / "letter.txt", tmp_path / "letter.txt/run"):
        with pytest.raises(UserError, match=r"run.dir: .*letter.txt is a file"):
            Finetuning(settings(shapes, folder))


def test_a_data_set_that_must_not_be_mirrored_is_not(shapes, root, tmp_path):
    config = settings(shapes, tmp_path)
    data = replace(config.data, manifest=str(shapes / "train.csv"), flip=True)
    with pytest.raises(UserError, match="data.flip: shapes must not be mirrored .*set data.flip"):
        Finetuning(replace(config, data=data, dataset=str(root / "datasets/shapes")))


def test_class_names_come_from_the_data_sets_facts(shapes, root, tmp_path):
    config = settings(shapes, tmp_path)
    data = replace(config.data, manifest=str(shapes / "train.csv"))
    validation = replace(config.validation, manifest=str(shapes / "validation.csv"))
    config = replace(config, data=data, validation=validation, test=evaluate.ViewConfig(),
                     dataset=str(root / "datasets/shapes"))  # fmt: skip
    run = Finetuning(config)
    assert run.task.outputs == 32 and run.task.names[0] == "square left"
    assert (run.protocol.clips, run.protocol.crops, run.protocol.stride) == (1, 1, 2)


def test_validation_labels_must_be_among_the_classes(shapes, tmp_path):
    config = settings(shapes, tmp_path)
    wrong = ValidationConfig(manifest=str(shapes / "validation.csv"))
    with pytest.raises(UserError, match="validation.manifest: label 15, but .* 4 classes"):
        Finetuning(replace(config, validation=wrong))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"root": "/nowhere"}, "^validation.root: /nowhere is not a folder"),
        ({"manifest": "/nowhere.csv"}, "^validation.manifest: /nowhere.csv does not exist"),
    ],
)
def test_a_mistake_of_validation_names_its_own_field(shapes, tmp_path, given, said):
    config = settings(shapes, tmp_path)
    with pytest.raises(UserError, match=said):
        Finetuning(replace(config, validation=ValidationConfig(**given)))


def test_an_odd_batch_cannot_be_mixed(shapes, tmp_path):
    config = settings(shapes, tmp_path)
    with pytest.raises(UserError, match="optim.global_batch_size: 7 .* in pairs for mixup"):
        replace(config, optim=replace(config.optim, global_batch_size=7))
    replace(config, optim=replace(config.optim, global_batch_size=7), augment=PLAIN)


@pytest.mark.parametrize("wish", ["sometimes", [0.0, 0.0], [-1.0, 1.0]])
def test_impossible_class_weights_are_refused(wish):
    with pytest.raises(ValueError, match="loss.class_weights"):
        LossConfig(class_weights=wish)
