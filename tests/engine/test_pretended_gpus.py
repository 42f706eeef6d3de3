"""The first minutes on a GPU, as far as a machine without one can tell."""

import os
import subprocess
import sys

import pytest
import torch
import torch.distributed as dist
from pretended import PretendedGpus, fake_tensors
from torch import nn

from videohpm.cli import main
from videohpm.config import AugmentConfig, OptimConfig
from videohpm.engine import EngineConfig, make_engine, resolved_precision, torch_device
from videohpm.engine import deepspeed as zero_engine
from videohpm.engine.ema import ShardedEma
from videohpm.errors import UserError
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


def test_distances_of_shards_in_main_memory_are_added_up_on_the_gpu(monkeypatch):
    """NCCL knows no CPU tensors; with offload_param the shards are such."""
    devices = []
    monkeypatch.setattr(dist, "all_reduce", lambda tensor: devices.append(tensor.device.type))
    with fake_tensors():
        ema = ShardedEma(torch.device("cuda", 0))
        distance = ema.distance(nn.Linear(2, 2), nn.Linear(2, 2))
    assert devices == [distance.device.type] == ["cuda"]


# --- launchers -----------------------------------------------------------------------------------


def test_the_rank_that_a_launcher_puts_before_the_command_is_passed_over(capsys):
    for argument in ("--local_rank=1", "--local-rank=1"):
        assert main([argument, "no-such-command"]) == 2
        assert "no-such-command: no such command" in capsys.readouterr().err


@pytest.mark.slow
def test_the_deepspeed_launcher_starts_the_readmes_command(tmp_path):
    """The real launcher, on as many processes of this machine's CPU as it is given."""
    environment = os.environ | {"DS_ACCELERATOR": "cpu", "LOCAL_SIZE": "1", "OMP_NUM_THREADS": "1"}
    command = [
        sys.executable, "-c", "from deepspeed.launcher.runner import main; main()",
        "--module", "videohpm", "plan", "--gpus", "1", "--optim.global_batch_size", "8",
    ]  # fmt: skip
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "GB on a GPU" in done.stdout
