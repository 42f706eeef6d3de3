"""Annotations against files on disk: what is written, and that nothing is dropped in silence."""

import csv
import json

import pytest

from videohpm import cli
from videohpm.data import find_samples
from videohpm.data.prepare import Annotations, Entry, by_stem, write_splits
from videohpm.errors import UserError


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
