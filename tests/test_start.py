"""What befalls a program while it starts: signals in its imports, ranks that die or never come.

Through the real command line. Nothing is asserted about times: a wait that does not end is ended by
tests/several.py, or by the limit of a subprocess, and is a failure.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from made_runs import write_settings

from videohpm import launch

LIMIT = 120
SLOW = """
import os, pathlib, time
pathlib.Path(os.environ["MARKS"], str(os.getpid())).touch()
try:
    time.sleep({seconds})
except BaseException:  # as libraries do that try whether others are there
    time.sleep({seconds})
"""
"""A module that takes long to import, says when that has begun, and swallows what is raised."""


def environment(folder: Path, module: str, seconds: float = LIMIT, **more: str) -> dict[str, str]:
    """Of a command whose first import of ``module`` takes ``seconds``."""
    marks = folder / "marks"
    marks.mkdir()
    (folder / "modules").mkdir()
    (folder / "modules" / f"{module}.py").write_text(SLOW.format(seconds=seconds))
    path = os.pathsep.join([str(folder / "modules"), os.environ.get("PYTHONPATH", "")])
    return os.environ | {"PYTHONPATH": path, "MARKS": str(marks), "OMP_NUM_THREADS": "1"} | more


def begun(folder: Path, count: int) -> None:
    """Until ``count`` processes are in that import."""
    while len(list((folder / "marks").iterdir())) < count:
        time.sleep(0.01)


def stop(folder: Path, command: list, count: int, number: int, env: dict) -> tuple[int, str]:
    """Start a command, signal it once ``count`` processes import; its exit code and words."""
    process = subprocess.Popen(
        [sys.executable, "-m", *command], env=env, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored in a background
    )  # fmt: skip
    try:
        begun(folder, count)
        process.send_signal(number)
        said = process.communicate(timeout=LIMIT)[1]
    finally:
        process.kill()
    return process.returncode, said


@pytest.mark.parametrize(("number", "code"), [("SIGTERM", 75), ("SIGUSR1", 75), ("SIGINT", 130)])
@pytest.mark.parametrize("module", ["jsonargparse", "torch"])
def test_a_signal_that_falls_into_an_import_is_said_in_one_line(tmp_path, number, code, module):
    command, env = ["videohpm", "visualize", "x", "y"], environment(tmp_path, module)
    found, said = stop(tmp_path, command, 1, getattr(signal, number), env)
    assert (found, said.count("\n")) == (code, 1), said
    assert said.startswith("videohpm: ") and "Traceback" not in said
    assert ("same command goes on" in said) == (code == 75)


HEARD_LATE = """
import os, sys, threading, time
from videohpm import cli, stopping

def work(*_, **__):
    os.kill(os.getpid(), {number})
    time.sleep(60)

def late(reading, read=os.read):  # the thread that listens gets its turn when the work has ended
    heard = read(reading, 1)
    time.sleep(0.5)
    return heard

def first_to_tell(ask=stopping.first_to_tell):
    first = ask()
    if threading.current_thread() is threading.main_thread():
        time.sleep(1)  # before the program says why it ends
    return first

stopping.os = type("", (), dict(vars(os), read=lambda reading, _: late(reading)))
stopping.first_to_tell, cli._target = first_to_tell, {target}
stopping.begin()
sys.exit(cli.main(["report", "."]))
"""


@pytest.mark.parametrize(
    ("number", "code", "words"),
    [(signal.SIGUSR1, 75, "stopped by SIGUSR1"), (signal.SIGINT, 130, "interrupted")],
)
@pytest.mark.parametrize("target", ["lambda _: work", "work"], ids=["in the work", "before it"])
def test_a_signal_that_ends_the_work_is_said_though_it_is_heard_late(number, code, words, target):
    """The thread must not take a program that is clearing up for one that hangs."""
    program = HEARD_LATE.format(number=int(number), target=target)
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=LIMIT,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    assert (done.returncode, words in done.stderr) == (code, True), done.stderr
    assert done.stderr.count("videohpm:") == 1


HALF_IMPORTED = """
import sys
from videohpm import cli

class Broken:
    def find_spec(self, name, *_):
        if name.partition(".")[0] in ("torch", "numpy"):
            raise SystemError("bad call flags")

def interrupted(_):
    sys.meta_path.insert(0, Broken())
    raise {error}

cli._target = interrupted
sys.exit(cli.main(["report", "."]))
"""


@pytest.mark.parametrize(("error", "code"), [("KeyboardInterrupt", 130), ("cli.UserError('x')", 2)])
@pytest.mark.parametrize("rank", [0, 1])
def test_why_a_rank_ends_is_said_without_what_was_being_imported(error, code, rank):
    """A signal that falls into torch's import leaves it unusable."""
    env = os.environ | {"WORLD_SIZE": "2", "RANK": str(rank), "LOCAL_RANK": str(rank)}
    done = subprocess.run(
        [sys.executable, "-c", HALF_IMPORTED.format(error=error)],
        capture_output=True, text=True, timeout=LIMIT, env=env,
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    assert done.stderr == ("" if rank else f"videohpm: {'interrupted' if code == 130 else 'x'}\n")


SWALLOWED = """
import os, sys
from videohpm import cli, stopping

class Kept:
    def __del__(self):
        os.kill(os.getpid(), {number})

def work(**_):
    Kept()  # what is raised there is lost, and the work ends before the thread would end it

cli._target = lambda _: work
stopping.begin()
sys.exit(cli.main(["report", "."]))
"""


AT_ONCE = """
import os, sys, threading
from videohpm import __main__, stopping

class Signalled(threading.Thread):
    def start(self):
        os.kill(os.getpid(), {number})
        super().start()

stopping.threading = type("", (), dict(vars(threading), Thread=Signalled))
sys.argv[1:] = ["--help"]
sys.exit(__main__.main())
"""


@pytest.mark.parametrize(
    ("number", "code", "words"),
    [(signal.SIGTERM, 75, "stopped by SIGTERM"), (signal.SIGINT, 130, "interrupted")],
)
def test_a_signal_while_signals_are_prepared_for_is_one_line(number, code, words):
    done = subprocess.run(
        [sys.executable, "-c", AT_ONCE.format(number=int(number))],
        capture_output=True, text=True, timeout=LIMIT,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    assert done.stderr.startswith(f"videohpm: {words}") and done.stderr.count("\n") == 1


TURNED = """
import os, sys, time
from videohpm import cli, stopping
from videohpm.errors import UserError

def work(**_):
    try:
        os.kill(os.getpid(), {number})
        time.sleep(1)
    except BaseException:
        pass
    raise {error}

cli._target = lambda _: work
stopping.begin()
sys.exit(cli.main(["report", "."]))
"""
"""As a library of native code does, whose callback the signal falls into."""


@pytest.mark.parametrize(
    "error", ["UserError('not a checkpoint')", "SystemError('bad call flags')"]
)
@pytest.mark.parametrize(
    ("number", "code", "words"),
    [(signal.SIGUSR1, 75, "stopped by SIGUSR1"), (signal.SIGINT, 130, "interrupted")],
)
def test_a_signal_that_becomes_another_error_is_still_the_signal(number, code, words, error):
    done = subprocess.run(
        [sys.executable, "-c", TURNED.format(number=int(number), error=error)],
        capture_output=True, text=True, timeout=LIMIT,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    assert done.stderr.startswith(f"videohpm: {words}") and done.stderr.count("\n") == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_where_nothing_can_be_raised_prints_no_traceback(number):
    program = SWALLOWED.format(number=int(number))
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=LIMIT,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


ABANDONED = """
import atexit, os, signal, sys, threading, torch
from videohpm import __main__, cli
from videohpm.data.timeout import call_with_timeout

begun = threading.Event()

def read(picture=torch.rand(1, 3, 256, 256)):
    while True:
        torch.nn.functional.interpolate(picture, (300, 300), mode="bilinear")
        begun.set()

def work(**_):
    atexit.register(print, "registered")
    if {number}:
        stop = lambda: (begun.wait(), os.kill(os.getpid(), {number}))
        threading.Thread(target=stop).start()
    try:
        call_with_timeout(60 if {number} else 0.5, read)
    except TimeoutError:
        print("gone on")  # as a loader does, with another file

cli._target = lambda _: work
sys.argv[1:] = ["report", "."]
sys.exit(__main__.main())
"""
"""A reader that is left alone inside native code."""


@pytest.mark.parametrize(
    ("number", "code"), [(0, 0), (signal.SIGTERM, 75), (signal.SIGINT, 130)], ids=str
)
def test_a_reader_that_is_left_alone_does_not_change_the_exit_code(number, code):
    """The interpreter ends threads as it ends itself, and native code answers with SIGABRT."""
    done = subprocess.run(
        [sys.executable, "-c", ABANDONED.format(number=int(number))],
        capture_output=True, text=True, timeout=LIMIT,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    said = "" if number else "gone on\n"
    assert (done.returncode, done.stdout) == (code, f"{said}registered\n"), done.stderr
    assert "terminate" not in done.stderr and done.stderr.count("\n") == (1 if number else 0)


@pytest.mark.parametrize("module", ["sitecustomize", "torch"])
def test_the_launcher_loses_no_signal_while_its_ranks_start(tmp_path, module):
    """sitecustomize: Python itself is starting, and has not come to our first line."""
    # The launcher imports sitecustomize too: two ranks and it.
    env = environment(tmp_path, module, seconds=1 if module == "sitecustomize" else LIMIT)
    count = 3 if module == "sitecustomize" else 2
    command = ["videohpm.launch", "2", "visualize", "x", "y"]
    found, said = stop(tmp_path, command, count, signal.SIGTERM, env)
    assert found == 75, said
    assert said.count("stopped by SIGTERM") == 1 and "was ended by" not in said


def test_ranks_stop_when_their_launcher_is_killed(tmp_path):
    env = environment(tmp_path, "torch")
    found, said = stop(tmp_path, ["videohpm.launch", "2", "visualize", "x", "y"], 2, 9, env)
    assert found == -signal.SIGKILL  # and the pipe has no writer any more
    assert said.count("stopped by SIGTERM") == 1


# --- processes that do not come ------------------------------------------------------------------


@pytest.fixture(scope="module")
def words(shapes, tmp_path_factory):
    """words(folder) → the command line of a tiny pre-training in that folder."""
    path = write_settings(
        tmp_path_factory.mktemp("settings"),
        run={"steps": 2},
        data={"root": str(shapes / "train"), "workers": 0},
        optim={"global_batch_size": 4},
        engine={"timeout": 4.0},
    )
    return lambda folder: ["pretrain", "--config", str(path), "--run.dir", str(folder)]


@pytest.fixture
def alone(starter, words, tmp_path):
    """alone(*options, **environment) → one rank of two whose other one is not there."""

    def alone(*options, **changes):
        place = {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1"}
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            place["MASTER_PORT"] = str(unused.getsockname()[1])
        arguments = [*words(tmp_path / "run"), *options]
        job = starter.start(
            1, "facts:program", arguments, logs=tmp_path / "logs", **place | changes
        )
        return job, int(place["MASTER_PORT"])

    return alone


@pytest.mark.parametrize(("rank", "local_rank"), ["00", "10", "11"])
def test_a_process_that_never_comes_is_a_failed_run(alone, rank, local_rank):
    """On the machine of rank 0 its neighbour says so, on others their first process."""
    job, _ = alone(RANK=rank, LOCAL_RANK=local_rank)
    assert job.wait() == [1], job.said()
    (line,) = [line for line in job.said().splitlines() if line.startswith("videohpm: ")]
    assert "another of the 2 processes of this run died, or did not answer for" in line
    assert "engine.timeout = 4 seconds" in line and "MASTER_ADDR" in line
    assert "Traceback" not in job.said()


@pytest.mark.parametrize(
    "wrong",
    [
        {"MASTER_PORT": "port"},
        {"RANK": "first"},
        {"MASTER_ADDR": "no.such.name.invalid"},
        {"WORLD_SIZE": "two"},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
def test_wrong_settings_stay_the_users_mistake(alone, wrong):
    job, _ = alone(**wrong)
    assert job.wait() == [2], job.said()
    assert next(iter(wrong)) in job.said().splitlines()[-1].partition(": the other")[0]
    assert "Traceback" not in job.said()


@pytest.mark.parametrize(("number", "code"), [("SIGTERM", 75), ("SIGINT", 130)])
def test_a_signal_ends_a_process_that_waits_for_the_others(alone, number, code):
    job, port = alone("--engine.timeout", "100")
    while socket.socket().connect_ex(("127.0.0.1", port)):  # until it listens, within torch
        time.sleep(0.01)
    job.kill(getattr(signal, number))
    assert job.wait() == [code], job.said()
    assert job.said().count("videohpm: ") == 1 and "Traceback" not in job.said()


# --- processes that are lost while others wait for them ------------------------------------------


@pytest.fixture(scope="module")
def finetuning(shapes, tmp_path_factory):
    """finetuning(folder) → the command line of a tiny fine-tuning in that folder."""
    settings = {
        "run": {"steps": 2, "save_every": 0},
        "data": {"manifest": str(shapes / "train-shape.csv"), "workers": 0, "stride": 2},
        "validation": {"manifest": str(shapes / "validation-shape.csv")},
        "test": {"clips": 1, "batch": 2},
        "model": {
            "arch": "vit_tiny", "frames": 4, "image_size": 32, "patch": 8, "tubelet": 2,
            "dim": 24, "depth": 1, "heads": 2,
        },
        "optim": {"global_batch_size": 4},
        "augment": {"mixup": 0.0, "cutmix": 0.0, "rand_augment": ""},
        "engine": {"device": "cpu", "precision": "fp32", "timeout": 4.0},
    }  # fmt: skip
    path = tmp_path_factory.mktemp("settings") / "config.yaml"
    path.write_text(yaml.safe_dump(settings))
    return lambda folder: ["finetune", "--config", str(path), "--run.dir", str(folder)]


@pytest.fixture(scope="module")
def tuned(starter, finetuning, tmp_path_factory):
    """A run folder with a classifier."""
    folder = tmp_path_factory.mktemp("tuned")
    job = starter.start(1, "facts:program", finetuning(folder), logs=folder / "logs")
    assert job.wait() == [0], job.said()
    return folder


@pytest.fixture
def evaluating(tuned, shapes, tmp_path):
    return [
        "evaluate", "--model", str(tuned), "--out", str(tmp_path / "out"), "--device", "cpu",
        "--data.manifest", str(shapes / "validation-shape.csv"), "--data.workers", "0",
        "--test.clips", "1", "--test.batch", "2", "--timeout", "4",
    ]  # fmt: skip


LOST = "another of the 2 processes of this run died, or did not answer for"


@pytest.mark.parametrize("dead", [0, 1])
def test_a_rank_that_dies_as_fine_tuning_starts_ends_the_other(starter, finetuning, tmp_path, dead):
    """Before the one group that watches the others."""
    arguments = finetuning(tmp_path / "run"), dead, 1
    job = starter.start(2, "facts:dies", *arguments, logs=tmp_path / "logs")
    assert sorted(job.wait()) == [-signal.SIGKILL, 1], job.said()
    assert job.said().count(f"{LOST} engine.timeout = 4 seconds") == 1, job.said()
    assert "Traceback" not in job.said()


def test_a_rank_that_dies_as_an_evaluation_starts_ends_the_other(starter, evaluating, tmp_path):
    job = starter.start(2, "facts:dies", evaluating, 1, 0, logs=tmp_path / "logs")
    assert sorted(job.wait()) == [-signal.SIGKILL, 1], job.said()
    assert job.said().count(f"{LOST} timeout = 4 seconds") == 1, job.said()
    assert "Traceback" not in job.said()


@pytest.mark.parametrize("stuck", [0, 1])
def test_a_rank_that_stands_still_in_an_evaluation_ends_the_other(
    starter, evaluating, tmp_path, stuck
):
    mark = tmp_path / "mark"
    arguments = evaluating, stuck, str(mark)
    job = starter.start(2, "facts:stands_still", *arguments, logs=tmp_path / "logs")
    other = job.starter.ask({"wait": [job.pids[1 - stuck]]})
    job.kill(signal.SIGKILL, slice(stuck, stuck + 1))
    job.starter.ask({"wait": [job.pids[stuck]]})
    assert mark.exists() and other == [1], job.said()
    assert job.said().count(f"{LOST} timeout = 4 seconds") == 1, job.said()


def test_a_rank_that_works_for_longer_than_the_timeout_is_waited_for(starter, evaluating, tmp_path):
    """8 videos of a second each, one after the other; the timeout is 4."""
    job = starter.start(2, "facts:reads_slowly", evaluating, 1, 1.0, logs=tmp_path / "logs")
    assert job.wait() == [0, 0], job.said()
    assert "16 of 16 scored" in job.said()


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ([], 2, "usage: python -m videohpm.launch N COMMAND"),
        (["--help"], 0, "usage: python -m videohpm.launch N COMMAND"),
        (["pretrain", "--config", "x"], 2, "videohpm.launch: N: 'pretrain'; give the number"),
        (["0", "pretrain"], 2, "videohpm.launch: N: '0'; give the number"),
        (["2"], 2, "videohpm.launch: N: '2'; give the number of processes, at least 1, and then"),
    ],
)
def test_the_launcher_says_how_it_is_called(words, code, said, capsys):
    assert launch.main(words) == code
    out = capsys.readouterr()
    assert (out.out + out.err).startswith(said) and "Traceback" not in out.err
