"""Annotations against files on disk: what is written, and that nothing is dropped in silence."""

import csv
import json
import os

import pytest

from videohpm import cli
from videohpm.data import find_samples
from videohpm.data.prepare import Annotations, Entry, by_stem, write_splits
from videohpm.errors import UserError

KINETICS = "label,youtube_id,time_start,time_end,split\n"


@pytest.fixture
def root(tmp_path):
    for path in ("a/one.mp4", "a/two.mp4", "b/three.webm", "b/one.mkv", "b/stray.mp4", "notes.txt"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_bytes(b"")
    return tmp_path


def said(**splits) -> Annotations:
    entries = {name: [Entry(*pair) for pair in pairs] for name, pairs in splits.items()}
    return Annotations(entries, ["run", "walk"], by_stem)


def test_every_difference_is_reported(root):
    train = [("one", "walk"), ("two", "run"), ("gone", "run"), ("one", "walk"), ("two", "walk")]
    report = write_splits(root, root / "out", said(train=train, validation=[("two", "run")]))
    train, validation = report.splits["train"], report.splits["validation"]
    assert (train.annotated, train.found, train.missing) == (5, 2, ["gone"])
    assert (train.repeated, train.contradicted) == (["one"], ["two"])
    assert validation.in_other_splits == ["two"]
    assert report.extra == ["b/stray.mp4", "b/three.webm"]
    assert report.same_key == ["b/one.mkv"]
    text = "\n".join(report.lines())
    for told in ("2 of 5", "gone", "two classes", "earlier split", "stray.mp4", "one.mkv"):
        assert told in text
    assert json.loads((root / "out/report.json").read_text())["splits"]["train"]["found"] == 2


def test_manifests_hold_what_is_there_with_class_numbers(root):
    entries = [("three", "walk"), ("gone", "run"), ("one", "run")]
    write_splits(root, root / "out", said(train=entries, test=[("two", None)]))
    with (root / "out/train.csv").open(newline="") as text:
        assert list(csv.reader(text)) == [
            ["path", "label"], ["b/three.webm", "1"], ["a/one.mp4", "0"]
        ]  # fmt: skip
    assert (root / "out/classes.txt").read_text() == "run\nwalk\n"
    assert (root / "out/test.csv").read_text() == "path\na/two.mp4\n"
    found = find_samples(root, root / "out/train.csv", labels=True)
    assert [(s.path, s.label) for s in found] == [
        (str(root / "b/three.webm"), 1), (str(root / "a/one.mp4"), 0)
    ]  # fmt: skip


def test_a_sample_without_a_class_costs_the_others_nothing(root):
    train = [("three", None), ("one", "walk"), ("two", "run")]
    report = write_splits(root, root / "out", said(train=train))
    assert (root / "out/train.csv").read_text() == (
        "path,label\nb/three.webm,\na/one.mp4,1\na/two.mp4,0\n"
    )
    assert report.splits["train"].unlabelled == ["three"]
    assert "1 annotated without a class" in "\n".join(report.lines())
    with pytest.raises(UserError, match="line 2: the label is empty"):
        find_samples(root, root / "out/train.csv", labels=True)


def test_folds_may_share_samples_and_leave_some_unused(root):
    entries = {"train-1": [Entry("one")], "validation-1": [Entry("two")], "train-2": [Entry("two")]}
    annotations = Annotations(entries, [], by_stem, folds=True, unused=frozenset(["stray"]))
    report = write_splits(root, root, annotations)
    assert not any(split.in_other_splits for split in report.splits.values())
    assert report.extra == ["b/three.webm"]


def test_mistakes(root):
    with pytest.raises(UserError, match="none of the annotated.*'gone'"):
        write_splits(root, root, said(train=[("gone", "run")]))
    with pytest.raises(UserError, match="train: class 'swim'"):
        write_splits(root, root, said(train=[("one", "swim")]))
    for nothing in (said(train=[], test=[("one", None)]), said()):
        with pytest.raises(UserError, match="no sample of train is listed"):
            write_splits(root, root, nothing)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("train.csv", "youtube_id,time_start,time_end\nx,1,2\n"),
        ("test.csv", "path;label\nx;1\n"),
        ("report.json", '{"mine": 1}'),
        ("classes.txt", "walk\nrun\n"),
        ("train.csv", None),
    ],
)
def test_what_others_wrote_is_not_replaced(root, name, text):
    """Not in the folder of the videos either, which is where manifests go by default."""
    (root / name).mkdir() if text is None else (root / name).write_text(text)
    before = sorted(root.rglob("*"))
    with pytest.raises(UserError, match=f"--out: would replace .*{name}.*name another folder"):
        write_splits(root, root, said(train=[("one", "run")], test=[("two", None)]))
    assert sorted(root.rglob("*")) == before
    assert text is None or (root / name).read_text() == text


def test_what_was_written_before_is_replaced(root):
    write_splits(root, root, said(train=[("one", "run")]))
    (root / "train.csv").write_text("\ufeffpath,label,frames\r\na/one.mp4,0,9\r\n")  # a scan's
    swim = Annotations({"train": [Entry("two", "swim")]}, ["swim"], by_stem)
    write_splits(root, root, swim)
    assert (root / "train.csv").read_text() == "path,label\na/two.mp4,0\n"
    assert (root / "classes.txt").read_text() == "swim\n"
    (root / "report.json").unlink()  # as if stopped before it
    write_splits(root, root, swim)


@pytest.mark.parametrize("out", ["notes.txt", "notes.txt/out"])
def test_a_file_is_no_folder_to_write_to(root, out):
    with pytest.raises(UserError, match="--out: .*notes.txt is not a folder; name another folder"):
        write_splits(root, root / out, said(train=[("one", "run")]))


def test_a_folder_that_is_read_only_is_none_to_write_to(root, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write everywhere
    with pytest.raises(UserError, match="--out: .* cannot be written to; name another folder"):
        write_splits(root, root / "out", said(train=[("one", "run")]))


def test_a_split_without_classes_is_told(root):
    train, test = [("one", None), ("two", None)], [("three", "run")]
    report = write_splits(root, root / "out", said(train=train, test=test))
    told = [line for line in report.lines() if "no class" in line]
    assert len(told) == 1 and "train.csv is without labels" in told[0]
    assert json.loads((root / "out/report.json").read_text())["splits"]["train"]["without_classes"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["ssv3"], "ssv2"),
        (["ssv2", "--root", "nowhere"], "nowhere is not a folder"),
        (["ssv2", "--root", "."], "labels.json"),
        (["kinetics400", "--root", "."], "train.csv"),
        (["ucf101", "--root", "."], "classInd.txt"),
        (["hmdb51", "--root", "."], "testTrainMulti_7030_splits"),
        (["imagenet1k", "--root", "."], "train"),
    ],
)
def test_command_says_what_to_mend(tmp_path, monkeypatch, capsys, arguments, told):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["data", "prepare", *arguments]) == 2
    said = capsys.readouterr().err
    assert told in said and said.count("\n") == 1


def test_installed_without_the_checkout(tmp_path, monkeypatch, capsys):
    from videohpm import prepare

    monkeypatch.setattr(prepare, "DATASETS", tmp_path / "datasets")
    assert cli.main(["data", "prepare", "ssv2"]) == 2
    assert "install videohpm again" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "lists", "told"),
    [
        ("kinetics400", {"train.csv": KINETICS}, "no sample of train is listed"),
        (
            "kinetics400",
            {"train.csv": KINETICS + "caf\u00e9,a,1,11,train\n"},
            "train.csv line 2: not UTF",
        ),
        (
            "kinetics400",
            {"train.csv": KINETICS + "run,a,inf,11,train\n"},
            "line 2: the times are not",
        ),
        ("kinetics400", {"train.csv": KINETICS + "r" * 200_000 + ",a,1,2,t"}, "not a CSV file"),
        ("ucf101", {"classInd.txt": "1 Caf\u00e9\n"}, "classInd.txt line 1: not UTF-8"),
        ("hmdb51", {"caf_test_split1.txt": "caf\u00e9.avi 1\n"}, "split1.txt line 1: not UTF-8"),
        ("ssv2", {"labels.json": '{"caf\u00e9": 0}'}, "labels.json line 1: not UTF-8"),
        ("ssv2", {"labels.json": "{}", "train.json": "[" * 100_000}, "train.json: not valid JSON"),
        ("ssv2", {"labels.json": "{}", "train.json": "[]"}, "no sample of train is listed"),
        ("imagenet1k", {"train/n01/readme.txt": "no image"}, "train has no images"),
    ],
)
def test_lists_that_cannot_be_used_are_named(tmp_path, capsys, name, lists, told):
    for file, text in lists.items():
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(text, encoding="latin-1")
    (tmp_path / "trainlist01.txt").write_text("")
    out = str(tmp_path / "out")
    assert cli.main(["data", "prepare", name, "--root", str(tmp_path), "--out", out]) == 2
    said = capsys.readouterr().err
    assert told in said and said.count("\n") == 1


@pytest.mark.parametrize(
    "name", ["ssv2", "kinetics400", "ucf101", "hmdb51", "imagenet1k", "shapes"]
)
def test_the_usage_line_says_what_was_typed(capsys, name):
    with pytest.raises(SystemExit) as ended:
        cli.main(["data", "prepare", name, "--no-such-option"])
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith(f"usage: videohpm data prepare {name} ")
