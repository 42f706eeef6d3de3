"""videohpm evaluate from outside: what it writes, unreadable files, one and two processes."""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from videohpm.cli import main
from videohpm.data import find_samples
from videohpm.evaluate import UNREADABLE


@pytest.fixture(scope="module")
def twenty(shapes, tmp_path_factory) -> Path:
    """A manifest of 20 videos of which three cannot be read."""
    folder = tmp_path_factory.mktemp("twenty")
    rows, classes = [], (shapes / "classes.txt").read_text().splitlines()
    for number, source in enumerate(sorted((shapes / "train").glob("*.mp4"))[:20]):
        name = f"{number:02d} clip.mp4"
        shutil.copy(source, folder / name)
        rows.append((name, number % len(classes)))
    whole = (folder / "04 clip.mp4").read_bytes()
    (folder / "04 clip.mp4").write_bytes(whole[:200])
    (folder / "11 clip.mp4").write_bytes(b"")
    (folder / "19 clip.mp4").write_text("not a video at all\n" * 50)
    lines = ["path,label", *(f"{name},{label}" for name, label in rows)]
    (folder / "list.csv").write_text("\n".join(lines) + "\n")
    odd = [lines[0], *(line for i, line in enumerate(lines[1:]) if i != 11)]
    (folder / "odd.csv").write_text("\n".join(odd) + "\n")
    return folder


def command(model, manifest, out) -> list[str]:
    return [
        "evaluate", "--model", str(model), "--data.manifest", str(manifest), "--out", str(out),
        "--data.workers", "0", "--test.batch", "6", "--device", "cpu",
    ]  # fmt: skip


def rows_of(folder) -> list[dict]:
    with (folder / "predictions.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_seventeen_of_twenty(twenty, classifier_folder, tmp_path, capsys):
    code = main(command(classifier_folder, twenty / "list.csv", tmp_path))
    said = capsys.readouterr().out
    assert code == UNREADABLE == 3
    assert "17 of 20 scored; these could not be read: 04 clip.mp4 (" in said
    assert "11 clip.mp4" in said and "19 clip.mp4" in said
    summary = json.loads((tmp_path / "evaluation.json").read_text())
    assert (summary["scored"], summary["total"], summary["views"]) == (17, 20, 2)
    assert [bad["path"] for bad in summary["unreadable"]] == [
        "04 clip.mp4", "11 clip.mp4", "19 clip.mp4",
    ]  # fmt: skip
    rows = rows_of(tmp_path)
    assert [row["path"] for row in rows] == [f"{n:02d} clip.mp4" for n in range(20)]
    bad = [n for n, row in enumerate(rows) if row["error"]]
    assert bad == [4, 11, 19] and all(rows[n]["prediction"] == "" for n in bad)
    hits = [row["right"] == "1" for row in rows if not row["error"]]
    assert summary["top1"] == pytest.approx(100 * sum(hits) / 17)
    assert all(row["label"] == f"class {n}" for n, row in enumerate(rows) if not row["error"])
    assert all(row["top5"].startswith(row["prediction"]) for row in rows if not row["error"])
    assert (tmp_path / "confusion.png").read_bytes().startswith(b"\x89PNG")


def test_all_readable_is_success(shapes, classifier_folder, tmp_path, capsys):
    assert main(command(classifier_folder, shapes / "validation.csv", tmp_path)) == 0
    assert "16 of 16 scored" in capsys.readouterr().out
    summary = json.loads((tmp_path / "evaluation.json").read_text())
    assert summary["unreadable"] == [] and 0 <= summary["mean_class"] <= 100


def test_two_processes_say_the_same(twenty, classifier_folder, tmp_path):
    """19 videos in batches of 3: neither one process nor two come out even."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    for count in (1, 2):
        arguments = command(classifier_folder, twenty / "odd.csv", tmp_path / str(count))
        launcher = [sys.executable, "-m", "videohpm.launch", str(count)]
        done = subprocess.run(
            [*launcher, *arguments], capture_output=True, text=True, env=environment
        )
        assert done.returncode == UNREADABLE, done.stderr
        assert done.stdout.count("17 of 19 scored") == 1, done.stdout
    one, two = rows_of(tmp_path / "1"), rows_of(tmp_path / "2")
    numbers = ("probability", "logit", "margin")
    assert len(one) == 19
    for mine, other in zip(one, two, strict=True):
        for name in mine:
            if name in numbers and mine[name]:
                assert float(mine[name]) == pytest.approx(float(other[name]), abs=2e-5)
            elif name != "top5":
                assert mine[name] == other[name]
    names = ("top1", "top5", "mean_class", "scored", "total", "unreadable", "protocol")
    first, second = (json.loads((tmp_path / n / "evaluation.json").read_text()) for n in "12")
    assert {n: first[n] for n in names} == {n: second[n] for n in names}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--model", "nowhere"], "nowhere: no model here"),
        (["--data.manifest", "nowhere.csv"], "data.manifest: nowhere.csv does not exist"),
        (["--test.clips", "0"], "test.clips: 0"),
        (["--device", "tpu"], "device: 'tpu'"),
        (["--precision", "fp8"], "precision: 'fp8'"),
        (["--dataset", "nowhere"], "dataset: nowhere cannot be read"),
    ],
)
def test_mistakes_are_one_line(arguments, said, shapes, classifier_folder, tmp_path, capsys):
    full = [*command(classifier_folder, shapes / "validation.csv", tmp_path / "out"), *arguments]
    assert main(full) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and said in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["evaluate", "probe", "features"])
def test_a_file_where_results_should_go_is_noticed_before_the_work(
    name, shapes, classifier_folder, tmp_path, capsys
):
    (tmp_path / "letter.txt").write_text("keep me")
    out, model = str(tmp_path / "letter.txt/results"), str(classifier_folder)
    listed = str(shapes / "validation.csv")
    arguments = {
        "evaluate": command(model, listed, out),
        "probe": ["probe", "--model", model, "--train", listed, "--validation", listed,
                  "--out", out],
        "features": ["features", model, out, "--manifest", listed],
    }[name]  # fmt: skip
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "letter.txt is a file; give a folder" in said


def test_an_encoder_names_no_classes(encoder_folder, shapes, tmp_path, capsys):
    assert main(command(encoder_folder, shapes / "validation.csv", tmp_path / "out")) == 2
    assert "holds a VideoViT, which has no classes" in capsys.readouterr().err


def test_labels_beyond_the_model_are_refused(shapes, classifier_folder, tmp_path, capsys):
    first = find_samples(None, shapes / "validation.csv", labels=True)[0]
    (tmp_path / "list.csv").write_text(f"path,label\n{first.path},77\n")
    assert main(command(classifier_folder, tmp_path / "list.csv", tmp_path / "out")) == 2
    assert "77" in capsys.readouterr().err
