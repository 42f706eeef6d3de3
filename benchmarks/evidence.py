#!/usr/bin/env python
"""Does mining hard tubes help? Arms at equal budgets, many seeds, on real pictures.

    python benchmarks/evidence.py images --pictures data/cifar10
    python benchmarks/evidence.py clips --pictures data/cifar10
    python benchmarks/evidence.py images --arms random predict hpm --seeds 0-19
    python benchmarks/evidence.py power            # how many seeds a difference needs
    python benchmarks/evidence.py table            # tables and figure, from what is there

Pictures are a folder of train/CLASS/*.jpg and test/CLASS/*.jpg (CIFAR-10 saved from torchvision,
say). ``images`` trains on them as they are; ``clips`` on videos in which pictures of one class
move over other pictures.

Every pair of arm and seed is trained, judged and written to its own file under --out before the
next begins; what is there is not done again, so it can be stopped and started at will, and several
may run in the same folder. Arms of one seed see the same clips in the same order and begin with
the same encoder and decoder. Weights stay under --weights; where only a result file is removed,
the judging alone is done again. On a GPU --steps, --batch, --train and --seeds make it larger.
README.md beside this file says what came out.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import torch
from evidence_arms import ARMS, KINDS, usual
from evidence_data import Data, load_clips, load_pictures
from evidence_diagnose import diagnose
from evidence_judge import fine_tuned, probes
from evidence_table import power, write_tables
from evidence_train import Method, Trained, common_config, train, with_statistics

from videohpm.errors import UserError

RESULTS = Path(__file__).parent / "results/evidence"
STEPS = 2000
"""With half of them, whether clips' features hold motion still depends on the seed."""
BATCH = {"images": 128, "clips": 32}
JUDGED = {"images": 20_000, "clips": 4096}
TUNE_STEPS = 150
SETTINGS = {
    "images": ("steps", "batch", "probe_clips", "tune_steps"),
    "clips": ("steps", "batch", "train", "validation", "probe_clips", "tune_steps"),
}


def main(arguments: list[str] | None = None) -> int:
    """Do what is missing, then write the tables; a user's mistake is one line and exit code 2."""
    given = sys.argv[1:] if arguments is None else arguments
    args = _arguments(given)
    try:
        if args.what in KINDS:
            if args.workers > 1:
                _in_parallel(given, args.workers)
            else:
                work_off(args)
        if args.worker:
            return 0
        print(power(args.out) if args.what == "power" else write_tables(args.out))
    except UserError as error:
        print(f"evidence.py: {error}", file=sys.stderr)
        return 2
    return 0


def work_off(args: argparse.Namespace) -> None:
    """Every pair of arm and seed that is neither done nor being done by another process."""
    torch.set_num_threads(args.threads)
    folder, data = args.out / args.what, None
    folder.mkdir(parents=True, exist_ok=True)
    for seed in args.seeds:
        for name in args.arms:
            with Claim(folder / f"{name}-{seed}.json") as claim:
                if claim.free:
                    data = data or _load(args)
                    claim.write(run(name, seed, data, args))


def _load(args: argparse.Namespace) -> Data:
    if args.what == "images":
        return load_pictures(args.pictures)
    return load_clips(args.data, args.train, args.validation, args.pictures)


class Claim:
    """One result file, and the right to make it: ``free`` unless it is there or being made.

    The right ends with the process, however that ends.
    """

    def __init__(self, path: Path):
        self.path, self.free = path, False

    def __enter__(self) -> Claim:
        lock = self.path.with_suffix(".lock")
        self.file = open(lock, "w")  # held until __exit__
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.free = not self.path.exists()
        except BlockingIOError:
            pass
        return self

    def write(self, result: dict) -> None:
        """The file, complete or not at all."""
        unfinished = self.path.with_suffix(".part")
        unfinished.write_text(json.dumps(result, indent=1) + "\n")
        unfinished.replace(self.path)

    def __exit__(self, *_) -> None:
        self.file.close()


def run(name: str, seed: int, data: Data, args: argparse.Namespace) -> dict:
    """Train one arm with one seed and judge it: all that is known of it, as JSON holds it."""
    arm = ARMS["random" if name == "untrained" else name]
    steps = arm.steps(args.steps, args.what)
    common = with_statistics(
        common_config(args.what, steps, args.batch, args.device), data["train"]
    )
    config = arm.config(common)
    if name == "untrained":
        torch.manual_seed(seed)
        trained = Trained(Method.of(config), [], 0.0)
        trained.method.model.eval()
    else:
        kept = args.weights / args.what / f"{name}-{seed}.pt"
        if not kept.exists():
            kept.parent.mkdir(parents=True, exist_ok=True)
            train(arm, common, data, seed, steps).save(kept)
        trained = Trained.load(kept, config)
    begun = time.process_time()
    model = trained.method.model
    found = probes(model.encoder, data, config, args.probe_clips)
    if args.tune_steps:
        tuned = fine_tuned(model, data, config, seed, args.tune_steps)
        found = {split: found[split] | tuned[split] for split in found}
    result = {
        "data": args.what,
        "arm": name,
        "seed": seed,
        "settings": {key: getattr(args, key) for key in SETTINGS[args.what]} | {"steps": steps},
        "top1": found,
        "diagnostics": diagnose(trained.method, data["validation"], config),
        "curve": trained.curve,
        "processor_seconds": {
            "training": trained.processor_seconds,
            "judging": time.process_time() - begun,
        },
        "machine": {"device": _device(args), "threads": args.threads, "torch": torch.__version__},
    }
    numbers = ", ".join(f"{key} {value:.1f}" for key, value in found["validation"].items())
    print(f"{args.what} {name} {seed}: {trained.processor_seconds:.0f} s; {numbers}", flush=True)
    return result


def _in_parallel(arguments: list[str], workers: int) -> None:
    """The same command in as many processes, which share the work."""
    command = [sys.executable, __file__, *arguments, "--workers", "1", "--worker"]
    processes = [subprocess.Popen(command) for _ in range(workers)]
    try:
        codes = [process.wait() for process in processes]
    finally:
        for process in processes:
            process.terminate()
            process.wait()
    if any(codes):
        raise UserError("a worker failed; its message is above")


def _device(args: argparse.Namespace) -> str:
    if args.device == "cuda":
        return torch.cuda.get_device_name()
    return f"{platform.machine()}, {os.cpu_count()} cores"


def _seeds(text: str) -> list[int]:
    first, _, last = text.partition("-")
    return list(range(int(first), int(last or first) + 1))


def _arguments(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add("what", choices=(*KINDS, "power", "table"))
    add("--pictures", type=Path, default=Path("data/cifar10"), help="folder of train/ and test/")
    add("--arms", nargs="+", choices=(*ARMS, "untrained"), help="all that the data allow if empty")
    add("--seeds", nargs="+", type=_seeds, default=[[0, 1, 2]], help="numbers, or ranges as 0-9")
    add("--steps", type=int, default=STEPS, help="of pre-training")
    add("--batch", type=int, help=f"clips of a step; {BATCH} if empty")
    add("--train", type=int, default=4096, help="training clips; of pictures all are taken")
    add("--validation", type=int, default=4096, help="clips, half of them for the test")
    add("--probe-clips", type=int, help=f"training clips the probes see; {JUDGED} if empty")
    add("--tune-steps", type=int, default=TUNE_STEPS, help="of fine-tuning; 0 for none")
    add("--workers", type=int, default=os.cpu_count() or 1, help="processes")
    add("--threads", type=int, default=1, help="of each process")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cpu or cuda")
    add("--data", type=Path, default=Path("data/moving-pictures"), help="folder of clips, made")
    add("--out", type=Path, default=RESULTS, help="folder of the results")
    add("--weights", type=Path, default=Path("runs/evidence"), help="trained weights")
    add("--worker", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    args.seeds = sorted({seed for part in args.seeds for seed in part})
    if args.what in KINDS:
        args.arms = args.arms or ["untrained", *usual(args.what)]
        args.batch = args.batch or BATCH[args.what]
        args.probe_clips = args.probe_clips or JUDGED[args.what]
    return args


if __name__ == "__main__":
    sys.exit(main())
