"""No room on the disk outside training: one line, exit code 1, and no half file left."""

import resource
from contextlib import contextmanager

import pytest
import torch

from videohpm import checkpoint
from videohpm.cli import main
from videohpm.config.architecture import mae_config
from videohpm.models import MaskedAutoencoder


@contextmanager
def room(count):
    """No file of this process may hold more than ``count`` bytes: the system's own refusal."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (count, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture
def weights(tmp_path):
    torch.manual_seed(0)
    model = MaskedAutoencoder(
        mae_config(frames=4, image_size=32, patch=8, dim=24, depth=1, heads=2,
                   decoder_dim=16, decoder_depth=1, decoder_heads=2)
    )  # fmt: skip
    checkpoint.save_weights(tmp_path / "weights", model)
    return tmp_path / "weights"


def refused(arguments, count, out, capsys):
    out.parent.mkdir(exist_ok=True)
    with room(count):
        code = main([str(argument) for argument in arguments])
    message = capsys.readouterr().err
    assert code == 1 and len(message.splitlines()) == 1, message
    assert message.startswith("videohpm: ") and "Make room" in message
    assert list(out.parent.iterdir()) == []


def test_export(weights, tmp_path, capsys):
    out = tmp_path / "out" / "exported"
    refused(["export", weights, out], 5000, out, capsys)


@pytest.mark.parametrize("layout", ["videohpm", "videomae", "huggingface"])
def test_convert(weights, tmp_path, capsys, layout):
    out = tmp_path / "out" / "converted"
    refused(["convert", weights, out, "--to", layout, "--what", "encoder"], 5000, out, capsys)


def test_report(tmp_path, capsys):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/metrics.jsonl").write_text('{"step": 1, "loss": 1.0}\n')
    out = tmp_path / "out" / "report.html"
    refused(["report", tmp_path / "run", "-o", out], 500, out, capsys)


@pytest.mark.parametrize("suffix", ["png", "gif", "mp4"])
def test_visualize(weights, shapes, tmp_path, capsys, suffix):
    video = sorted((shapes / "train").rglob("*.mp4"))[0]
    out = tmp_path / "out" / f"seen.{suffix}"
    refused(["visualize", weights, video, "-o", out], 300, out, capsys)
