"""The first minutes on a GPU, as far as a machine without one can tell."""

import json
import os
import socket
import subprocess
import sys
from contextlib import nullcontext
from typing import NamedTuple

import numpy as np
import pytest
import torch
import torch.distributed as dist
from PIL import Image
from pretended import Operators, PretendedGpus, fake_tensors, needs_indexing
from torch import nn

from videohpm.cli import main
from videohpm.config import AugmentConfig, OptimConfig
from videohpm.config.machine import cores_per_rank
from videohpm.data import transforms
from videohpm.engine import (
    EngineConfig,
    make_engine,
    resolved_precision,
    torch_device,
)
from videohpm.engine import deepspeed as zero_engine
from videohpm.engine.ema import ShardedEma
from videohpm.engine.feed import Feed
from videohpm.engine.settings import deepspeed_settings
from videohpm.errors import UserError
from videohpm.evaluate import prediction
from videohpm.finetune.augment import mix

TOO_OLD = (
    "The NVIDIA driver on your system is too old (found version 11040). Please update your GPU "
    "driver by downloading and installing a new version from the URL: "
    "http://www.nvidia.com/Download/index.aspx Alternatively, go to: https://pytorch.org to "
    "install a PyTorch version that has been compiled with your version of the CUDA driver."
)
NO_DRIVER = (
    "Found no NVIDIA driver on your system. Please check that you have an NVIDIA GPU and "
    "installed a driver from http://www.nvidia.com/Download/index.aspx"
)


@pytest.fixture
def gpus(monkeypatch):
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    return PretendedGpus(monkeypatch)


# --- the device ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "number"), [("auto", 0), ("cuda", 0), ("cuda:0", 0), ("cuda:1", 1)]
)
def test_a_gpu_has_a_number_that_can_be_made_the_current_one(gpus, asked, number):
    device = torch_device(asked)
    torch.cuda.set_device(device)
    assert gpus.current == [torch.device("cuda", number)]


def test_several_processes_take_a_gpu_each(gpus, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert torch_device("auto") == torch.device("cuda", 1)
    with pytest.raises(UserError, match=r"engine\.device: cuda:0 for 2 processes"):
        torch_device("cuda:0")


def test_a_gpu_that_is_not_there_is_named(gpus):
    with pytest.raises(UserError, match=r"engine\.device: cuda:2, but there are 2 GPUs here"):
        torch_device("cuda:2")


@pytest.mark.parametrize("asked", ["auto", "cuda:1"])
def test_one_process_works_on_its_gpu_whatever_asks_for_none(gpus, asked):
    with fake_tensors():
        engine = make_engine(nn.Linear(2, 2), EngineConfig(device=asked), OptimConfig())
    assert gpus.current == [engine.device]
    assert engine.model.weight.device == engine.device


def test_deepspeed_takes_the_same_gpu(gpus, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    zero_engine._deepspeed(torch_device("cuda:1"))
    assert os.environ["LOCAL_RANK"] == "1"  # DeepSpeed's only source


@pytest.mark.parametrize(("major", "precision"), [(7, "fp32"), (8, "bf16"), (9, "bf16")])
def test_bf16_is_chosen_where_the_gpu_has_it_and_does_not_emulate_it(monkeypatch, major, precision):
    PretendedGpus(monkeypatch, major=major)
    assert resolved_precision("auto", torch.device("cuda", 0)) == precision


@pytest.fixture
def refused(monkeypatch):
    """refused(text): torch finds no GPU, and complains so when asked to use one."""

    def refused(text):
        def init():
            raise RuntimeError(text)

        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        monkeypatch.setattr(torch.cuda, "init", init)

    return refused


def test_a_gpu_whose_driver_is_too_old_is_an_error_and_no_slow_run(refused):
    refused(TOO_OLD)
    with pytest.raises(UserError, match=r"engine\.device: auto.*too old.*give\s+cpu") as caught:
        torch_device("auto")
    assert "\n" not in str(caught.value)
    assert torch_device("cpu").type == "cpu"
    with pytest.raises(UserError, match=r"engine\.device: cuda asked for.*too old"):
        torch_device("cuda")


@pytest.mark.parametrize("text", [NO_DRIVER, "No CUDA GPUs are available"])
def test_without_a_gpu_the_cpu_is_taken(refused, text):
    refused(text)
    assert torch_device("auto").type == "cpu"


# --- what is computed ----------------------------------------------------------------------------


def test_mixing_clips_leaves_the_generators_of_gpus_alone(monkeypatch):
    """Drop-path draws from them: seeded here, it would be the same in every rank and batch."""
    seeded = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    options = {"classes": 3, "smoothing": 0.1, "repeats": 1, "seed": 0}
    clips, labels = torch.rand(4, 3, 2, 8, 8), torch.arange(4) % 3
    first, _ = mix(clips, labels, AugmentConfig(), step=1, **options)
    torch.rand(1)
    again, _ = mix(clips, labels, AugmentConfig(), step=1, **options)
    assert torch.equal(first, again)
    assert seeded == []


@needs_indexing
def test_distances_of_shards_in_main_memory_are_added_up_on_the_gpu(monkeypatch):
    """NCCL knows no CPU tensors; with offload_param the shards are such."""
    devices = []
    monkeypatch.setattr(dist, "all_reduce", lambda tensor: devices.append(tensor.device.type))
    with fake_tensors():
        ema = ShardedEma(torch.device("cuda", 0))
        distance = ema.distance(nn.Linear(2, 2), nn.Linear(2, 2))
    assert devices == [distance.device.type] == ["cuda"]


def test_a_teachers_update_is_done_before_it_is_gathered_on_another_stream(monkeypatch):
    done = []

    class Stream:
        def synchronize(self):
            done.append("update is done")

    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Stream())
    with fake_tensors():
        for device, expected in (("cpu", []), ("cuda", ["update is done"])):
            ShardedEma(torch.device(device)).update(nn.Linear(2, 2), nn.Linear(2, 2), 0.9)
            assert done == expected


@needs_indexing
def test_normalising_on_a_gpu_is_a_kernel_a_channel_and_the_same_but_for_rounding():
    clips = torch.randint(256, (2, 3, 2, 8, 8), dtype=torch.uint8)
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
    at_once = transforms._normalise_at_once(clips, mean, std)
    torch.testing.assert_close(at_once, transforms.normalise(clips, mean, std), rtol=0, atol=1e-6)
    with fake_tensors(), Operators() as operators:
        transforms.normalise(torch.empty_like(clips, device="cuda"), mean, std)
    assert operators.count["aten.add.out"] == 3
    assert sum(n for name, n in operators.count.items() if name.startswith("aten.div")) == 0


def test_on_a_gpu_gradients_are_sent_while_others_are_computed():
    def zero(on_gpu):
        optim = OptimConfig(global_batch_size=2)
        return deepspeed_settings(EngineConfig(), optim, 2, "bf16", on_gpu)["zero_optimization"]

    assert zero(True)["overlap_comm"] is True
    assert "overlap_comm" not in zero(False)


@pytest.mark.parametrize(("precision", "matmul"), [("bf16", "high"), ("fp32", "highest")])
def test_what_stays_fp32_beside_bf16_may_be_tf32(gpus, monkeypatch, precision, matmul):
    set_to = []
    monkeypatch.setattr(torch, "set_float32_matmul_precision", set_to.append)
    with fake_tensors():
        make_engine(
            nn.Linear(2, 2), EngineConfig(device="cuda", precision=precision), OptimConfig()
        )
    assert (set_to or ["highest"]) == [matmul]


@pytest.mark.parametrize(("rank", "device"), [(0, "cpu"), (1, "cuda")])
def test_only_the_rank_that_writes_a_checkpoint_copies_it_from_its_gpu(gpus, rank, device):
    with fake_tensors():
        engine = make_engine(nn.Linear(2, 2), EngineConfig(device="cuda"), OptimConfig())
        engine.rank = rank
        parameter = engine.model.weight
        assert engine.full_tensor(parameter).device.type == device
        engine.init_optimizer_state(1)
        assert engine.moment(parameter, "exp_avg").device.type == device


@pytest.mark.parametrize(
    ("environment", "cores"),
    [({}, 16), ({"LOCAL_WORLD_SIZE": "4"}, 4), ({"LOCAL_SIZE": "8"}, 2), ({"LOCAL_SIZE": "32"}, 1)],
)
def test_processes_of_one_launcher_share_its_cores(monkeypatch, environment, cores):
    for name in ("LOCAL_WORLD_SIZE", "LOCAL_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(16)), raising=False)
    assert cores_per_rank() == cores


def test_predictions_are_in_bf16_where_training_would_be(gpus):
    assert prediction._in_bf16("cuda") and not prediction._in_bf16("cpu")


def test_the_next_batch_is_copied_on_a_stream_of_its_own_while_a_step_runs(monkeypatch):
    events = []

    class Stream:
        def __init__(self, *_):
            pass

        def wait_stream(self, other):
            events.append("wait")

    class Batch(NamedTuple):
        number: int

    def loader():
        for number in range(5):
            events.append(f"copy {number}")
            yield Batch(number)

    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Stream())
    feed = Feed(loader(), torch.device("cuda", 0), nullcontext)
    for _ in range(2):
        for batch in feed.step(2):
            events.append(f"compute {batch.number}")
    assert [batch.number for batch in feed.step(2)] == [4]
    computing = {event: place for place, event in enumerate(events)}
    assert events[:3] == ["copy 0", "wait", "compute 0"]  # the first step waits for nothing else
    for number in (1, 2, 3):
        assert events[computing[f"compute {number}"] - 1] == f"copy {number + 1}"
    assert events.count("wait") == 5


# --- launchers -----------------------------------------------------------------------------------


def test_the_rank_that_a_launcher_puts_before_the_command_is_passed_over(capsys):
    for argument in ("--local_rank=1", "--local-rank=1"):
        assert main([argument, "no-such-command"]) == 2
        assert "no-such-command: no such command" in capsys.readouterr().err


@pytest.mark.slow
def test_the_deepspeed_launcher_starts_a_training_on_two_ranks(tmp_path):
    """The real launcher, on as many processes of this machine's CPU as it is given.

    It puts --local_rank=N before the command.
    """
    noise = np.random.default_rng(0)
    for number in range(4):
        pixels = noise.integers(256, size=(32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    environment = os.environ | {"DS_ACCELERATOR": "cpu", "LOCAL_SIZE": "2", "OMP_NUM_THREADS": "1"}
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    command = [
        sys.executable, "-c", "from deepspeed.launcher.runner import main; main()",
        "--master_port", port, "--module", "videohpm", "pretrain", "--data.root", tmp_path,
        "--run.dir", tmp_path / "run", "--run.steps", 2, "--run.log_every", 1,
        "--run.picture_every", 0, "--data.workers", 0, "--model.arch", "vit_tiny",
        "--model.frames", 1, "--model.tubelet", 1, "--model.image_size", 32, "--model.patch", 8,
        "--model.dim", 24, "--model.depth", 1, "--model.heads", 2, "--model.decoder_dim", 12,
        "--model.decoder_depth", 1, "--model.decoder_heads", 2, "--mask.ratio", 0.75,
        "--optim.global_batch_size", 4, "--engine.device", "cpu",
    ]  # fmt: skip
    words = [str(word) for word in command]
    done = subprocess.run(words, env=environment, cwd=tmp_path, capture_output=True, text=True)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert "--local_rank=1" in said
    lines = (tmp_path / "run/metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2]
    assert said.count("2 steps done") == 1  # and not by each for itself
