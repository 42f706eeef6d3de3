"""Several classes a sample, and one number a sample: from the list to the report."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import (
    average_precision_score,
    mean_absolute_error,
    mean_squared_error,
    r2_score,
)
from tiny_runs import PLAIN, settings

from videohpm import evaluate
from videohpm.checkpoint import latest
from videohpm.cli import main
from videohpm.config import AugmentConfig, LossConfig
from videohpm.config.tasks import MULTI_LABEL, REGRESS
from videohpm.data import Manifest, find_samples
from videohpm.errors import UserError
from videohpm.evaluate.knn import knn_means, knn_probabilities
from videohpm.evaluate.linear import Standardise, fit_linear
from videohpm.evaluate.metrics import average_precision, regression_errors
from videohpm.finetune import finetune
from videohpm.finetune.run import Finetuning


@pytest.fixture(scope="module")
def lists(shapes):
    """lists(task, part) → a list of the made clips; a number is the brightness of the first frame,
    times 100."""

    def make(task, part):
        file = shapes / f"{part}-{task}.csv"
        if file.exists():
            return file
        with (shapes / f"{part}.csv").open(newline="") as source:
            rows = list(csv.DictReader(source))
        lines = ["path,label,frames"]
        for row in rows:
            label = f"{row['shape']};{row['motion']}"
            if task == "regress":
                pixels = evaluate.views.load_clip(
                    find_samples(shapes, shapes / f"{part}.csv")[len(lines) - 1], np.array([0])
                )
                label = f"{100 * pixels.float().mean():.3f}"
            lines.append(f"{row['path']},{label},{row['frames']}")
        file.write_text("\n".join(lines) + "\n")
        return file

    return make


def config_of(shapes, lists, folder, task, **changes):
    """A run that learns its own validation clips."""
    config = settings(shapes, folder, steps=30, augment=PLAIN, task=task, **changes)
    return replace(
        config,
        loss=LossConfig(label_smoothing=0.0),
        data=replace(config.data, manifest=str(lists(task, "train")), crop="centre"),
        validation=replace(
            config.validation, manifest=str(lists(task, "train")), every_steps=10
        ),
        model=replace(config.model, drop_path=0.0, head_scale=1.0),
        optim=replace(config.optim, global_batch_size=16, base_lr=0.1, layer_decay=1.0),
    )  # fmt: skip


@pytest.fixture(scope="module")
def finished(shapes, lists, tmp_path_factory):
    """finished(task) → the folder of a run of 30 steps."""
    folders = {}

    def run(task):
        if task not in folders:
            folders[task] = tmp_path_factory.mktemp(task) / "run"
            finetune(config_of(shapes, lists, folders[task], task))
        return folders[task]

    return run


def table(folder):
    with (folder / "predictions.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def logged(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def truth_of(manifest, count):
    return manifest.label_sets(np.arange(len(manifest)), count)


def test_several_classes_are_learnt_and_judged_as_scikit_learn_does(finished, lists, capsys):
    folder = finished(MULTI_LABEL)
    losses = [row["loss"] for row in logged(folder) if "loss" in row]
    assert np.mean(losses[-3:]) < 0.8 * np.mean(losses[:3])
    summary = json.loads((folder / "evaluation.json").read_text())
    loaded = evaluate.load(folder)
    manifest = find_samples(
        None, lists(MULTI_LABEL, "train"), labels=True, classes=loaded.labels, task=MULTI_LABEL
    )
    count = len(loaded.labels)
    assert loaded.task.name == MULTI_LABEL and loaded.labels == sorted(loaded.labels)
    scores = evaluate.score(
        loaded.model, count, manifest, loaded.protocol, task=loaded.task,
        processes=evaluate.EvalProcesses(), device=torch.device("cpu"),
    )  # fmt: skip
    truth = truth_of(manifest, count)
    right = average_precision_score(truth, scores.probabilities, average="macro")
    assert summary["map"] == pytest.approx(100 * right, abs=1e-3)
    best = max(row["validation_map"] for row in logged(folder) if "validation_map" in row)
    assert json.loads((folder / "best/config.json").read_text())["metrics"]["map"] == best
    rows = table(folder)
    assert len(rows) == 32 and set(rows[0]["label"].split("; ")) <= set(loaded.labels)
    assert not (folder / "confusion.png").exists()


def test_numbers_are_learnt_and_judged_as_scikit_learn_does(finished, lists):
    folder = finished(REGRESS)
    rows = table(folder)
    right, found = (np.array([float(row[c]) for row in rows]) for c in ("label", "prediction"))
    summary = json.loads((folder / "evaluation.json").read_text())
    assert summary["mse"] == pytest.approx(mean_squared_error(right, found), rel=1e-3)
    assert summary["mae"] == pytest.approx(mean_absolute_error(right, found), rel=1e-3)
    assert summary["r2"] == pytest.approx(r2_score(right, found), rel=1e-3)
    assert summary["r2"] > 0.3, "brightness is no secret"
    values = find_samples(None, lists(REGRESS, "train"), labels=True, task=REGRESS).values
    meaning = evaluate.load(folder).task
    assert (meaning.mean, meaning.std) == pytest.approx((values.mean(), values.std()))
    best = max(row["validation_r2"] for row in logged(folder) if "validation_r2" in row)
    assert json.loads((folder / "best/config.json").read_text())["metrics"]["r2"] == best


@pytest.mark.parametrize("task", [MULTI_LABEL, REGRESS])
def test_from_evaluation_to_report(finished, lists, shapes, tmp_path, capsys, task):
    folder, listed = finished(task), str(lists(task, "validation"))
    at = ["--model", str(folder), "--out", str(tmp_path / "out"), "--device", "cpu"]
    assert main(["evaluate", *at, "--data.manifest", listed, "--data.workers", "0"]) == 0
    name = {MULTI_LABEL: "map", REGRESS: "mae"}[task]
    assert {MULTI_LABEL: "mAP", REGRESS: "mae"}[task] in capsys.readouterr().out
    summary = json.loads((tmp_path / "out/evaluation.json").read_text())
    assert summary[name] is not None and summary["scored"] == 16
    clip = str(sorted((shapes / "validation").glob("*.mp4"))[0])
    assert main(["predict", clip, "--model", str(folder), "--device", "cpu"]) == 0
    shown = capsys.readouterr().out.splitlines()
    row = next(row for row in table(tmp_path / "out") if row["path"] in clip)
    if task == REGRESS:
        assert float(shown[1]) == pytest.approx(float(row["prediction"]), rel=1e-3)
        assert evaluate.predict(str(folder), [clip])[0].names == []
    else:
        first = row["top5"].split("; ")[0].rsplit(" ", 1)[0]
        assert shown[1].endswith(first) and len(shown) == 6
    page = tmp_path / "report.html"
    assert main(["report", str(folder), "-o", str(page)]) == 0
    assert f"<th>{name}</th>" in page.read_text()


@pytest.mark.parametrize("task", [MULTI_LABEL, REGRESS])
def test_probes(finished, lists, tmp_path, capsys, task):
    name = {MULTI_LABEL: "map", REGRESS: "r2"}[task]
    command = ["probe", "--model", str(finished(task)), "--task", task, "--out", str(tmp_path)]
    command += ["--train", str(lists(task, "train")), "--validation", str(lists(task, "train"))]
    assert main([*command, "--workers", "0", "--device", "cpu", "--epochs", "10"]) == 0
    found = json.loads((tmp_path / "probe.json").read_text())["probes"]
    assert set(found) == {"linear", "attentive", "knn"}
    assert all(np.isfinite(row[name]) for row in found.values())
    assert found["linear"][name] > {MULTI_LABEL: 40, REGRESS: 0.5}[task]
    assert {MULTI_LABEL: "mAP", REGRESS: "R2"}[task] in capsys.readouterr().out


@pytest.mark.parametrize("task", [MULTI_LABEL, REGRESS])
def test_a_run_that_goes_on_is_the_whole_one(shapes, lists, tmp_path, task):
    mixed = AugmentConfig(rand_augment="", random_erasing=0.0, mixup=0.8, cutmix=1.0)
    whole = config_of(shapes, lists, tmp_path / "whole", task)
    run = replace(whole.run, steps=6, save_every=3)
    whole = replace(whole, run=run, augment=mixed)
    finetune(whole)
    rest = replace(
        run, dir=str(tmp_path / "rest"), resume=str(tmp_path / "whole/checkpoints/step_00000003")
    )
    finetune(replace(whole, run=rest))
    losses = [
        [row["loss"] for row in logged(tmp_path / name) if "loss" in row]
        for name in ("whole", "rest")
    ]
    assert losses[1] == losses[0][3:]
    assert latest(tmp_path / "rest") is not None


def test_mixed_clips_have_mixed_truths(shapes, lists, tmp_path):
    config = config_of(shapes, lists, tmp_path / "run", REGRESS)
    mixed = AugmentConfig(rand_augment="", random_erasing=0.0, mixup=0.8, cutmix=0.0)
    task = Finetuning(replace(config, augment=mixed)).task
    index = torch.tensor([3, 8, 1, 30])
    batch = type("Batch", (), {"index": index})
    truth = task.truth[index, 0]
    clips = truth.view(4, 1, 1, 1, 1).expand(4, 3, 2, 4, 4).contiguous()
    found, targets = task.targets(clips, batch, step=5)
    torch.testing.assert_close(found.mean((1, 2, 3, 4)), targets[:, 0])
    assert not torch.equal(targets[:, 0].sort().values, truth.sort().values)


@given(st.integers(1, 20), st.integers(1, 4), st.integers(0, 2**31))
def test_average_precision_is_scikit_learns(samples, classes, seed):
    random = np.random.default_rng(seed)
    scores = random.integers(0, 5, (samples, classes)) / 4  # with equal ones
    truth = random.random((samples, classes)) < 0.4
    found = average_precision(scores, truth)
    for number in range(classes):
        if not truth[:, number].any():
            assert np.isnan(found[number])
            continue
        right = average_precision_score(truth[:, number], scores[:, number])
        assert found[number] == pytest.approx(right)


@given(st.lists(st.tuples(st.floats(-9, 9), st.floats(-9, 9)), min_size=2, max_size=20))
def test_errors_of_numbers_are_scikit_learns(pairs):
    right, found = np.array(pairs).T
    errors = regression_errors(found, right)
    assert errors["mse"] == pytest.approx(mean_squared_error(right, found))
    assert errors["mae"] == pytest.approx(mean_absolute_error(right, found))
    if np.ptp(right) > 1e-3:
        assert errors["r2"] == pytest.approx(r2_score(right, found), rel=1e-6, abs=1e-9)
    assert regression_errors(np.zeros(0), np.zeros(0)) == {"mse": None, "mae": None, "r2": None}
    assert regression_errors(np.ones(3), np.ones(3))["r2"] is None


def test_linear_probes_are_scikit_learns():
    random = torch.Generator().manual_seed(0)
    features = torch.randn(60, 5, generator=random)
    scaled = Standardise(features)(features)
    sets = (features[:, :3] + 0.5 * torch.randn(60, 3, generator=random) > 0).float()
    layer = fit_linear(scaled, sets, 3, 0.1, MULTI_LABEL)
    for number in range(3):
        right = LogisticRegression(C=0.1, tol=1e-10, max_iter=1000).fit(scaled, sets[:, number])
        assert layer.weight[number].numpy() == pytest.approx(right.coef_[0], abs=1e-4)
        assert float(layer.bias[number]) == pytest.approx(float(right.intercept_[0]), abs=1e-4)
    numbers = features[:, :1] * 3 + 7
    layer = fit_linear(scaled, numbers, 1, 0.1, REGRESS)
    right = Ridge(alpha=1 / 0.2).fit(scaled, numbers[:, 0])
    assert layer.weight[0].numpy() == pytest.approx(right.coef_, abs=1e-4)
    assert float(layer.bias) == pytest.approx(float(right.intercept_), abs=1e-4)


def test_neighbours_means_of_one_class_each_are_their_votes():
    random = torch.Generator().manual_seed(0)
    train, queries = torch.randn(30, 4, generator=random), torch.randn(7, 4, generator=random)
    labels = torch.randint(0, 3, (30,), generator=random)
    rows = torch.nn.functional.one_hot(labels, 3).float()
    votes = knn_probabilities(train, labels, queries, classes=3, k=5)
    torch.testing.assert_close(knn_means(train, rows, queries, k=5), votes)


def sets(folder, labels, **options):
    for number in range(len(labels)):
        (folder / f"{number}.mp4").write_bytes(b"")
    with (folder / "list.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label"])
        writer.writerows([f"{number}.mp4", label] for number, label in enumerate(labels))
    found = find_samples(None, folder / "list.csv", labels=True, task=MULTI_LABEL, **options)
    count = len(found.classes) if found.classes else found.largest + 1
    return [np.flatnonzero(row).tolist() for row in truth_of(found, count)], found.classes


@pytest.mark.parametrize(
    ("labels", "found", "classes"),
    [
        (["b;a", "c", "-"], [[0, 1], [2], []], ["a", "b", "c"]),
        (["b|a", "a | a"], [[0, 1], [0]], ["a", "b"]),
        (["put, away;stand up", "stand up"], [[0, 1], [1]], ["put, away", "stand up"]),
        (["3,0", "[1, 2]", "2", "4 1"], [[0, 3], [1, 2], [2], [1, 4]], None),
        (["3;0", "-", "1"], [[0, 3], [], [1]], None),
    ],
)
def test_what_a_label_of_several_classes_is(tmp_path, labels, found, classes):
    assert sets(tmp_path, labels) == (found, classes)


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        (["a;b", ""], "line 3: the label is empty; write - for none"),
        (["a;b", "a|c"], r"line 3: label 'a\|c': classes are separated by ; and by \|"),
        (["a;b|c"], r"line 2: label 'a;b\|c': classes are separated"),
        (["a;;b"], "line 2: label 'a;;b': a class between two ; is empty"),
        (["-", "-"], "no sample has a label other than -"),
        (["1;2", "3;x", "1", "2"], "line 3: label 'x' is not a whole number"),
    ],
)
def test_what_is_ambiguous_is_an_error_that_names_the_line(tmp_path, labels, told):
    with pytest.raises(UserError, match=told):
        sets(tmp_path, labels)


def test_a_label_that_looks_like_several_is_one_class_with_a_warning(tmp_path, caplog):
    for number in range(3):
        (tmp_path / f"{number}.mp4").write_bytes(b"")
    (tmp_path / "list.csv").write_text("path,label\n0.mp4,a\n1.mp4,b;a\n2.mp4,c|d\n")
    found = find_samples(None, tmp_path / "list.csv", labels=True)
    assert found.classes == ["a", "b;a", "c|d"]
    assert "line 3: label 'b;a' is taken for the name of one class" in caplog.text
    caplog.clear()
    (tmp_path / "list.csv").write_text("path,label\n0.mp4,a\n1.mp4,b|e\n2.mp4,c|d\n")
    find_samples(None, tmp_path / "list.csv", labels=True)
    assert not caplog.text


def test_known_classes_keep_their_numbers(tmp_path):
    assert sets(tmp_path, ["b;c"], classes=["c", "x", "b"])[0] == [[0, 2]]
    with pytest.raises(UserError, match="line 2: class 'd' is not among the 3 known"):
        sets(tmp_path, ["b;d"], classes=["c", "x", "b"])


def test_part_of_a_table_keeps_its_labels():
    whole = Manifest(["a", "b", "c"], sets=[[1], [], [0, 2]], values=[1.5, -2.0, 3.0])
    part = whole.subset([2, 0])
    assert truth_of(part, 3).tolist() == [[True, False, True], [False, True, False]]
    assert part.values.tolist() == [3.0, 1.5]


def test_mistakes_are_one_line(shapes, lists, tmp_path):
    (tmp_path / "0.mp4").write_bytes(b"")
    (tmp_path / "list.csv").write_text("path,label\n0.mp4,tall\n")
    with pytest.raises(UserError, match=r"line 2: label 'tall' is no number; task regress needs"):
        find_samples(None, tmp_path / "list.csv", labels=True, task=REGRESS)
    with pytest.raises(UserError, match=r"task multi_label needs a list with a column label"):
        find_samples(shapes / "train", labels=True, task=MULTI_LABEL)
    (tmp_path / "list.csv").write_text("path,label\n0.mp4,5\n")
    one = config_of(shapes, lists, tmp_path / "run", REGRESS)
    one = replace(one, data=replace(one.data, manifest=str(tmp_path / "list.csv")))
    with pytest.raises(UserError, match="all samples have the number 5; there is nothing to learn"):
        Finetuning(one)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["--task", "rank"], "task: 'rank' is not one of classify, multi_label, regress"),
        (["--task", "regress", "--validation.best_by", "map"], "validation.best_by: 'map' is not"),
        (["--task", "regress", "--loss.class_weights", "balanced"], "loss.class_weights: not with"),
    ],
)
def test_options_that_do_not_go_together(given, told, capsys):
    assert main(["finetune", *given]) == 2
    assert told in capsys.readouterr().err


def test_labels_without_a_spread_have_no_r2_to_be_best_in(shapes, lists, tmp_path):
    config = config_of(shapes, lists, tmp_path / "run", REGRESS)
    rows = Path(config.validation.manifest).read_text().splitlines()[1:]
    listed = shapes / "same.csv"
    listed.write_text("path,label\n" + "".join(f"{row.split(',')[0]},3\n" for row in rows))
    validation = replace(config.validation, manifest=str(listed))
    with pytest.raises(UserError, match="validation.best_by: r2 .* all the same; give mse or mae"):
        Finetuning(replace(config, validation=validation))
    Finetuning(replace(config, validation=replace(validation, best_by="mse")))


def test_the_least_error_is_the_best(shapes, lists, tmp_path):
    config = config_of(shapes, lists, tmp_path / "run", REGRESS)
    config = replace(
        config,
        run=replace(config.run, steps=6),
        validation=replace(config.validation, best_by="mse", every_steps=2),
    )
    finetune(config)
    errors = [row["validation_mse"] for row in logged(tmp_path / "run") if "validation_mse" in row]
    assert json.loads((tmp_path / "run/best/config.json").read_text())["metrics"]["mse"] == min(
        errors
    )


def test_what_is_written_elsewhere_says_what_the_outputs_mean(finished, tmp_path, capsys):
    folder = str(finished(REGRESS))
    assert main(["export", folder, str(tmp_path / "all"), "--what", "all"]) == 0
    assert evaluate.load(tmp_path / "all").task == evaluate.load(folder).task
    assert main(["export", folder, str(tmp_path / "encoder")]) == 0
    assert "task" not in json.loads((tmp_path / "encoder/config.json").read_text())
    assert main(["convert", folder, str(tmp_path / "hf"), "--to", "huggingface"]) == 0
    assert "the head gives the number itself" in capsys.readouterr().out
    assert main(["convert", folder, str(tmp_path / "pth"), "--to", "videomae"]) == 0
    assert "the layout does not say what the outputs mean" in capsys.readouterr().out


@pytest.mark.parametrize("saved", [{"name": "rank"}, "regress", {"name": "regress", "std": "x"}])
def test_a_config_that_names_another_task_is_damaged(finished, tmp_path, saved):
    assert main(["export", str(finished(REGRESS)), str(tmp_path / "x"), "--what", "all"]) == 0
    file = tmp_path / "x" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"task": saved}))
    with pytest.raises(UserError, match="config.json: damaged .*task"):
        evaluate.load(tmp_path / "x")
