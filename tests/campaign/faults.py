"""What goes wrong, when, and how a command may end then."""

from __future__ import annotations

import random
import re
import shutil
import signal
from dataclasses import dataclass, field
from pathlib import Path

from starts import HANG
from work import Work

SIGNALS = {"kill": signal.SIGKILL, "term": signal.SIGTERM, "usr1": signal.SIGUSR1,
           "int": signal.SIGINT}  # fmt: skip
DAMAGE = ("flipped bit", "cut file", "empty file", "missing file", "empty folder")
KINDS = {"kill": 4, "term": 3, "usr1": 2, "int": 2, "full disk": 2, "damage": 2}
"""And how often each is chosen."""
FORKED, REAL = "forked", ("program", "launcher", "torchrun")
ENDS = {"term": 75, "usr1": 75, "int": 130}
WHY = "another of the|videohpm: (interrupted|stopped by)"
ROOM = "could not be written|Make room|[Nn]o room|No space|File too large"


@dataclass
class Fault:
    """One fault: a kind of :data:`KINDS`, the ranks it meets, and the share of a run before it."""

    kind: str
    ranks: list[int]
    moment: float
    in_checkpoint: bool = False
    limits: dict[str, str] = field(default_factory=dict)

    @classmethod
    def draw(cls, chance: random.Random, work: Work, how: str, run: Path) -> Fault:
        """A fault at random. Full disks need forked ranks, damage two checkpoints."""
        possible = dict(KINDS)
        if how != FORKED:
            del possible["full disk"]
        if not work.trains or len(folders(run)) < 2:
            del possible["damage"]
        kind = chance.choices(list(possible), list(possible.values()))[0]
        ranks = list(range(work.world))
        if chance.random() < 0.5:
            ranks = [chance.choice(ranks)]
        limits = {}
        if kind == "full disk":
            limits["FILE_LIMIT"] = str(int(10 ** chance.uniform(1.5, 5)))
        in_checkpoint = work.trains and chance.random() < 0.25
        return cls(kind, ranks, chance.uniform(0, 1.1), in_checkpoint, limits)

    @property
    def number(self) -> int | None:
        """The signal that is sent; None where none is."""
        return SIGNALS.get(self.kind)


def folders(run: Path) -> list[Path]:
    """A run's checkpoints, oldest first."""
    return sorted(
        path
        for path in (run / "checkpoints").glob("step_*")
        if re.fullmatch(r"step_\d{8}", path.name)
    )


def damage(chance: random.Random, run: Path) -> str:
    """Spoil the newest checkpoint of a run; returns how."""
    newest, how = folders(run)[-1], chance.choice(DAMAGE)
    file = chance.choice(sorted(newest.glob("*.safetensors")))
    if how == "flipped bit":
        data = bytearray(file.read_bytes())
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        file.write_bytes(data)
    elif how == "cut file":
        with file.open("r+b") as opened:
            opened.truncate(chance.randrange(file.stat().st_size))
    elif how == "empty file":
        file.write_bytes(b"")
    elif how == "missing file":
        file.unlink()
    else:
        shutil.rmtree(newest)
        newest.mkdir()
    return how


def wrong_end(fault: Fault, how: str, codes: list, said: str, begun: bool) -> str | None:
    """What is wrong with how a command ended; None where that is as promised.

    Args:
        begun: whether our program had come to its first line, as far as is known.
    """
    if HANG in codes:
        return None  # counted apart
    before_us = fault.number is not None and not begun  # then Python says what it says
    if "Traceback (most recent call last)" in _ours(said, how) and not before_us:
        return "a traceback"
    allowed = _allowed(fault, how)
    if before_us:
        allowed |= {-fault.number, 1}  # 1: of Python, where Ctrl-C falls into its own start
    others = [code for code in codes if code not in allowed]
    if others:
        return f"exit codes {codes}"
    if how == FORKED and 1 in codes and fault.number is not None and not re.search(WHY, said):
        return "code 1 without saying why"
    told = how != FORKED or 0 not in fault.ranks or "videohpm:" in said
    if not told and {*ENDS.values()} & {*codes}:
        return f"exit codes {codes} without saying why"
    limit = int(fault.limits.get("FILE_LIMIT", 0))
    cut_off = len(said.encode()) >= limit - 300  # the log is on that disk too
    if fault.kind == "full disk" and 1 in codes and not cut_off and not re.search(ROOM, said):
        return "a full disk, but something else was said"
    return None


def _allowed(fault: Fault, how: str) -> set[int]:
    """Exit codes: 0 where it was done before; 1 of ranks that another one left."""
    codes = {0}
    if fault.number is None:
        return codes | ({1} if fault.kind == "full disk" else set())
    if how == "torchrun":  # ends with 1 whatever its processes returned
        return codes | {1, 128 + fault.number, -fault.number}
    if fault.kind == "kill":
        codes |= {-signal.SIGKILL, 1, 128 + signal.SIGKILL}
        return codes
    codes.add(ENDS[fault.kind])
    return codes | ({1} if how == FORKED and len(fault.ranks) == 1 else set())


def _ours(said: str, how: str) -> str:
    """What our program said; torchrun adds tracebacks of its own."""
    return said.partition("torch/distributed/elastic")[0] if how == "torchrun" else said
