"""What clusters do to runs: kills, preemption, lost and stuck ranks, losses that are not finite.

Real runs of the command line on several ranks over gloo. Nothing is asserted about times; waiting
for ranks ends after a while (tests/several.py), so that a hang is a failure.
"""

import errno
import json
import os
import random
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress

import pytest
import yaml
from several import running

import videohpm
from videohpm import checkpoint
from videohpm.data import find_samples
from videohpm.engine import EngineConfig, StopRequest, process_group
from videohpm.engine.preemption import translate_errors
from videohpm.errors import Preempted, RunError

STEPS = 50


@pytest.fixture(scope="module")
def settings(shapes):
    return {
        "run": {"steps": STEPS, "log_every": 1, "picture_every": 0, "save_every": 3},
        "data": {"root": str(shapes / "train"), "workers": 0, "stride": 2},
        "model": {
            "arch": "vit_tiny", "frames": 4, "image_size": 32, "patch": 8, "dim": 24, "depth": 1,
            "heads": 2, "decoder_dim": 16, "decoder_depth": 1, "decoder_heads": 2,
            "drop_path": 0.2, "target": "raw",
        },
        "mask": {"ratio": 0.75},
        "hpm": {"momentum_start": 0.9, "momentum_steps": 10},
        "optim": {"global_batch_size": 8, "base_lr": 1e-2, "warmup_steps": 2},
        "engine": {"device": "cpu", "precision": "fp32", "zero_stage": 2, "grad_accum_steps": 2},
    }  # fmt: skip


@pytest.fixture(scope="module")
def config(settings, tmp_path_factory):
    path = tmp_path_factory.mktemp("settings") / "config.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


@pytest.fixture(scope="module")
def start(starter, config):
    """start(folder, *options) → two ranks of a run in that folder, just started."""

    def start(folder, *options, world=2):
        logs = folder.with_name(folder.name + f"-logs{random.getrandbits(32):08x}")
        return starter.videohpm(
            world, "pretrain", "--config", config, "--run.dir", folder, *options, logs=logs
        )

    return start


@pytest.fixture(scope="module")
def whole(start, tmp_path_factory):
    """A run of two ranks that nothing disturbed."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    job = start(folder)
    assert job.wait() == [0, 0], job.said()
    return folder


def test_a_run_says_how_many_processes_it_had(whole):
    assert json.loads((whole / "environment.json").read_text())["processes"] == 2


def lines(folder) -> list[str]:
    file = folder / "metrics.jsonl"
    return file.read_text().splitlines() if file.exists() else []


def losses(folder) -> list[float]:
    return [json.loads(line)["loss"] for line in lines(folder)]


def wait_until(condition, job) -> None:
    """Until a condition holds, or the job has ended by itself (nobody else waits for it)."""
    while not condition() and all(map(running, job.pids)):
        time.sleep(0.0005)


def steps_done(folder, steps):
    return lambda: len(lines(folder)) >= steps


def steps_said(job) -> int:
    """How many steps a job has done since it was started."""
    return len(re.findall(r"^step +\d+/", job.logs[0].read_text(), re.M))


def writing(folder):
    """Whether a checkpoint is being written at this moment."""
    return lambda: any((folder / "checkpoints").glob(".partial_*/*"))


@pytest.mark.slow
def test_killed_twenty_times_a_run_gives_the_same_losses_bit_for_bit(start, whole, tmp_path):
    """kill -9 of all ranks at random moments; some while a checkpoint is written."""
    folder, chance = tmp_path / "run", random.Random(0)
    torn = 0
    for kill in range(20):
        job = start(folder)
        steps = chance.randint(0, 5) if len(lines(folder)) < STEPS - 8 else 1
        wait_until(lambda job=job, steps=steps: steps_said(job) >= steps, job)
        if steps and kill % 4 == 3:
            wait_until(writing(folder), job)
        else:
            time.sleep(chance.random() / 20)
        job.kill()
        assert job.wait() == [-signal.SIGKILL] * 2, job.said()
        torn += writing(folder)()
    assert torn > 0  # at least one kill did fall inside the writing of a checkpoint
    job = start(folder)
    assert job.wait() == [0, 0], job.said()
    assert losses(folder) == losses(whole)
    assert [json.loads(line)["step"] for line in lines(folder)] == list(range(1, STEPS + 1))
    for file in ("model", "teacher", "optimizer"):
        here, there = (checkpoint.latest(run) / f"{file}.safetensors" for run in (folder, whole))
        assert here.read_bytes() == there.read_bytes(), file


def test_bad_files_of_all_ranks_are_written_by_one_and_survive_a_kill(start, shapes, tmp_path):
    root, folder = tmp_path / "videos", tmp_path / "run"
    shutil.copytree(shapes / "train", root)
    spoilt = sorted(root.rglob("*.mp4"))[::6]
    for file in spoilt:
        file.write_bytes(b"no video")
    options = "--data.root", root, "--data.max_bad_fraction", 0.3, "--run.log_every", 2
    job = start(folder, *options)
    wait_until(steps_done(folder, 6), job)
    job.kill()
    job.wait()
    again = start(folder, *options)
    assert again.wait() == [0, 0], again.said()
    named = [json.loads(line)["path"] for line in (folder / "bad_files.jsonl").open()]
    assert sorted(named) == list(map(str, spoilt))
    counts = [json.loads(line)["bad_files"] for line in lines(folder)]
    assert counts == sorted(counts) and counts[-1] == len(spoilt)
    few = start(tmp_path / "few", *options[:2], "--data.max_bad_fraction", 0.1)
    assert few.wait() == [2, 2], few.said()
    assert len(re.findall("max_bad_fraction: ", few.said())) == 1


def test_a_damaged_newest_checkpoint_is_passed_over_by_all_ranks(start, whole, tmp_path):
    folder = tmp_path / "run"
    job = start(folder)
    wait_until(lambda: len(checkpoint.checkpoints(folder)) == 2, job)
    job.kill()
    job.wait()
    older, newest = checkpoint.checkpoints(folder)[-2:]
    with (newest / "optimizer.safetensors").open("r+b") as file:
        file.seek(-5, os.SEEK_END)
        file.write(b"\x99")
    again = start(folder)
    assert again.wait() == [0, 0], again.said()
    (line,) = re.findall(r".*is damaged.*", again.said())
    assert f"kept as {newest.name}_damaged; going on from {older}; 3 steps" in line
    assert losses(folder) == losses(whole)


@pytest.mark.parametrize(
    ("number", "ranks"),
    [(signal.SIGTERM, slice(None)), (signal.SIGUSR1, slice(1, 2))],
    ids=["SIGTERM to all", "SIGUSR1 to one"],
)
def test_asked_to_stop_all_ranks_save_and_say_resume_me(start, whole, tmp_path, number, ranks):
    folder = tmp_path / "run"
    job = start(folder, "--run.save_every", 1000, "--data.workers", 1)
    wait_until(steps_done(folder, 2), job)
    job.kill(number, ranks)
    assert job.wait() == [75, 75], job.said()
    said = re.findall(r"asked to stop, saved after step (\d+) of 50", job.said())
    assert len(said) == 1
    assert checkpoint.latest(folder).name == f"step_{int(said[0]):08d}"
    again = start(folder)
    assert again.wait() == [0, 0], again.said()
    assert losses(folder) == losses(whole)


@pytest.mark.parametrize("dead", [0, 1])
def test_a_dead_rank_ends_the_others_with_a_message(start, tmp_path, dead):
    folder = tmp_path / "run"
    job = start(folder)
    wait_until(steps_done(folder, 4), job)
    job.kill(signal.SIGKILL, slice(dead, dead + 1))
    assert sorted(job.wait()) == [-signal.SIGKILL, 1], job.said()
    assert "another of the 2 processes of this run died" in job.said()
    assert "Traceback" not in job.said()
    videohpm.load_model(folder)


@pytest.mark.parametrize("stuck", [0, 1])
def test_a_stuck_rank_ends_the_others_after_the_timeout(start, tmp_path, stuck):
    """Rank 0 holds the store that the others would ask whether they should report."""
    folder = tmp_path / "run"
    job = start(folder, "--engine.timeout", 8)
    wait_until(steps_done(folder, 4), job)
    job.kill(signal.SIGSTOP, slice(stuck, stuck + 1))
    other = job.starter.ask({"wait": [job.pids[1 - stuck]]})
    job.kill(signal.SIGKILL, slice(stuck, stuck + 1))
    assert job.starter.ask({"wait": [job.pids[stuck]]}) == [-signal.SIGKILL]
    assert other == [1], job.said()
    assert "did not answer for engine.timeout = 8 seconds" in job.said()


def test_a_loss_that_is_not_finite_stops_every_rank_and_is_said_once(start, tmp_path):
    folder = tmp_path / "run"
    wild = ("--optim.base_lr", 1e30, "--optim.warmup_steps", 8, "--run.log_every", 4)
    job = start(folder, *wild, "--run.save_every", 1, "--engine.zero_stage", 1)
    assert job.wait() == [1, 1], job.said()
    assert len(re.findall(r"step \d+: the loss is (nan|inf).*Samples.*\.mp4", job.said())) == 1
    weights = videohpm.load_model(folder).state_dict().values()
    assert all(value.isfinite().all() for value in weights)


def test_the_samples_behind_a_loss_that_is_not_finite_are_named_once(starter, config, tmp_path):
    """The second of two ranks, in a step between two log lines."""
    words = ["pretrain", "--config", str(config), "--run.dir", str(tmp_path / "run")]
    words += ["--run.steps", "8", "--run.log_every", "4"]
    out = tmp_path / "samples.json"
    job = starter.start(
        2, "facts:a_loss_that_is_not_finite", words, 3, 1, str(out), logs=tmp_path / "logs"
    )
    assert job.wait() == [1, 1], job.said()
    names = re.findall(r"step 3: the loss is nan.*Samples of this step: (.*)", job.said())
    assert len(names) == 1, job.said()
    root = yaml.safe_load(config.read_text())["data"]["root"]
    manifest = find_samples(root)
    assert names[0].split(", ") == [manifest[i].path for i in json.loads(out.read_text())]


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="only root may mount a tmpfs")
def test_a_full_disk_is_said_once_and_the_last_checkpoint_stays(start, whole, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    folder = disk / "run"
    mount = ["mount", "-t", "tmpfs", "-o", "size=1500k", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a tmpfs cannot be mounted here")
    try:
        job = start(folder, "--run.keep", 1000)
        assert job.wait() == [1, 1], job.said()
        found = re.findall(r"step (\d+) could not be written \(No space.*last good", job.said())
        assert len(found) == 1, job.said()
        assert checkpoint.latest(folder).name == f"step_{int(found[0]) - 3:08d}"
        old = checkpoint.checkpoints(folder)
        for path in old[:-1]:
            subprocess.run(["rm", "-r", path], check=True)
        again = start(folder, "--run.keep", 1)
        assert again.wait() == [0, 0], again.said()
        assert losses(folder) == losses(whole)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_other_files_on_a_full_disk_are_named_too(tmp_path):
    said = r"metrics\.jsonl: No space left on device; checkpoints"
    with pytest.raises(RunError, match=said), translate_errors():
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "metrics.jsonl")
    with pytest.raises(OSError), translate_errors():  # not every error is a full disk
        raise OSError(errno.ENOENT, os.strerror(errno.ENOENT), "metrics.jsonl")


def test_signals_are_as_before_once_a_run_is_over():
    before = signal.getsignal(signal.SIGTERM)
    with StopRequest() as request:
        assert not request.should_stop()
        os.kill(os.getpid(), signal.SIGTERM)
        assert request.should_stop()
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_signal_outside_the_steps_ends_a_run_at_once_and_says_go_on():
    before = signal.getsignal(signal.SIGUSR1)
    said, cpu = "SIGUSR1.*same command goes on", EngineConfig(device="cpu")
    with pytest.raises(Preempted, match=said), process_group(cpu, batch=1):
        with StopRequest() as request:
            os.kill(os.getpid(), signal.SIGUSR1)
            assert request.should_stop()  # within them it is noted
        with suppress(Exception):  # whoever handles errors there does not catch it
            os.kill(os.getpid(), signal.SIGUSR1)
    assert signal.getsignal(signal.SIGUSR1) is before


def test_the_launcher_passes_signals_on_and_ends_with_the_runs_code(config, whole, tmp_path):
    """The two ranks that run_pretrain.sh would start on a machine with two GPUs."""
    folder = tmp_path / "run"
    command = [
        sys.executable, "-m", "videohpm.launch", "2",
        "pretrain", "--config", config, "--run.dir", folder,
    ]  # fmt: skip
    environment = os.environ | {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
    with (tmp_path / "log").open("w+") as log:
        launcher = subprocess.Popen(
            list(map(str, command)), env=environment, stdout=log, stderr=log
        )
        while not steps_done(folder, 2)() and launcher.poll() is None:
            time.sleep(0.01)
        launcher.terminate()
        code = launcher.wait()
    said = (tmp_path / "log").read_text()
    assert code == 75, said
    assert said.count("asked to stop") == 1
    steps = len(lines(folder))
    assert 2 <= steps < STEPS
    assert losses(folder) == losses(whole)[:steps]


def documented(root, options: list, endpoint: str) -> list[str]:
    """The README's command for two nodes, with our options, and a process on each."""
    readme = (root / "README.md").read_text()
    command = re.search(r"^torchrun --nnodes 2 (.*?) #", readme, re.M | re.S)[1].replace(
        "\\\n", " "
    )
    for theirs, ours in (
        ("--nproc_per_node 8", "--nproc_per_node 1"),
        ("HOST:29500", endpoint),
        ("--config …", shlex.join(map(str, options))),
    ):
        assert command.count(theirs) == 1, command
        command = command.replace(theirs, ours)
    # A node is told its address here, because the name of a machine need not lead to itself.
    local = ["--local_addr", "127.0.0.1"]
    launcher = [sys.executable, "-m", "torch.distributed.run"]
    return [*launcher, *local, "--nnodes", "2", *shlex.split(command)]


@pytest.mark.slow
def test_two_nodes_meet_by_torchruns_rendezvous(whole, config, root, tmp_path):
    """The command that the README gives, on two nodes that are both this machine."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = ["--config", config, "--run.dir", tmp_path / "run"]
    command = documented(root, options, f"127.0.0.1:{port}")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
    logs = [(tmp_path / f"node{node}.log").open("w+") for node in (0, 1)]
    nodes = [subprocess.Popen(command, env=environment, stdout=log, stderr=log) for log in logs]
    try:
        codes = [node.wait(timeout=240) for node in nodes]
    finally:
        for node in nodes:
            node.kill()
            node.wait()
        for log in logs:
            log.close()
    said = "".join((tmp_path / f"node{node}.log").read_text() for node in (0, 1))
    assert codes == [0, 0], said
    assert losses(tmp_path / "run") == losses(whole)
