"""Errors of torch, NCCL and gloo by their real texts; ranks that end with the one that failed."""

import json
import re
import signal
import socket
import subprocess
import sys
import time

import pytest
import torch
import torch.distributed as dist
from made_runs import write_settings

from videohpm.checkpoint import latest
from videohpm.cli import main
from videohpm.engine import distributed, rendezvous
from videohpm.engine.preemption import translate_errors
from videohpm.errors import RunError, UserError
from videohpm.launch import Ranks

NCCL = (
    "NCCL error in: /pytorch/torch/csrc/distributed/c10d/NCCLUtils.cpp:94, {}, NCCL version "
    "2.27.5\n{}: {}\nLast error:\n{}"
)
GPU_FULL = (
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 23.64 GiB of "
    "which 1.02 GiB is free. Including non-PyTorch memory, this process has 22.61 GiB memory in "
    "use. Of the allocated memory 21.73 GiB is allocated by PyTorch, and 412.11 MiB is reserved "
    "by PyTorch but unallocated. If reserved but unallocated memory is large try setting "
    "PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True to avoid fragmentation."
)
MEMORY = [
    torch.OutOfMemoryError(GPU_FULL),
    RuntimeError(
        "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate "
        "memory: you tried to allocate 4000000000000000 bytes. Error code 12 (Cannot allocate "
        "memory)"
    ),
    RuntimeError(
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"
    ),
    RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
    dist.DistBackendError(
        NCCL.format(
            "unhandled cuda error (run with NCCL_DEBUG=INFO for details)",
            "ncclUnhandledCudaError", "Call to CUDA function failed.",
            "Cuda failure 2 'out of memory'",
        )
    ),
]  # fmt: skip
GONE = [
    RuntimeError(
        "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by peer "
        "[127.0.0.1]:36174"
    ),
    RuntimeError(
        "[/pytorch/third_party/gloo/gloo/transport/tcp/unbound_buffer.cc:81] Timed out waiting "
        "15000ms for recv operation to complete"
    ),
    dist.DistBackendError(
        NCCL.format(
            "remote process exited or there was a network error", "ncclRemoteError",
            "A call failed possibly due to a network error or a remote process exiting "
            "prematurely.", "socketProgress: Connection closed by remote peer node1<49152>",
        )
    ),
    dist.DistBackendError(
        "[Rank 0] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=12, "
        "OpType=ALLREDUCE, NumelIn=1, NumelOut=1, Timeout(ms)=600000) ran for 600012 "
        "milliseconds before timing out. NCCL"
    ),
    dist.DistNetworkError("failed to recv, got 0 bytes"),
]  # fmt: skip
OTHER = {
    "the same GPU": dist.DistBackendError(
        NCCL.format(
            "invalid usage (run with NCCL_DEBUG=WARN for details)", "ncclInvalidUsage",
            "This usually reflects invalid usage of NCCL library.",
            "Duplicate GPU detected : rank 1 and rank 0 both on CUDA device 65000",
        )
    ),
    "/dev/shm .*--shm-size": dist.DistBackendError(
        NCCL.format(
            "unhandled system error (run with NCCL_DEBUG=INFO for details)", "ncclSystemError",
            "System call (e.g. socket, malloc) or external library call failed or device error.",
            "Error while creating shared memory segment /dev/shm/nccl-kjC8vE (size 9637888), "
            "error: No space left on device (28)",
        )
    ),
    "NCCL_SOCKET_IFNAME": dist.DistBackendError(
        NCCL.format(
            "internal error - please report this issue to the NCCL developers",
            "ncclInternalError", "Internal check failed.", "Bootstrap : no socket interface found",
        )
    ),
    "cannot exchange tensors .*misaligned address": dist.DistBackendError(
        NCCL.format(
            "unhandled cuda error", "ncclUnhandledCudaError", "Call to CUDA function failed.",
            "Cuda failure 716 'misaligned address'",
        )
    ),
}  # fmt: skip


@pytest.fixture
def of_two(monkeypatch):
    monkeypatch.setattr(distributed, "world_size", lambda: 2)


def told(error) -> str:
    with pytest.raises(RunError) as caught, translate_errors():
        raise error
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("error", MEMORY, ids=lambda error: str(error)[:20])
def test_too_little_memory_names_what_helps(error):
    sentence = told(error)
    for part in ("out of memory", "engine.grad_accum_steps", "checkpoint_activations", "plan"):
        assert part in sentence
    assert "died" not in sentence


@pytest.mark.parametrize("error", GONE, ids=lambda error: str(error)[-30:])
def test_a_lost_process_is_told_as_one(of_two, error):
    assert "another of the 2 processes of this run died" in told(error)


@pytest.mark.parametrize("meaning", OTHER)
def test_what_else_fails_between_processes_is_no_lost_one(of_two, meaning):
    sentence = told(OTHER[meaning])
    assert "died" not in sentence
    assert re.search(meaning, sentence)


def test_an_error_of_something_else_stays_what_it_is(of_two):
    for error in (RuntimeError("shapes do not match"), RuntimeError("a Broken pipe of a decoder")):
        with pytest.raises(RuntimeError) as caught, translate_errors():
            raise error
        assert caught.value is error


def test_too_little_memory_in_an_evaluation_is_one_line(monkeypatch, capsys):
    def run(*_):
        raise torch.OutOfMemoryError(GPU_FULL)

    monkeypatch.setattr("videohpm.cli._run", run)
    assert main(["evaluate"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "out of memory" in line and "--batch" in line


def test_a_first_rank_that_never_listens_is_waited_for_once(monkeypatch):
    """torch would wait for ``engine.timeout`` twice, and pause in between."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    values = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(dist, "rendezvous", lambda *_, **__: pytest.fail("it waits in torch"))
    said = rf"another of the 2 processes.* check RANK.*127\.0\.0\.1:{port} does not answer"
    with pytest.raises(RunError, match=said):
        distributed.init_process_group(torch.device("cpu"), 0.5)


def test_a_first_rank_that_listens_later_is_found(monkeypatch):
    with socket.socket() as later:
        later.bind(("127.0.0.1", 0))
        monkeypatch.setenv("RANK", "1")
        monkeypatch.setenv("WORLD_SIZE", "2")
        monkeypatch.setenv("MASTER_ADDR", "localhost")
        monkeypatch.setenv("MASTER_PORT", str(later.getsockname()[1]))
        monkeypatch.setattr(time, "sleep", lambda _: later.listen())
        rendezvous.wait_for_first_rank(60)


@pytest.mark.parametrize(
    ("name", "value"),
    [("MASTER_PORT", "70000"), ("MASTER_PORT", "x"), ("MASTER_ADDR", ""), ("RANK", "0"),
     ("RANK", "2"), ("RANK", "-1"), ("RANK", "x")],
)  # fmt: skip
def test_settings_that_are_no_address_are_left_to_torch(monkeypatch, name, value):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", "1")
    monkeypatch.setenv(name, value)
    monkeypatch.setattr(time, "sleep", lambda _: pytest.fail("nobody is waited for"))
    rendezvous.wait_for_first_rank(60)


def test_a_host_that_is_none_is_left_to_torch(monkeypatch):
    def unknown(*_):
        raise socket.gaierror("Name or service not known")

    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("MASTER_ADDR", "nowhere")
    monkeypatch.setenv("MASTER_PORT", "1")
    monkeypatch.setattr(socket, "create_connection", unknown)
    rendezvous.wait_for_first_rank(60)


@pytest.mark.parametrize("others", [True, False], ids=["all are there", "one is not"])
def test_machines_that_cannot_meet_are_told_of_the_network_interface(monkeypatch, others):
    """Each has reached the store, and none another one; or one of them has died meanwhile."""

    def refuse(*_, store, **__):
        if others:
            store.set("unreached/1", "")
        raise dist.DistNetworkError("Gloo connectFullMesh failed with Connect timeout [127.0.1.1]")

    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(dist, "rendezvous", lambda *_, **__: iter([(dist.HashStore(), 0, 2)]))
    monkeypatch.setattr(dist, "init_process_group", refuse)
    said = r"127\.0\.1\.1.*GLOO_SOCKET_IFNAME" if others else "another of the 2 processes"
    with pytest.raises(UserError if others else RunError, match=said):
        distributed.init_process_group(torch.device("cpu"), 0.5)


# --- ranks that end together ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def words(shapes, tmp_path_factory):
    path = write_settings(
        tmp_path_factory.mktemp("settings"),
        run={"steps": 5, "log_every": 1, "save_every": 0},
        data={"root": str(shapes / "train"), "workers": 1},
        optim={"global_batch_size": 6},
        engine={"zero_stage": 1},
    )

    def words(folder):
        return ["pretrain", "--config", str(path), "--run.dir", str(folder)]

    return words


@pytest.mark.parametrize("dead", [0, 1])
def test_ranks_that_wait_for_their_device_end_with_a_dead_one(starter, words, tmp_path, dead):
    """Nothing that the main thread does would ever notice; its loader's worker is there, too."""
    job = starter.start(
        3, "facts:stuck_on_a_device", words(tmp_path / "run"), logs=tmp_path / "logs"
    )
    while not all("waiting" in log.read_text() for log in job.logs):
        time.sleep(0.01)
    job.kill(signal.SIGKILL, slice(dead, dead + 1))
    assert sorted(job.wait()) == [-signal.SIGKILL, 1, 1], job.said()
    assert "another of the 3 processes of this run died" in job.said()
    if dead:  # without rank 0 nobody knows who has told it
        assert job.said().count("another of the 3 processes") == 1
    assert "Traceback" not in job.said()


@pytest.mark.parametrize(
    ("kind", "text", "code", "sentence"),
    [
        ("user", "data.max_bad_fraction: too many", 2, "videohpm: data.max_bad_fraction: too many"),
        ("memory", GPU_FULL, 1, "videohpm: rank 2 ran out of memory (CUDA out of memory."),
        ("bug", "made up", 1, "KeyError: 'made up'"),
    ],
)
def test_an_error_of_one_rank_ends_all_with_its_code(
    starter, words, tmp_path, kind, text, code, sentence
):
    arguments = words(tmp_path / "run"), kind, text
    job = starter.start(3, "facts:fails_on_the_last_rank", *arguments, logs=tmp_path / "logs")
    assert job.wait() == [code] * 3, job.said()
    assert job.said().count(sentence) == 1
    assert "processes of this run died" not in job.said()
    assert ("Traceback" in job.said()) == (kind == "bug")


@pytest.mark.parametrize(
    ("kind", "code", "sentence"),
    [
        ("signal", 75, "videohpm: stopped by SIGTERM"),
        ("interrupt", 130, "videohpm: interrupted"),
        ("user", 2, "videohpm: data.root: made up"),
    ],
)
def test_ranks_that_notice_a_broken_connection_end_with_the_code_of_who_broke_it(
    starter, words, tmp_path, kind, code, sentence
):
    arguments = words(tmp_path / "run"), kind
    job = starter.start(3, "facts:ends_while_others_step", *arguments, logs=tmp_path / "logs")
    assert job.wait() == [code] * 3, job.said()
    assert job.said().count(sentence) == job.said().count("videohpm: ") == 1


@pytest.mark.parametrize("stage", [1, 3])
def test_gradients_that_are_never_finite_end_a_run_whose_checkpoints_stay(
    starter, words, tmp_path, stage
):
    """DeepSpeed skips such steps; AdamW then has no moments yet that could be saved."""
    options = ["--engine.zero_stage", str(stage), "--run.steps", "30", "--run.save_every", "5"]
    arguments = [*words(tmp_path / "run"), *options]
    job = starter.start(2, "facts:never_finite", arguments, logs=tmp_path / "logs")
    assert job.wait() == [1, 1], job.said()
    said = "videohpm: step 20: the gradient was not finite in 20 steps in a row"
    assert job.said().count(said) == 1 and "Traceback" not in job.said()
    newest = latest(tmp_path / "run")
    assert newest.name == "step_00000015"
    state = json.loads((newest / "state.json").read_text())
    assert (state["skipped"], state["updates"]) == (15, 0)


def test_the_launcher_names_the_rank_that_a_signal_ended(capsys):
    ranks = object.__new__(Ranks)
    killed = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    ranks.processes = [subprocess.Popen([sys.executable, "-c", code]) for code in ("", killed)]
    assert ranks.wait() == 128 + signal.SIGKILL
    assert capsys.readouterr().err == "videohpm: rank 1 was ended by SIGKILL\n"
