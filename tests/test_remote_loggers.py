"""Loggers that others read: what they are told, and that a broken one costs a warning only."""

import json
import logging
import sqlite3
import sys
import threading
import types
from pathlib import Path

import numpy as np
import pytest

from videohpm.cli import main
from videohpm.config import RunConfig
from videohpm.errors import UserError
from videohpm.tracking import LoggedRun, Tracker, make_loggers, remote

PICTURE = np.full((8, 8, 3), 7, np.uint8)
CONFIG = {"run": {"project": "mine", "loggers": []}, "optim": {"base_lr": 0.5}}


class Stub:
    """A library with the interface of wandb: what it was told, in order."""

    def __init__(self, name: str):
        self.told, self.fail_at, self.hold = [], None, None
        self.module = types.ModuleType(name)
        self.module.init = self._init
        self.module.Image = lambda array: ("image", array.shape)
        self.module.Video = lambda file, format: ("video", Path(file).read_bytes(), format)

    def _note(self, *what):
        if self.hold is not None:
            self.hold.wait()
        if what[0] == self.fail_at:
            raise ConnectionError("the service\nis away")
        self.told.append(what)

    def _init(self, **settings):
        self._note("init", settings)
        return types.SimpleNamespace(
            log=lambda data, step: self._note("log", step, data),
            finish=lambda: self._note("finish"),
        )


@pytest.fixture
def stub(monkeypatch):
    stub = Stub("wandb")
    monkeypatch.setitem(sys.modules, "wandb", stub.module)
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    return stub


def tracker(folder, name: str, start_step: int = 0) -> Tracker:
    return Tracker(make_loggers(LoggedRun(folder, 10, start_step, CONFIG), [name, "jsonl"]))


def test_what_the_library_is_told(stub, tmp_path, monkeypatch):
    monkeypatch.setattr(remote.Path, "home", lambda: tmp_path)
    with tracker(tmp_path / "run", "wandb") as run:
        run.log(1, {"loss": 0.25, "none": None, "nan": float("nan")})
        run.image(1, "reconstruction", PICTURE)
        run.animation(1, "map", b"GIF89a", (4, 4))
    (_, settings), *rest = stub.told
    assert settings["project"] == "mine" and settings["config"] == CONFIG
    assert (settings["mode"], settings["resume"]) == (
        "offline",
        "allow",
    )
    assert rest == [
        ("log", 1, {"loss": 0.25}),
        ("log", 1, {"reconstruction": ("image", (8, 8, 3))}),
        ("log", 1, {"map": ("video", b"GIF89a", "gif")}),
        ("finish",),
    ]
    monkeypatch.setenv("WANDB_API_KEY", "k")
    with tracker(tmp_path / "run", "wandb", start_step=1):
        pass
    with tracker(tmp_path / "run", "wandb"):
        pass
    again, anew = (told[1] for told in stub.told if told[0] == "init" and told[1] is not settings)
    assert again["id"] == settings["id"] != anew["id"]  # goes on; begins anew
    assert again["mode"] == "online"


@pytest.mark.parametrize("fail_at", ["init", "log", "finish"])
def test_a_broken_one_costs_one_warning(stub, tmp_path, caplog, fail_at):
    stub.fail_at = fail_at
    with tracker(tmp_path, "wandb") as run:
        for step in range(1, 4):
            run.log(step, {"loss": 1.0})
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage() == (
        "run.loggers: wandb failed (ConnectionError: the service is away); it gets no more. The "
        "run goes on."
    )
    rows = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(row)["step"] for row in rows] == [1, 2, 3]


def test_one_that_hangs_stops_nothing(stub, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(remote, "LAST_WAIT", 0.2)
    monkeypatch.setattr(remote, "WAITING", 8)
    stub.hold = threading.Event()
    with tracker(tmp_path, "wandb") as run:
        for step in range(1, 30):
            run.log(step, {"loss": 1.0})
    (record,) = caplog.records
    assert "wandb is too slow: 8 calls wait" in record.getMessage()
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 29
    stub.hold.set()


def test_one_that_is_not_installed_costs_a_warning(shapes, tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "trackio", None)
    arguments = [
        "--data.root", shapes / "train", "--run.dir", tmp_path / "run", "--run.steps", 2,
        "--run.picture_every", 0, "--data.workers", 0, "--optim.global_batch_size", 4,
        "--model.arch", "vit_tiny", "--model.frames", 4, "--model.image_size", 32,
        "--model.depth", 1, "--model.decoder_depth", 1, "--engine.device", "cpu",
        "--run.loggers", "[trackio]",
    ]  # fmt: skip
    assert main(["pretrain", *map(str, arguments)]) == 0
    (text,) = [r.getMessage() for r in caplog.records if "run.loggers" in r.getMessage()]
    assert text.startswith("run.loggers: trackio failed (ModuleNotFoundError")
    assert not (tmp_path / "run/tensorboard").exists()
    assert (tmp_path / "run/metrics.jsonl").exists()


def test_a_name_that_is_none():
    with pytest.raises(UserError, match="run.loggers: 'wandbb' is not one of tensorboard, wandb"):
        RunConfig(loggers=("wandbb",))


# The real packages; MLflow where it is installed -------------------------------------------


def warnings_in(caplog) -> list[str]:
    """Whatever other tests have let loggers say besides."""
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]


def log_in_two_parts(folder, logger):
    """A run that was interrupted after two steps, and went on."""
    for begun in (0, 2):
        with tracker(folder, logger, begun) as run:
            run.log(begun + 1, {"loss": 0.5})
            run.image(begun + 1, "reconstruction", PICTURE)
            run.animation(begun + 1, "map", gif(), (8, 8))


def test_wandb_itself_offline(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("WANDB_MODE", "offline")
    log_in_two_parts(tmp_path / "run", "wandb")
    assert warnings_in(caplog) == []
    kept = list((tmp_path / "run/wandb").glob("offline-run-*/*.wandb"))
    assert len(kept) == 2 and len({file.name for file in kept}) == 1  # one run, in two parts
    assert list((tmp_path / "run/wandb").rglob("*.gif"))


def test_trackio_itself(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    log_in_two_parts(tmp_path / "run", "trackio")
    assert warnings_in(caplog) == []
    (file,) = (tmp_path / "trackio").glob("mine*.db")
    with sqlite3.connect(file) as opened:
        rows = opened.execute("select run_name, step, metrics from metrics").fetchall()
    assert len({row[0] for row in rows}) == 1
    steps = {row[1] for row in rows if "loss" in str(row[2])}
    assert steps == {1, 3}


def test_mlflow_itself(tmp_path, monkeypatch, caplog):
    mlflow = pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    log_in_two_parts(tmp_path / "run", "mlflow")
    assert [r.getMessage() for r in caplog.records if "run.loggers" in r.getMessage()] == []
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'run/mlflow.db'}")
    name = json.loads((tmp_path / "run/loggers.json").read_text())["mlflow"]
    assert [m.step for m in client.get_metric_history(name, "loss")] == [1, 3]
    found = client.get_run(name)
    assert found.data.params["optim.base_lr"] == "0.5" and found.info.status == "FINISHED"
    assert list((tmp_path / "run/mlflow").rglob("*.gif"))


def gif() -> bytes:
    from videohpm.visualize import gif_bytes

    return gif_bytes(np.stack([PICTURE, PICTURE]))
