"""``videohpm demo``: what it starts, in which order, and what it does where that fails."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from videohpm import demo as demo_module
from videohpm.cli import main


@pytest.fixture
def started(monkeypatch):
    """The commands that are started instead of being run; ``codes`` are what they return."""
    started = SimpleNamespace(commands=[], codes={})

    def run(command, **_):
        started.commands.append(command)
        name = Path(command[1]).name if command[1] != "-m" else command[3]
        return SimpleNamespace(returncode=started.codes.get(name, 0))

    monkeypatch.setattr(demo_module.subprocess, "run", run)
    return started


def test_videos_then_pretraining(started, root, tmp_path, capsys):
    assert main(["demo", "--out", str(tmp_path / "d"), "--steps", "3"]) == 0
    prepare, pretrain = started.commands
    assert prepare == [
        sys.executable, str(root / "datasets/shapes/prepare.py"), "--out", f"{tmp_path}/d/shapes"
    ]  # fmt: skip
    assert pretrain[:4] == [sys.executable, "-m", "videohpm", "pretrain"]
    assert pretrain[pretrain.index("--data.root") + 1] == f"{tmp_path}/d/shapes/train"
    assert pretrain[-2:] == ["--run.steps", "3"]
    assert f"videohpm report {tmp_path}/d/pretrain" in capsys.readouterr().out


def test_then_finetuning(started, tmp_path):
    assert main(["demo", "--out", str(tmp_path / "d"), "--finetune", "true"]) == 0
    tune = started.commands[2]
    assert tune[3] == "finetune" and tune[tune.index("--model.init") + 1].endswith("d/pretrain")
    for file in ("train.csv", "validation.csv"):
        assert f"{tmp_path}/d/shapes/{file}" in tune


def test_it_ends_where_something_fails_with_its_code(started, tmp_path, capsys):
    started.codes["pretrain"] = 75
    assert main(["demo", "--out", str(tmp_path / "d"), "--finetune", "true"]) == 75
    assert len(started.commands) == 2
    (tmp_path / "file").touch()
    assert main(["demo", "--out", str(tmp_path / "file")]) == 2
    assert "is a file; give a folder" in capsys.readouterr().err
    assert main(["demo", "--steps", "0"]) == 2


def test_its_commands_are_ones_that_there_are(started, tmp_path):
    """With --print_config in place of the work: every option is known, every file is there."""
    main(["demo", "--out", str(tmp_path / "d"), "--finetune", "true"])
    for command in started.commands[1:]:
        if command[3] == "finetune":  # else it looks into weights that are not there
            command[command.index("--model.init") + 1] = "null"
        done = subprocess.Popen(
            [*command, "--print_config"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        out, error = done.communicate()
        assert done.returncode == 0, error
        assert b"d/shapes" in out
