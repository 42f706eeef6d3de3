"""Reading processes that are killed, and files that kill them, cost an evaluation nothing else."""

import json
import multiprocessing
import os
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from videohpm import cli
from videohpm.data import find_samples
from videohpm.evaluate import UNREADABLE, EvalProcesses, EvalProtocol, views

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="what is patched reaches forked workers"),
    pytest.mark.usefixtures("deaths_noticed_soon"),
]
PROTOCOL = EvalProtocol(frames=4, size=(32, 32), stride=2, clips=2)
READ_VIEWS = views.read_views


def run_views(manifest, workers):
    """What an evaluation sees, a video at a time, and the pixels as its output."""
    return views.run_views(
        lambda clips: clips.flatten(1), manifest, np.arange(len(manifest)), PROTOCOL,
        processes=EvalProcesses(), device=torch.device("cpu"), batch=4, workers=workers,
    )  # fmt: skip


def test_killed_workers_are_replaced(shapes):
    manifest = find_samples(None, shapes / "validation.csv", labels=True)
    sound, found = list(run_views(manifest, 0)), []
    for seen in run_views(manifest, 2):
        found.append(seen)
        if len(found) == 1:
            for child in multiprocessing.active_children():
                child.kill()
    assert [seen.index for seen in found] == list(range(16))
    assert not any(seen.error for seen in found)
    assert all(torch.equal(a.output, b.output) for a, b in zip(sound, found, strict=True))


def deadly(sample, *more):
    """Reading one of the files crashes the process."""
    if Path(sample.path).name.startswith("00003"):
        os.kill(os.getpid(), signal.SIGSEGV)
    return READ_VIEWS(sample, *more)


def evaluate(model, shapes, out) -> int:
    return cli.main(
        ["evaluate", "--model", str(model), "--data.manifest", str(shapes / "validation.csv"),
         "--data.workers", "1", "--test.batch", "4", "--device", "cpu", "--out", str(out)]
    )  # fmt: skip


def test_a_file_that_crashes_its_reader_is_reported(
    shapes, classifier_folder, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(views, "read_views", deadly)
    assert evaluate(classifier_folder, shapes, tmp_path) == UNREADABLE
    assert "15 of 16 scored" in capsys.readouterr().out
    (bad,) = json.loads((tmp_path / "evaluation.json").read_text())["unreadable"]
    assert Path(bad["path"]).name == "00003.mp4"
    assert bad["reason"] == "two reading processes died while reading it"


def test_workers_that_keep_dying_end_it_with_one_line(
    shapes, classifier_folder, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(views, "read_views", deadly)
    monkeypatch.setattr("videohpm.data.loader.MOST_DEATHS", 1)
    assert evaluate(classifier_folder, shapes, tmp_path) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert "reading processes died 1 times" in said and "00003.mp4" in said
    assert not (tmp_path / "evaluation.json").exists()
