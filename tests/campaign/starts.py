"""Ways to start a command on one or two processes, to disturb it, and to wait for its end."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from several import Starter, running  # noqa: E402

HANG = "hang"


class Forked:
    """Ranks forked from a process that has imported all: cheap, and a program from there on."""

    def __init__(self, starter: Starter, world: int, words: list[str], logs: Path, **limits: str):
        self.job = starter.start(world, "facts:program", words, logs=logs, **limits)
        self.pids, self.logs = self.job.pids, self.job.logs

    def begun(self, ranks: list[int]) -> bool:
        """Whether these have come to the line from which they handle SIGTERM."""
        return all(_handles_signals(self.pids[rank]) for rank in ranks)

    def send(self, number: int, ranks: list[int]) -> None:
        for rank in ranks:
            _kill(self.pids[rank], number)

    def alive(self) -> bool:
        return any(running(pid) for pid in self.pids)

    def wait(self, seconds: float) -> list[int | str]:
        deadline = time.monotonic() + seconds
        while self.alive() and time.monotonic() < deadline:
            time.sleep(0.01)
        late = self.alive()
        if late:
            self.job.kill(signal.SIGKILL)
        codes = self.job.wait()
        return [HANG] * len(codes) if late else codes

    def said(self) -> str:
        return self.job.said()


class Program:
    """A command as a user types it: python -m videohpm, our launcher, or torchrun."""

    def __init__(self, how: str, world: int, words: list[str], logs: Path, **limits: str):
        logs.mkdir(parents=True, exist_ok=True)
        start = {
            "program": ["-m", "videohpm"],
            "launcher": ["-m", "videohpm.launch", str(world)],
            "torchrun": ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node",
                         str(world), "-m", "videohpm"],
        }[how]  # fmt: skip
        self.log = logs / "log"
        environment = os.environ | {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"} | limits
        with self.log.open("w") as out:
            self.process = subprocess.Popen(
                [sys.executable, *start, *words], stdout=out, stderr=out, env=environment,
                start_new_session=True, preexec_fn=_heed_interrupts,
            )  # fmt: skip
        self.how = how

    def begun(self, ranks: list[int]) -> bool:
        """Whether what was started has come to that line; torchrun, which is not ours, to ranks."""
        if self.how == "torchrun":
            return bool(self._ranks())
        return _handles_signals(self.process.pid)

    def send(self, number: int, ranks: list[int]) -> None:
        """To the process that was started; SIGKILL of several to those that it started."""
        children = self._ranks()
        direct = [signal.SIGKILL] + [signal.SIGUSR1] * (self.how == "torchrun")  # it ends by that
        if number in direct and self.how != "program":
            for rank in ranks:
                if rank < len(children):
                    _kill(children[rank], number)
        else:
            _kill(self.process.pid, number)

    def alive(self) -> bool:
        return self.process.poll() is None

    def wait(self, seconds: float) -> list[int | str]:
        try:
            return [self.process.wait(seconds)]
        except subprocess.TimeoutExpired:
            for pid in self._ranks():
                _kill(pid, signal.SIGKILL)
            self.process.kill()
            self.process.wait()
            return [HANG]

    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def _ranks(self) -> list[int]:
        listed = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        try:
            found = [int(pid) for pid in listed.read_text().split()]
        except OSError:
            return []
        return [pid for pid in found if "videohpm" in _command(pid)]


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return ""


def _handles_signals(pid: int) -> bool:
    """Whether a process has come to the line from which it handles SIGTERM, or holds it back."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return True
    if re.search(r"^State:\s*Z", status, re.M):  # it has ended
        return True
    masks = re.findall(r"^Sig(?:Blk|Ign|Cgt):\s*([0-9a-f]+)", status, re.M)
    return any(int(mask, 16) & 1 << 14 for mask in masks)


def _kill(pid: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def _heed_interrupts() -> None:
    """Shells let programs in the background ignore SIGINT, and children inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
