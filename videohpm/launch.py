"""Start a command on all GPUs of one machine: ``python -m videohpm.launch N COMMAND …``.

What torchrun does for one machine, with two differences: the exit code is the command's own
(torchrun ends with 1 whatever it was), and nothing is added to what the command prints. On several
machines use torchrun, the ``deepspeed`` launcher or Slurm.
"""

from __future__ import annotations

import os
import signal
import sys
import time

from videohpm.stopping import HELD, LAUNCHER

NAMES = {number.value: number.name for number in signal.Signals}
GRACE = 60.0
"""Seconds that the others get to end by themselves once one process has failed."""


class Ranks:
    """The processes of a run on this machine.

    SIGTERM, SIGINT and SIGUSR1 are passed on to them. When one fails, the others notice; those that
    have not ended after :data:`GRACE` are killed. On Linux they stop, as after SIGTERM, where this
    process is killed.
    """

    def __init__(self, count: int, arguments: list[str]):
        # What comes while they are started waits until all are there, and they until they handle
        # it: they inherit what is held, and release it in videohpm.stopping.begin.
        signal.pthread_sigmask(signal.SIG_BLOCK, HELD)
        import subprocess

        self.processes: list[subprocess.Popen] = []
        shared = {
            "WORLD_SIZE": count,
            "LOCAL_WORLD_SIZE": count,
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": _unused_port(),
            LAUNCHER: os.getpid(),
        }
        # As torchrun does: many processes with a thread for every core each would be slow.
        shared |= {} if "OMP_NUM_THREADS" in os.environ else {"OMP_NUM_THREADS": 1}
        for rank in range(count):
            own = shared | {"RANK": rank, "LOCAL_RANK": rank}
            self.processes.append(
                subprocess.Popen(
                    [sys.executable, "-m", "videohpm", *arguments],
                    env=os.environ | {name: str(value) for name, value in own.items()},
                    start_new_session=True,  # so that Ctrl-C reaches it once, through us
                )
            )
        for number in HELD:
            signal.signal(number, self._pass_on)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD)

    def _pass_on(self, number: int, _frame) -> None:
        for process in self.processes:
            process.send_signal(number)

    def wait(self) -> int:
        """Until all have ended; returns the exit code of the one that failed first, 0 without.

        Says which were ended by a signal, and by which.
        """
        code, deadline, told = 0, None, set()
        while True:
            codes = [process.poll() for process in self.processes]
            failed = [found for found in codes if found]
            for rank, found in enumerate(codes):
                if found is not None and found < 0 and rank not in told:
                    told.add(rank)
                    name = NAMES.get(-found, f"signal {-found}")
                    print(f"videohpm: rank {rank} was ended by {name}", file=sys.stderr)
            if failed and deadline is None:
                code, deadline = failed[0], time.monotonic() + GRACE
            if None not in codes:
                # As a shell does: 128 + N of a process that signal N ended.
                return 128 - code if code < 0 else code
            if deadline is not None and time.monotonic() > deadline:
                for process in self.processes:
                    process.kill()
            time.sleep(0.1)


def _unused_port() -> int:
    import socket

    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return unused.getsockname()[1]


def main(arguments: list[str]) -> int:
    """``N COMMAND …``: start N processes and return the exit code of the first that fails."""
    usage = "usage: python -m videohpm.launch N COMMAND [options]"
    if not arguments or arguments[0] in ("-h", "--help"):
        print(f"{usage}\n\nStarts COMMAND on N GPUs of this machine, one process each.")
        return 0 if arguments else 2
    count, *command = arguments
    if not count.isdecimal() or int(count) < 1 or not command:
        what = f"N: {count!r}; give the number of processes, at least 1, and then the command"
        print(f"videohpm.launch: {what}\n{usage}", file=sys.stderr)
        return 2
    return Ranks(int(count), command).wait()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
