"""Start several ranks of videohpm cheaply: a process that has imported everything forks them.

Importing torch and DeepSpeed takes most of the time of a short run, and every rank of every restart
would pay it. A forked rank differs from a launched one only in that: it has an environment and a
session of its own, and ends as an interpreter ends.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

LIMIT = 240  # seconds after which a stuck test is ended


@dataclass
class Job:
    """Ranks that were started together."""

    starter: Starter
    pids: list[int]
    logs: list[Path]

    def wait(self) -> list[int]:
        """Exit codes by rank; minus the signal's number where one ended it."""
        return self.starter.ask({"wait": self.pids})

    def kill(self, number: int = signal.SIGKILL, ranks: slice = slice(None)) -> None:
        """Send a signal to the processes of some ranks, all by default."""
        for pid in self.pids[ranks]:
            os.kill(pid, number)

    def said(self) -> str:
        """What all ranks printed."""
        return "".join(log.read_text() for log in self.logs)


def running(pid: int) -> bool:
    """Whether a process has not ended, though nobody may have waited for it."""
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0] != "Z"


class Starter:
    """The process that forks ranks. Use it in a ``with`` statement."""

    def __enter__(self) -> Starter:
        environment = os.environ | {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
        for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
            environment.pop(name, None)
        self.process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        return self

    def __exit__(self, *_) -> None:
        self.process.stdin.close()
        self.process.wait()

    def ask(self, request: dict):
        print(json.dumps(request), file=self.process.stdin, flush=True)
        return json.loads(self.process.stdout.readline())

    def start(self, world: int, target: str, *arguments, logs: Path, **environment: str) -> Job:
        """Call ``target`` (module:function) in each of ``world`` ranks.

        Args:
            arguments: plain JSON values.
            logs: folder for what each rank prints.
            environment: variables for all ranks.
        """
        logs.mkdir(parents=True, exist_ok=True)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        files = [logs / f"rank{rank}.log" for rank in range(world)]
        for file in files:
            file.write_text("")
        common = {"WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        pids = self.ask(
            {
                "target": target,
                "arguments": arguments,
                "logs": [str(file) for file in files],
                "environments": [
                    (common | {"RANK": str(rank), "LOCAL_RANK": str(rank)} if world > 1 else {})
                    | environment
                    for rank in range(world)
                ],
            }
        )
        return Job(self, pids, files)

    def videohpm(self, world: int, *arguments: object, logs: Path, **environment: str) -> Job:
        """Start ranks of the command line."""
        words = [str(word) for word in arguments]
        return self.start(world, "videohpm.cli:main", words, logs=logs, **environment)


def _child(target: str, arguments: list, log: str, environment: dict[str, str]) -> None:
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in a shell's background
    os.environ.update(environment)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for number in (1, 2):
        os.dup2(output, number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.stdin = os.fdopen(0, closefd=False)
    module, _, name = target.partition(":")
    sys.exit(getattr(importlib.import_module(module), name)(*arguments))


def _wait(pids: list[int]) -> list[int]:
    codes = []
    signal.alarm(LIMIT)
    try:
        for pid in pids:
            codes.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    except TimeoutError:
        for pid in pids[len(codes) :]:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            codes.append(f"still there after {LIMIT} seconds")
    finally:
        signal.alarm(0)
    return codes


def _timeout(*_) -> None:
    raise TimeoutError


def main() -> None:
    import deepspeed.runtime.zero.muon.muon_optimizer  # noqa: F401
    import torch.utils.tensorboard  # noqa: F401

    import videohpm.evaluate
    import videohpm.finetune
    import videohpm.pretrain  # noqa: F401

    signal.signal(signal.SIGALRM, _timeout)
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    sys.path.insert(0, str(Path(__file__).parent / "engine"))
    while line := sys.stdin.readline():
        request = json.loads(line)
        if "wait" in request:
            reply = _wait(request["wait"])
        else:
            reply = []
            importlib.import_module(request["target"].partition(":")[0])  # once, for all ranks
            for log, environment in zip(request["logs"], request["environments"], strict=True):
                pid = os.fork()
                if pid == 0:
                    signal.signal(signal.SIGALRM, signal.SIG_DFL)
                    replies.close()
                    _child(request["target"], request["arguments"], log, environment)
                reply.append(pid)
        print(json.dumps(reply), file=replies, flush=True)


if __name__ == "__main__":
    main()
