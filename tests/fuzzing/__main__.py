"""Mutated inputs for everything that reads foreign bytes.

    python tests/fuzzing --inputs 1000                  # a minute
    python tests/fuzzing --inputs 100000 --json fuzzing.json
    python tests/fuzzing --only manifest --seed 12 --inputs 1    # one of them again

Every input must be read, or be refused in one line, as the program refuses it. Each parser runs in
a process of its own with little memory and no network; an input that ends that process, or takes
too long, is named by its number. Decoders of videos may end it: the program reads videos in such
processes too. Linux only. The last line is the count.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import random
import resource
import signal
import socket
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path

from parsers import Parser, make_parsers

ROOM = 2 << 30
"""Bytes that a process may take beyond what it starts with."""
SECONDS = 30
"""For one input."""


class NetworkUsed(Exception):
    """Something wanted to reach another machine."""


def guard() -> None:
    """Nothing here may reach the network, take much memory, or speak."""

    def refuse(*_, **__):
        raise NetworkUsed

    socket.socket.connect = socket.socket.connect_ex = refuse
    socket.create_connection = socket.getaddrinfo = refuse
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * os.sysconf("SC_PAGE_SIZE") + ROOM
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    warnings.simplefilter("ignore")
    logging.disable()
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)


def feed(name: str, parser: Parser, numbers: list[int], folder: Path, out: int) -> None:
    """In a process of its own: a line to ``out`` before each input, and after a wrong one."""
    guard()
    for number in numbers:
        os.write(out, f"{number}\n".encode())
        signal.alarm(SECONDS)
        try:
            parser.feed(random.Random(f"{name} {number}"), folder)
        except NetworkUsed:
            os.write(out, f"{number} network\n".encode())
        except MemoryError:
            os.write(out, f"{number} memory\n".encode())
        except BaseException as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            place = f"{Path(last.filename).name}:{last.lineno}"
            text = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            os.write(out, f"{number} traceback {place} {text}\n".encode())
        signal.alarm(0)
    os._exit(0)


def run(name: str, parser: Parser, numbers: list[int], folder: Path) -> dict:
    """Feed all ``numbers``, in as many processes as that takes."""
    found = {"inputs": 0, "tracebacks": [], "memory": [], "network": [], "ended": [], "late": []}
    most = 0
    while numbers:
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reading)
            feed(name, parser, numbers, folder, writing)
        os.close(writing)
        with os.fdopen(reading) as lines:
            said = lines.read().splitlines()
        _, status, used = os.wait4(child, 0)
        most = max(most, used.ru_maxrss)
        seen = [line for line in said if " " not in line]
        for line in said:
            number, _, what = line.partition(" ")
            kind = what.partition(" ")[0]
            if kind == "traceback":
                found["tracebacks"].append(f"{number}: {what[10:]}")
            elif kind:
                found[kind].append(number)
        code = os.waitstatus_to_exitcode(status)
        if code:
            kind = "late" if code == -signal.SIGALRM else "ended"
            found[kind].append(f"{seen[-1]}: {code}")
        found["inputs"] += len(seen)
        numbers = numbers[len(seen) :]
    return found | {"largest_gb": round(most / 1e6, 2)}


def last_line(found: dict[str, dict]) -> str:
    """The count, in one line."""
    total = sum(each["inputs"] for each in found.values())
    kinds = ("tracebacks", "memory", "network", "late")
    bad = {kind: sum(len(each[kind]) for each in found.values()) for kind in kinds}
    ended = sum(len(each["ended"]) for name, each in found.items() if name != "video")
    crashed = len(found.get("video", {}).get("ended", ()))
    return (
        f"{total} inputs over {len(found)} parsers: {bad['tracebacks']} tracebacks, "
        f"{bad['memory']} over the memory bound, {bad['network']} network calls, {bad['late']} "
        f"over {SECONDS} s, {ended} ended processes ({crashed} of decoders of videos besides)"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--inputs", type=int, default=1000, help="over all parsers")
    parser.add_argument("--seed", type=int, default=0, help="number of the first input")
    parser.add_argument("--only", help="name of one parser")
    parser.add_argument("--json", type=Path, help="file for what was found")
    given = parser.parse_args()
    root, found, bad = Path(__file__).resolve().parents[2], {}, 0
    with tempfile.TemporaryDirectory(prefix="fuzzing-") as folder:
        parsers = make_parsers(Path(folder) / "made", root)
        if given.only:
            parsers = {given.only: (parsers[given.only][0], 1.0)}
        for name, (each, share) in parsers.items():
            begin = time.monotonic()
            place = Path(folder) / name.replace(" ", "-")
            place.mkdir()
            count = max(1, round(given.inputs * share))
            found[name] = run(name, each, list(range(given.seed, given.seed + count)), place)
            print(f"{name}: {count} inputs, {time.monotonic() - begin:.0f} s", flush=True)
            for kind in ("tracebacks", "memory", "network", "late", "ended"):
                some = found[name][kind]
                bad += len(some) if (name, kind) != ("video", "ended") else 0
                if some:
                    print(f"  {len(some)} {kind}: {'; '.join(some[:5])}", flush=True)
            if given.json:
                given.json.write_text(json.dumps(found, indent=2) + "\n")
    print(last_line(found))
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
