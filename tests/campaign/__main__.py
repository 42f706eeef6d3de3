"""Faults at random moments, compared with what nothing disturbed; counts by kind.

    python tests/campaign --faults 100                        # a few minutes
    python tests/campaign --hours 1 --json campaign.json      # adds to what the file holds
    python tests/campaign --faults 20 --seed 7                # the same faults again

Signals (kill -9, SIGTERM, SIGUSR1, SIGINT), full disks and damaged checkpoints meet pre-training,
fine-tuning, evaluation and features of tiny models, in one process and in two, started in turns as
``python -m videohpm``, by our launcher, by torchrun, and, because that is cheaper, forked from a
process that has imported everything. Each run is disturbed again and again, then left to end, and
must have left the same steps, losses and weights, bit by bit. A run that waits for more than
``engine.timeout`` + 30 seconds is a hang. Linux only. The last line is the count over all
invocations.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from faults import FORKED, REAL, Fault, damage, folders, wrong_end
from starts import HANG, Forked, Program, Starter
from work import TIMEOUT, WORKS, Place, Work, compared

HERE = Path(__file__).resolve().parent
MOST = 10
"""Faults in one run."""
GRACE = 30.0
EMPTY = {"faults": {}, "works": {}, "starts": {}, "runs": 0, "lost_steps": 0, "differing": 0,
         "hangs": 0, "wrong_ends": 0, "before_python": 0, "seconds": 0, "problems": []}  # fmt: skip


class Campaign:
    """Runs and what they came to."""

    def __init__(self, place: Place, starter: Starter, count: dict, real: float):
        self.place, self.starter, self.count, self.real = place, starter, count, real
        self.lengths: dict[tuple[str, str], float] = {}

    def start(self, work: Work, how: str, out: Path, **limits: str) -> Forked | Program:
        """Start a command."""
        words, logs = self.place.words(work, out), out.with_name(f"{out.name}-logs")
        shutil.rmtree(logs, ignore_errors=True)
        if how == FORKED:
            return Forked(self.starter, work.world, words, logs, **limits)
        return Program(how, work.world, words, logs, **limits)

    def undisturbed(self, work: Work) -> None:
        """Make what ``work`` is compared with, once."""
        out = self.place.reference(work)
        done = out.with_name(f"{out.name}-done")
        if done.exists():
            return
        if work.command in ("evaluate", "features"):
            self.undisturbed(Work("finetune", 1))
        shutil.rmtree(out, ignore_errors=True)
        begin = time.monotonic()
        started = self.start(work, FORKED, out)
        codes = started.wait(600)
        if set(codes) != {0}:
            raise SystemExit(f"{work.name}, undisturbed: {codes}\n{started.said()}")
        done.write_text(str(time.monotonic() - begin))

    def run(self, chance: random.Random, folder: Path) -> int:
        """Disturb one run until it is done; returns the number of faults."""
        work = chance.choices([work for work, _ in WORKS], [often for _, often in WORKS])[0]
        self.undisturbed(work)
        out, kinds, faults = folder / "run", [], chance.randint(1, MOST)
        for _ in range(faults):
            how = FORKED
            if chance.random() < self.real:
                how = "program" if work.world == 1 else chance.choice(REAL[1:])
            kinds.append(self.disturb(chance, work, how, out))
            for name, value in (("works", work.name), ("starts", how)):
                self.count[name][value] = self.count[name].get(value, 0) + 1
        started = self.start(work, FORKED, out)
        codes = started.wait(600)
        if set(codes) != {0}:
            self.problem("wrong_ends", work, folder, kinds, f"{codes} at last: {started.said()}")
        else:
            lost, differing = compared(work, out, self.place.reference(work))
            if lost:
                self.problem("lost_steps", work, folder, kinds, f"{lost} steps", lost)
            if differing:
                self.problem("differing", work, folder, kinds, str(differing), len(differing))
        self.count["runs"] += 1
        return faults

    def disturb(self, chance: random.Random, work: Work, how: str, out: Path) -> str:
        """One start and one fault; returns what it was."""
        fault = Fault.draw(chance, work, how, out)
        detail = f" ({damage(chance, out)})" if fault.kind == "damage" else ""
        before = folders(out)
        started = self.start(work, how, out, **fault.limits)
        begin = time.monotonic()
        if fault.number is not None:
            self._wait_for_moment(fault, work, how, started, out)
            after, begun = time.monotonic() - begin, started.begun(fault.ranks)
            started.send(fault.number, fault.ranks)
        else:
            after, begun = 0.0, True
        codes = started.wait(TIMEOUT + GRACE if fault.number is not None else 600)
        what = f"{fault.kind}{detail} at {after:.2f} s of {how}, ranks {fault.ranks}: {codes}"
        self.count["faults"][fault.kind] = self.count["faults"].get(fault.kind, 0) + 1
        if HANG in codes:
            self.problem("hangs", work, out.parent, [what], started.said())
        wrong = wrong_end(fault, how, codes, started.said(), begun)
        if not wrong:
            wrong = _saved_less(codes, started.said(), out, before, bool(detail))
        if wrong:
            self.problem("wrong_ends", work, out.parent, [what], f"{wrong}: {started.said()}")
        elif not begun:
            self.count["before_python"] += 1
        return what

    def problem(
        self, name: str, work: Work, folder: Path, kinds: list[str], text: str, many: int = 1
    ) -> None:
        """Note what must not happen; the run stays where it is."""
        self.count[name] += many
        line = f"{name}: {work.name} in {folder}: {'; '.join(kinds)}: {text[-2000:]}"
        self.count["problems"].append(line)
        print(line, flush=True)

    def _wait_for_moment(self, fault: Fault, work: Work, how: str, started, out: Path) -> None:
        known = float(self.place.reference(work).with_name(
            f"{self.place.reference(work).name}-done").read_text())  # fmt: skip
        imports = 0.0 if how == FORKED else 1.5 * known
        end = time.monotonic() + fault.moment * (known + imports)
        while started.alive() and time.monotonic() < end:
            time.sleep(0.002)
        while fault.in_checkpoint and started.alive():
            if any((out / "checkpoints").glob(".partial_*/*")):
                break
            time.sleep(0.0005)


def _saved_less(codes: list, said: str, out: Path, before: list[Path], damaged: bool) -> str | None:
    """What a command said it saved and is not there, or a checkpoint that went."""
    after = [path.name for path in folders(out)]
    told = re.findall(r"asked to stop, saved after step (\d+)", said)
    if told and f"step_{int(told[-1]):08d}" not in after:
        return f"step {told[-1]} was to be saved"
    if before and not damaged and (not after or after[-1] < before[-1].name):
        return f"{before[-1].name} is gone"
    return None


def last_line(count: dict) -> str:
    """The count, in one line."""
    total = sum(count["faults"].values())
    kinds = ", ".join(f"{count['faults'][kind]} {kind}" for kind in sorted(count["faults"]))
    return (
        f"{total} faults ({kinds}) in {count['runs']} runs: {count['lost_steps']} lost steps, "
        f"{count['differing']} differing values, {count['hangs']} hangs, "
        f"{count['wrong_ends']} wrong ends"
    )


def save(file: Path, count: dict) -> None:
    """The file of counts, complete at any moment."""
    partial = file.with_name(f".{file.name}.partial")
    partial.write_text(json.dumps(count, indent=2) + "\n")
    os.replace(partial, file)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--faults", type=int, default=10**9, help="end after so many")
    parser.add_argument("--hours", type=float, default=1000.0, help="end after so long")
    parser.add_argument("--seed", type=int, help="of the first run; by default what comes next")
    parser.add_argument("--json", type=Path, help="counts are added to this file")
    parser.add_argument("--folder", type=Path, help="for the runs, kept; a temporary one if not")
    parser.add_argument("--real", type=float, default=0.15, help="share of starts not forked")
    given = parser.parse_args()
    count = json.loads(json.dumps(EMPTY))
    if given.json and given.json.exists():
        count |= json.loads(given.json.read_text())
    temporary = tempfile.mkdtemp(prefix="campaign-") if given.folder is None else None
    folder = (given.folder or Path(str(temporary))).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    prepare = HERE.parents[1] / "datasets/shapes/prepare.py"
    sizes = ["--train", "16", "--validation", "8", "--workers", "1"]
    subprocess.run(
        [sys.executable, prepare, "--out", folder / "shapes", *sizes],
        check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    begin = counted = time.monotonic()
    done, number = 0, count["runs"] if given.seed is None else given.seed
    with Starter() as starter:
        campaign = Campaign(Place(folder, folder / "shapes"), starter, count, given.real)
        while done < given.faults and time.monotonic() - begin < 3600 * given.hours:
            run, problems = folder / f"run{number:06d}", len(count["problems"])
            shutil.rmtree(run, ignore_errors=True)
            run.mkdir()
            done += campaign.run(random.Random(number), run)
            number += 1
            count["seconds"] += round(time.monotonic() - counted)
            counted = time.monotonic()
            if len(count["problems"]) == problems:
                shutil.rmtree(run)
            if given.json:
                save(given.json, count)
    if temporary and not count["problems"]:
        shutil.rmtree(folder)
    print(last_line(count))
    return int(bool(count["problems"]))


if __name__ == "__main__":
    sys.exit(main())
