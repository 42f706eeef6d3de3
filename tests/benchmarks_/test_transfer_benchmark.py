"""benchmarks/transfer.py: both columns get the same budget, and its table says what they got."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest


@pytest.fixture
def transfer(root):
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("transfer", root / "benchmarks/transfer.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def option(command: list[str], name: str) -> str:
    return command[command.index(f"--{name}") + 1]


@pytest.fixture
def ran(transfer, shapes, tmp_path, monkeypatch):
    """The commands of a comparison of two seeds in which pre-training is worth 10 points."""
    commands = []

    def stand_in(command):
        commands.append(command)
        probe = command[0] == "probe"
        folder = Path(option(command, "out" if probe else "run.dir"))
        folder.mkdir(parents=True)
        seed = int(option(command, "seed" if probe else "run.seed"))
        untrained = option(command, "random" if probe else "model.scratch") == "true"
        top1 = 50.0 + seed - 10 * untrained
        said = {"top1": top1, "steps": 7}
        if probe:
            said = {"probes": {name: {"top1": top1} for name in ("linear", "attentive", "knn")}}
        (folder / ("probe.json" if probe else "evaluation.json")).write_text(json.dumps(said))
        return 0

    monkeypatch.setattr(transfer, "videohpm", stand_in)
    arguments = ["--init", "pre", "--seeds", "0", "2", "--steps", "7"]
    arguments += ["--out", str(tmp_path / "out")]
    arguments += ["--validation", str(shapes / "validation.csv"), "--optim.base_lr", "0.5"]
    monkeypatch.setattr(sys, "argv", ["transfer.py", *arguments])
    transfer.main()
    transfer.main()  # what is done is not done again
    return commands


def test_both_columns_get_the_same_budget(ran):
    own = {"out", "run.dir", "random", "model.scratch"}
    assert len(ran) == 8
    for trained, untrained in ((ran[0], ran[2]), (ran[1], ran[3]), (ran[4], ran[6])):
        names = [name.removeprefix("--") for name in trained[1::2]]
        differ = {n for n in names if option(trained, n) != option(untrained, n)}
        assert len(trained) == len(untrained) and len(differ) == 2 and differ <= own
    assert option(ran[1], "run.steps") == "7" and option(ran[1], "optim.base_lr") == "0.5"


def test_what_is_kept_is_what_the_runs_said(ran, tmp_path):
    said = json.loads((tmp_path / "out/transfer.json").read_text())
    assert said["tested"] == 16
    assert said["top1"]["fine-tuned"] == {"pretrained": [50, 52], "untrained": [40, 42]}


def test_the_table_has_mean_and_spread(transfer):
    found = {"linear": {"pretrained": [50.0, 53.0], "untrained": [41.0, 42.0]}}
    row = transfer.table(found).splitlines()[-1]
    assert row == "| linear | 51.5 (50.0 to 53.0) | 41.5 (41.0 to 42.0) | 10.0 (9.0 to 11.0) |"
