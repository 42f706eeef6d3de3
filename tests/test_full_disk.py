"""No room on the disk outside training: one line, exit code 1, and no half file left."""

import resource
import subprocess
import sys
import threading
from contextlib import contextmanager

import pytest
import torch

from videohpm import checkpoint, evaluate
from videohpm.cli import main
from videohpm.config.architecture import mae_config
from videohpm.models import MaskedAutoencoder, VideoClassifier
from videohpm.tracking.loggers import LoggedRun, TensorBoard
from videohpm.writing import FULL


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


@pytest.fixture
def classifier(tmp_path):
    torch.manual_seed(0)
    tiny = {"frames": 4, "image_size": 32, "patch": 8, "tubelet": 2, "dim": 24, "depth": 1}
    model = VideoClassifier.create(classes=32, heads=2, **tiny)
    protocol = evaluate.EvalProtocol(frames=4, size=(32, 32), sampling="dense", stride=2, clips=1)
    names = [f"class {number}" for number in range(32)]
    about = evaluate.classifier_metadata(protocol, names)
    checkpoint.save_weights(tmp_path / "classifier", model, extra=about)
    return tmp_path / "classifier"


@pytest.mark.parametrize("count", [100, 4000])
def test_evaluate(classifier, shapes, tmp_path, capsys, count):
    out = tmp_path / "out"
    out.mkdir()
    with room(count):
        code = main([
            "evaluate", "--model", str(classifier), "--out", str(out), "--device", "cpu",
            "--data.manifest", str(shapes / "validation.csv"), "--data.workers", "0",
        ])  # fmt: skip
    message = capsys.readouterr().err
    assert code == 1 and len(message.splitlines()) == 1 and "Make room" in message, message
    for file in out.iterdir():  # what fitted in is whole
        assert file.name in ("evaluation.json", "predictions.csv")
        assert file.stat().st_size < count and file.read_text().endswith("\n")


@pytest.mark.parametrize("format", ["safetensors", "npz"])
def test_features(weights, shapes, tmp_path, capsys, format):
    out = tmp_path / "out"
    arguments = [
        "features", weights, out, "--manifest", shapes / "validation.csv", "--format", format,
        "--what", "tokens", "--workers", "0", "--device", "cpu",
    ]  # fmt: skip
    with room(2000):
        code = main(list(map(str, arguments)))
    message = capsys.readouterr().err
    assert code == 1 and len(message.splitlines()) == 1 and "Make room" in message, message
    assert [file.name for file in out.iterdir()] == ["features.json"]
    assert main(list(map(str, arguments))) == 0  # and it goes on once there is room


def program(arguments, count):
    """A process of its own: those that it starts have as little room, and must not outlive it."""

    def bound():
        resource.setrlimit(resource.RLIMIT_FSIZE, (count, count))

    command = [sys.executable, "-m", "videohpm", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, preexec_fn=bound)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stderr


@pytest.mark.parametrize("words", [["data", "readers"], ["--help"], ["report"]])
def test_an_output_that_finds_no_room_is_a_failure_and_no_traceback(tmp_path, words):
    """The log of a run is often on the disk that is full."""
    with (tmp_path / "log").open("w") as log:
        done = subprocess.run(
            [sys.executable, "-m", "videohpm", *words],
            stdout=log, stderr=subprocess.PIPE, text=True,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (3, 3)),
        )  # fmt: skip
    (line,) = done.stderr.splitlines()
    if words == ["report"]:
        assert done.returncode == 2
    else:
        assert done.returncode == 1 and "File too large" in line and "Make room" in line


def test_scan(shapes, tmp_path):
    clip, videos = next((shapes / "train").glob("*.mp4")), tmp_path / "videos"
    videos.mkdir()
    for index in range(60):
        (videos / f"{index}-{'long-name-' * 8}.mp4").symlink_to(clip)
    out = tmp_path / "out" / "scanned.csv"
    arguments = ["data", "scan", videos, "--out", out, "--workers", "1"]
    code, message = program(arguments, 5000)  # with less torch 2.8 cannot be imported
    assert code == 1 and message.count("videohpm: ") == 1 and "Make room" in message, message
    assert [file.name for file in out.parent.iterdir()] == ["scanned-scan.jsonl"]
    assert main(list(map(str, arguments))) == 0  # what it had found by then counts
    assert len(out.read_text().splitlines()) == 61


def test_transcode(shapes, tmp_path):
    """A worker is refused the room: that is no fault of the video."""
    out = tmp_path / "out"
    arguments = ["data", "transcode", shapes / "validation.csv", out, "--workers", "1"]
    code, message = program(arguments, 5000)
    assert code == 1 and message.count("videohpm: ") == 1 and "Make room" in message, message
    assert not list(out.rglob("*.partial")) and not (out / "failed.csv").exists()
    assert main(list(map(str, arguments))) == 0
    assert not (out / "failed.csv").exists()


@pytest.mark.parametrize("rows", [1, 400])
def test_tensorboards_thread_prints_no_traceback(tmp_path, capfd, rows):
    """Its error is raised where the next number is logged, or at the end."""
    before = threading.excepthook
    logger = TensorBoard(LoggedRun(tmp_path, total_steps=1000))
    with room(100), pytest.raises(OSError) as caught:
        for step in range(rows):
            logger.log(step, {"a name of a metric that takes some room": 1.0})
        logger.close()
    assert caught.value.errno in FULL
    assert capfd.readouterr().err == ""
    if rows > 1:
        with pytest.raises(OSError):
            logger.close()
    assert threading.excepthook is before
