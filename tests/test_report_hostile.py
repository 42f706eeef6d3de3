"""Run folders that lead elsewhere, or hold what no run writes: said in the page, never followed."""

import json
import os
import random

import pytest
from PIL import Image

from videohpm.report import load_runs
from videohpm.report.page import page
from videohpm.report.runs import load_run


@pytest.fixture
def folder(tmp_path):
    """An empty run folder, and beside it a private one."""
    run, private = tmp_path / "run", tmp_path / "private"
    for place in (run / "pictures", run / "diagnostics", run / "checkpoints", private):
        place.mkdir(parents=True)
    (private / "secret.json").write_text('{"step": 1, "password": "hunter2", "samples": 4321}\n')
    (private / "secret.yaml").write_text("password: hunter2\n")
    (private / "state.json").write_text('{"steps": 4321, "samples": 4321}')
    Image.new("RGB", (9, 9), (1, 2, 3)).save(private / "secret.png")
    return run


LINKS = {
    "evaluation.json": "secret.json",
    "evaluation_x/more.json": "secret.json",
    "environment.json": "secret.json",
    "metrics.jsonl": "secret.json",
    "bad_files.jsonl": "secret.json",
    "config.yaml": "secret.yaml",
    "confusion.png": "secret.png",
    "pictures/reconstruction_0000001.png": "secret.png",
    "diagnostics/step_00000001.json": "secret.json",
    "checkpoints/step_00000001": "",
}


@pytest.mark.parametrize("name", LINKS)
@pytest.mark.parametrize("how", ["absolute", "relative", "folder"])
def test_a_link_out_of_the_run_is_not_followed_and_said(folder, name, how):
    target = folder.parent / "private" / LINKS[name]
    link = folder / name
    link.parent.mkdir(exist_ok=True)
    if how == "folder" and "/" in name:  # the folder is the link
        if link.parent.is_dir():
            link.parent.rmdir()
        inner = folder.parent / "private" / "inner"
        inner.mkdir()
        os.symlink(target, inner / link.name)
        os.symlink(inner, link.parent)
    else:
        os.symlink(target if how == "absolute" else os.path.relpath(target, link.parent), link)
    run = load_run(folder, "run")
    html = page([run])
    assert "hunter2" not in html and "4,321" not in html and "4321" not in html
    assert not run.pictures and not run.confusions
    assert any(name in line and "leads out of the run folder" in line for line in run.missing)


def test_links_within_a_run_are_followed(folder):
    (folder / "first.json").write_text('{"top1": 71.25}')
    os.symlink("first.json", folder / "evaluation.json")
    assert load_run(folder, "run").evaluations["evaluation.json"] == {"top1": "71.25"}


ODD_YAML = {
    "bool": "a: !!bool x\nb: 1\n",
    "int": 'a: !!int ""\nb: 1\n',
    "float": "a: !!float x\nb: 1\n",
    "timestamp": "a: !!timestamp 9999-99-99\nb: 1\n",
    "set": "a: !!set 3\nb: 1\n",
    "sexagesimal": "a: " + ":".join(["59"] * 20_000) + "\nb: 1\n",
    "binary": "a: !!binary x\nb: 1\n",
    "merge": "a: &a {x: 1}\nc: {<<: 3}\nb: 1\n",
    "merges": "a0: &a0 {k: 1}\n"
    + "".join(f"a{i}: &a{i} {{<<: [*a{i - 1}, *a{i - 1}]}}\n" for i in range(1, 60))
    + "b: 1\n",
    "digits": f"a: {'9' * 60_000}\nb: 1\n",
    "python": "a: !!python/object/apply:os.getcwd []\nb: 1\n",
}


@pytest.mark.parametrize("name", ODD_YAML)
def test_tags_and_odd_values_of_yaml_are_plain_text(folder, name):
    (folder / "config.yaml").write_text(ODD_YAML[name])
    run = load_run(folder, "run")
    assert run.config["b"] == "1"
    assert os.getcwd() not in page([run])


@pytest.mark.parametrize(
    "text",
    [
        "[" * 60_000,
        "a: " + "{a: " * 5000,
        "- " * 30_000,
        "&a [*a]",
        "? [a]\n: 1\n",
        "a: 1\n" * 30_000,
        "a" * 70_000,
        "\x00",
    ],
)
@pytest.mark.parametrize("name", ["config.yaml", "environment.json"])
def test_odd_structures_are_said(folder, text, name):
    (folder / name).write_text(text)
    run = load_run(folder, "run")
    assert any(line.startswith(f"{name}: cannot be read (") for line in run.missing)
    assert all(len(line) < 400 for line in run.missing)
    page([run])


def test_what_is_no_file_is_not_waited_for(folder):
    for name in ("metrics.jsonl", "config.yaml", "evaluation.json", "bad_files.jsonl"):
        os.mkfifo(folder / name)
    page(load_runs([str(folder)]))


def test_an_endless_line_is_left_out_and_the_others_are_shown(folder):
    with (folder / "metrics.jsonl").open("w") as file:
        file.write('{"step": 1, "loss": 2}\n{"step": 2, "loss": "')
        file.writelines(["x" * 2**20] * 40)
        file.write('"}\n{"step": 3, "loss": 1}\n')
    run = load_run(folder, "run")
    assert [row["step"] for row in run.metrics] == [1, 3]
    assert "metrics.jsonl: damaged line 2 left out (1 in all)" in run.missing


def test_of_very_many_rows_as_many_of_each_kind_are_read_as_are_drawn(folder):
    """Every validation, the last row, and a bounded number of the others, evenly."""
    chance = random.Random(0)
    with (folder / "metrics.jsonl").open("w") as file:
        for step in range(1, 300_001):
            file.write(json.dumps({"step": step, "loss": chance.random(), "lr": 1e-5}) + "\n")
            if step % 1000 == 0:
                file.write(json.dumps({"step": step, "validation_top1": step / 1e4}) + "\n")
        file.write('{"step": 300001, "loss": 1}\n')
    run = load_run(folder, "run")
    assert [r["step"] for r in run.metrics if "validation_top1" in r] == [
        *range(1000, 300_001, 1000)
    ]
    training = [r["step"] for r in run.metrics if "lr" in r]
    assert 15_000 < len(training) <= 20_000 and run.step == 300_001
    steps = [b - a for a, b in zip(training, training[1:], strict=False)]
    assert set(steps[:-1]) == {16}
    assert "300,301 lines, of which every 16th is read" in run.missing[0]


def test_a_validation_does_not_hide_the_training_metrics_of_its_step(folder):
    rows = [{"step": 4, "loss": 0.5}, {"step": 4, "validation_top1": 50.0}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert load_run(folder, "run").metrics == [{"step": 4, "loss": 0.5, "validation_top1": 50.0}]


def test_pictures_of_endless_size_are_left_out(folder):
    Image.new("1", (9_000, 9_000)).save(folder / "pictures" / "x_0000001.png")
    run = load_run(folder, "run")
    assert not run.pictures and any("x_0000001.png" in line for line in run.missing)
