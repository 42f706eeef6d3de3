"""What a new logger costs, shown by a patch that adds one: a row of CSV for each number."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

PATCH = Path(__file__).with_name("csv_logger.patch")


@pytest.fixture
def patched(root, tmp_path) -> Path:
    """A folder with a copy of the package that has the logger."""
    copy = tmp_path / "copy"
    shutil.copytree(root / "videohpm", copy / "videohpm")
    done = subprocess.run(
        ["git", "apply", "--verbose", str(PATCH)], cwd=copy, capture_output=True, text=True,
        env=os.environ | {"GIT_CEILING_DIRECTORIES": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return copy


def train(package: Path, shapes: Path, folder: Path, steps: int) -> None:
    """A run of the command line with the package of that folder."""
    config = {
        "run": {"dir": str(folder), "epochs": None, "steps": steps, "log_every": 1},
        "data": {"root": str(shapes / "train"), "workers": 0, "stride": 2},
        "model": {
            "arch": "vit_tiny", "frames": 4, "image_size": 32, "patch": 8, "dim": 24, "depth": 1,
            "heads": 2, "decoder_dim": 16, "decoder_depth": 1, "decoder_heads": 2,
        },
        "optim": {"global_batch_size": 4, "warmup_steps": 1},
        "engine": {"device": "cpu", "precision": "fp32"},
    }  # fmt: skip
    file = package / "config.yaml"
    file.write_text(yaml.safe_dump(config))
    done = subprocess.run(
        [sys.executable, "-m", "videohpm", "pretrain", "--config", str(file)],
        cwd=package, capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": str(package), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_a_logger_is_one_file_and_works_also_when_a_run_goes_on(patched, shapes, tmp_path):
    touched = re.findall(r"^\+\+\+ b/(\S+)", PATCH.read_text(), re.M)
    assert touched == ["videohpm/tracking/loggers.py"]
    folder = tmp_path / "run"
    train(patched, shapes, folder, steps=2)
    train(patched, shapes, folder, steps=4)
    with (folder / "metrics.csv").open(newline="") as file:
        found = {(int(row["step"]), row["name"]): float(row["value"])
                 for row in csv.DictReader(file)}  # fmt: skip
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    wanted = {(line["step"], name): value for line in lines for name, value in line.items()
              if name != "step" and value is not None}  # fmt: skip
    assert found == wanted
