"""A new data set is a folder of three files, and no line of the package."""

import csv
import json

import pytest

from videohpm import cli, prepare

INFO = """
name: pets
kind: video
classes: {count: 2, names: [cat, dog]}
splits:
  train: {samples: 8, manifest: train.csv}
  validation: {samples: 4, manifest: validation.csv}
clip: {sampling: segments}
test: {sampling: segments, clips: 2, crops: 1}
flip: {allowed: true, why: pets have no sides}
"""
# As CONTRIBUTING.md shows it.
SCRIPT = """
from pathlib import Path

from videohpm.data.prepare import Annotations, Entry, by_stem, read_text, run_script


def read(root: Path, lists: Path) -> Annotations:
    splits = {}
    for split in ("train", "validation"):
        rows = [line.split() for line in read_text(lists / f"{split}.txt").splitlines()]
        splits[split] = [Entry(by_stem(path), name) for path, name in rows]
    return Annotations(splits, ["cat", "dog"], by_stem)


def main(arguments: list[str] | None = None) -> int:
    return run_script("Manifests of Pets.", Path(__file__).parent, read, arguments)
"""


@pytest.fixture
def pets(shapes, tmp_path):
    """datasets/pets, and a root with 12 videos and their lists."""
    folder, root = tmp_path / "datasets/pets", tmp_path / "root"
    folder.mkdir(parents=True)
    root.mkdir()
    (folder / "dataset.yaml").write_text(INFO)
    (folder / "prepare.py").write_text(SCRIPT)
    (folder / "README.md").write_text("# Pets\n")
    videos = sorted((shapes / "train").glob("*.mp4"))[:12]
    for number, video in enumerate(videos):
        (root / f"{number}.mp4").write_bytes(video.read_bytes())
    for split, rows in {"train": range(8), "validation": range(8, 12)}.items():
        lines = [f"{row}.mp4 {('cat', 'dog')[row % 2]}\n" for row in rows]
        (root / f"{split}.txt").write_text("".join(lines))
    return folder


@pytest.mark.parametrize("by_name", [True, False])
def test_a_folder_is_all_that_a_data_set_takes(pets, tmp_path, monkeypatch, capsys, by_name):
    if by_name:
        monkeypatch.setattr(prepare, "DATASETS", pets.parent)
    root, out = tmp_path / "root", tmp_path / "out"
    name = "pets" if by_name else str(pets)
    assert cli.main(["data", "prepare", name, "--root", str(root), "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "train: 8 of 8" in printed and "validation: 4 of 4" in printed
    with (out / "train.csv").open(newline="") as text:
        assert next(csv.DictReader(text)) == {"path": "0.mp4", "label": "0"}

    tiny = {"frames": 4, "image_size": 32, "patch": 8, "dim": 24, "depth": 1, "heads": 2}
    arguments = [
        *("finetune", "--dataset", str(pets), "--run.dir", str(tmp_path / "run")),
        *("--data.root", str(root), "--data.manifest", str(out / "train.csv")),
        *("--validation.root", str(root), "--validation.manifest", str(out / "validation.csv")),
        *("--data.workers", "0", "--run.steps", "1", "--optim.global_batch_size", "4"),
        *("--engine.device", "cpu", "--augment.rand_augment", ""),
        *(part for name, value in tiny.items() for part in (f"--model.{name}", str(value))),
    ]
    assert cli.main(arguments) == 0
    result = json.loads((tmp_path / "run/evaluation.json").read_text())
    assert result["total"] == 4 and result["views"] == 2
    assert result["protocol"]["sampling"] == "segments"
    with (tmp_path / "run/predictions.csv").open(newline="") as text:
        assert {row["label"] for row in csv.DictReader(text)} == {"cat", "dog"}
    config = (tmp_path / "run/config.yaml").read_text()
    assert "sampling: segments" in config and "flip: true" in config


def test_a_folder_without_a_script_is_none(tmp_path, capsys):
    assert cli.main(["data", "prepare", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert "no data set" in error and "ssv2" in error and error.count("\n") == 1
