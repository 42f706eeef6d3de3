"""Class and file names of any bytes: results are written, lines are printed, pictures drawn."""

import csv
import io
import json
import logging
import os
import shutil
import sys
import warnings

import numpy as np
import pytest
import torch
from PIL import Image, ImageFont

from videohpm import evaluate
from videohpm.checkpoint import save_weights
from videohpm.cli import main
from videohpm.errors import printable
from videohpm.evaluate import results
from videohpm.models import VideoClassifier, VideoViT, ViTConfig
from videohpm.visualize.text import drawable

TINY = {"frames": 1, "tubelet": 1, "image_size": 16, "patch": 8, "dim": 12, "depth": 1, "heads": 2}
ODD = ["$x_$", "$\\frac$", "\udcff\udcfe", "中文", "\x1b[31mred", "two\nlines", "c\rr", "u\u2028",
       "long" * 40, "% d", "{x}"]  # fmt: skip
CLASSES = sorted(ODD)


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    """A folder for each odd class; names of pictures that are no text, and one that cannot be read;
    a model of these classes."""
    folder = tmp_path_factory.mktemp("odd")
    for i, name in enumerate(CLASSES):
        (folder / "data" / name).mkdir(parents=True)
        picture = Image.fromarray(np.full((20, 20, 3), 20 * i, np.uint8))
        with open(folder / "data" / name / ("\udcfc.png" if i % 2 else "a\r.png"), "wb") as file:
            picture.save(file, format="png")
    (folder / "data" / CLASSES[0] / "\udce9 bad\n.png").write_bytes(b"nothing")
    protocol = evaluate.EvalProtocol(frames=1, size=(16, 16), sampling="dense", stride=1)
    torch.manual_seed(0)
    model = VideoClassifier.create(classes=len(CLASSES), head_scale=20.0, **TINY)
    extra = evaluate.classifier_metadata(protocol, CLASSES)
    save_weights(folder / "model", model, extra=extra)
    return folder


def evaluation(odd, out) -> int:
    return main(["evaluate", "--model", str(odd / "model"), "--data.root", str(odd / "data"),
                 "--data.workers", "0", "--device", "cpu", "--out", str(out)])  # fmt: skip


def read_csv(file) -> list[dict]:
    with file.open(newline="", encoding="utf-8", errors="surrogateescape") as text:
        return list(csv.DictReader(text))


def test_an_evaluation_of_odd_classes(odd, tmp_path, capsys):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # as for each glyph that a typeface lacks
        assert evaluation(odd, tmp_path) == evaluate.UNREADABLE
    said = capsys.readouterr()
    assert "11 of 12 scored" in said.out
    assert all(line.isprintable() for line in said.out.split("\n"))
    assert "\\udce9 bad\\n.png" in said.out
    summary = json.loads((tmp_path / "evaluation.json").read_text())
    assert summary["unreadable"][0]["path"] == f"{CLASSES[0]}/\udce9 bad\n.png"
    rows = read_csv(tmp_path / "predictions.csv")
    assert [row["label"] for row in rows if not row["error"]] == CLASSES
    assert {row["path"].split("/")[0] for row in rows} == set(CLASSES)
    with Image.open(tmp_path / "confusion.png") as picture:
        assert picture.size[0] > 300


def test_a_picture_that_fails_costs_nothing_else(odd, tmp_path, monkeypatch, caplog):
    def broken(*_):
        assert (tmp_path / "evaluation.json").exists()
        raise RuntimeError("no typeface")

    monkeypatch.setattr(results, "draw_confusion", broken)
    assert evaluation(odd, tmp_path) == evaluate.UNREADABLE
    assert len(read_csv(tmp_path / "predictions.csv")) == 12
    assert caplog.text.count("not drawn") == 1 and "no typeface" in caplog.text
    assert not (tmp_path / "confusion.png").exists()


@pytest.mark.parametrize("encoding", ["ascii", "utf-8", "latin-1"])
def test_every_output_takes_every_name(odd, tmp_path, monkeypatch, encoding):
    """Strict, as a pipe or a terminal of a plain locale is."""
    out = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="strict")
    monkeypatch.setattr(sys, "stdout", out)
    files = [str(path) for path in sorted((odd / "data").rglob("*.png"), key=os.fsencode)]
    model = str(odd / "model")
    assert main(["predict", *files, "--model", model, "--device", "cpu"]) == evaluate.UNREADABLE
    assert main(["features", model, str(tmp_path / "f"), "--root", str(odd / "data"),
                 "--workers", "0", "--device", "cpu"]) == evaluate.UNREADABLE  # fmt: skip
    assert main(["data", "scan", str(odd / "data"), "--out", str(tmp_path / "s.csv")]) == 0
    out.flush()
    lines = out.buffer.getvalue().decode(encoding).split("\n")
    assert "\\x1b[31mred" in "".join(lines) and "\\udcff" in "".join(lines)
    assert len(lines) > 12 and all(line.isprintable() for line in lines)
    rows = read_csv(tmp_path / "f/index.csv")
    assert [row["class"] for row in rows if not row["error"]] == CLASSES
    assert len(read_csv(tmp_path / "s.csv")) == 11
    assert len(read_csv(tmp_path / "s-quarantine.csv")) == 1


def test_what_can_be_printed_and_drawn():
    assert printable("a\tb\x85\u2028\udcff é中") == "a\\tb\\x85\\u2028\\udcff é中"
    assert drawable("é $x$ 中\n") == "é $x$ \\u4e2d\\n"
    assert ImageFont.load_default(10).getlength(drawable("\udcff中\U0001f600")) > 0


def test_odd_classes_are_converted(odd, tmp_path):
    for to in ("timm", "videohpm"):
        assert main(["convert", str(odd / "model"), str(tmp_path / f"$中 {to}"), "--to", to]) == 0
    assert evaluate.load(tmp_path / "$中 videohpm").labels == CLASSES


def test_weights_in_a_folder_whose_name_is_no_text_are_one_line(odd, tmp_path, capsys):
    """Readers of safetensors refuse such paths."""
    shutil.copytree(odd / "model", tmp_path / "caf\udce9")
    picture = str(next((odd / "data").rglob("*a*.png")))
    arguments = ["predict", picture, "--model", str(tmp_path / "caf\udce9"), "--device", "cpu"]
    assert main(arguments) == 2
    assert "not valid UTF-8" in capsys.readouterr().err


# --- labels of features --------------------------------------------------------------------------


def pictures(root, names):
    for name in names:
        (root / name).mkdir(parents=True)
        Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save(root / name / "a.png")
    return root


def labels_of(model, root, out, classes, caplog, extra=None):
    """Label and class of each row of index.csv, for a model of ``classes`` (None: an encoder)."""
    if classes is None:
        save_weights(model, VideoViT(ViTConfig(**TINY)))
    else:
        save_weights(model, VideoClassifier.create(classes=classes, **TINY), extra=extra)
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        assert main(["features", str(model), str(out), "--root", str(root), "--workers", "0",
                     "--device", "cpu"]) == 0  # fmt: skip
    labels = [row["label"] for row in read_csv(out / "index.csv")]
    assert evaluate.read_features(out).labels.tolist() == [int(label) for label in labels]
    return [(row["path"].split("/")[0], row["label"], row["class"])
            for row in read_csv(out / "index.csv")]  # fmt: skip


def test_labels_of_features_are_the_models_classes(tmp_path, caplog):
    root = pictures(tmp_path / "data", ["b", "c"])
    names = {"labels": ["c", "a", "b"]}
    found = labels_of(tmp_path / "m", root, tmp_path / "f", 3, caplog, names)
    assert found == [("b", "2", "b"), ("c", "0", "c")] and caplog.text == ""
    assert json.loads((tmp_path / "f/features.json").read_text())["classes"] == ["c", "a", "b"]


@pytest.mark.parametrize("classes", [12, None])
def test_folders_named_by_numbers_are_these_numbers(tmp_path, caplog, classes):
    root = pictures(tmp_path / "data", ["2", "10", "7"])
    found = labels_of(tmp_path / "m", root, tmp_path / "f", classes, caplog)
    assert found == [("10", "10", ""), ("2", "2", ""), ("7", "7", "")] and caplog.text == ""


@pytest.mark.parametrize(("classes", "extra"), [(2, {"labels": ["a", "b"]}), (2, {}), (None, {})])
def test_other_classes_are_numbered_by_a_rule_that_is_said(tmp_path, caplog, classes, extra):
    root = pictures(tmp_path / "data", ["dog", "cat"])
    found = labels_of(tmp_path / "m", root, tmp_path / "f", classes, caplog, extra)
    assert found == [("cat", "0", "cat"), ("dog", "1", "dog")]
    assert caplog.text.count("no classes of the model") == 1
    assert json.loads((tmp_path / "f/features.json").read_text())["classes"] == ["cat", "dog"]
