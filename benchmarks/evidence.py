#!/usr/bin/env python
"""Does mining hard tubes help? Ways to mask, equal budgets, several seeds, on the shapes.

    python benchmarks/evidence.py --quick       # random tubes against HPM: 31 minutes on one core
    python benchmarks/evidence.py               # all arms: 4 hours on one core
    python benchmarks/evidence.py --image       # image mode: half an hour
    python benchmarks/evidence.py --table       # only the tables, from what is there

Every pair of arm and seed is trained, judged and written to its own file under --out before the
next begins; what is there is not done again, so it can be stopped and started, and several may run
at once in the same folder: two on two cores take half the time. Weights stay under --weights; where
only a result file is removed, the judging alone is done again. Arms of one seed see the same clips
in the same order and begin with the same encoder and decoder. On a GPU --steps, --batch, --train
and --seeds make it larger. README.md beside this file says what came out.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from pathlib import Path

import torch
from evidence_arms import ARMS, IMAGE, MAIN, QUICK
from evidence_judge import diagnose, fine_tuned, probes
from evidence_table import draw_curves, tables
from evidence_train import Clips, Trained, common_config, load_clips, train

from videohpm.models import MaskedAutoencoder

RESULTS = Path(__file__).parent / "results"


def main(arguments: list[str] | None = None) -> None:
    """Do what is missing, then print the tables and write them beside the results."""
    args = _arguments(arguments)
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    data = None
    arms = args.arms if args.quick else ["untrained", *args.arms]
    missing = [(seed, name) for seed in args.seeds for name in arms]
    for seed, name in [] if args.table else missing:
        with Claim(args.out / f"{name}-{seed}.json") as claim:
            if claim.free:
                data = data or load_clips(args.data, args.train, args.validation, args.object)
                claim.write(run(name, seed, data, args))
    text = tables(args.out)
    (args.out / "README.md").write_text(text)
    draw_curves(args.out)
    print(text)


class Claim:
    """One result file, and the right to make it: ``free`` unless it is there or being made."""

    def __init__(self, path: Path):
        self.path, self.lock = path, path.with_suffix(".running")
        self.free = False

    def __enter__(self) -> Claim:
        if not self.path.exists():
            try:
                self.lock.touch(exist_ok=False)
                self.free = True
            except FileExistsError:
                print(f"{self.lock}: another process works on it; remove the file if none does")
        return self

    def write(self, result: dict) -> None:
        unfinished = self.path.with_suffix(".part")
        unfinished.write_text(json.dumps(result, indent=1) + "\n")
        unfinished.replace(self.path)

    def __exit__(self, *_) -> None:
        if self.free:
            self.lock.unlink()


def run(name: str, seed: int, data: dict[str, Clips], args: argparse.Namespace) -> dict:
    """Train one arm with one seed and judge it: all that is known of it, as JSON holds it."""
    common = common_config(args.steps, args.batch, args.image, args.device)
    arm = ARMS["random" if name == "untrained" else name]
    if name == "untrained":
        config = common
        torch.manual_seed(seed)
        model = MaskedAutoencoder(config.model_config())
        trained = Trained(model.eval(), None, None, [], 0.0)
    else:
        config = arm.config(common)
        kept = args.weights / f"{name}-{seed}.pt"
        if not kept.exists():
            kept.parent.mkdir(parents=True, exist_ok=True)
            train(arm, common, data["train"], seed, args.steps).save(kept)
        trained = Trained.load(kept, arm, config)
    begun = time.perf_counter()
    found = probes(trained.model.encoder, data, config, args.probe_clips, seed)
    if args.tune_steps:
        found |= fine_tuned(trained.model, data, config, seed, args.tune_steps)
    result = {
        "arm": name,
        "seed": seed,
        "settings": {key: getattr(args, key) for key in SETTINGS},
        "top1": found,
        "diagnostics": diagnose(trained, data["validation"], config),
        "curve": trained.curve,
        "seconds": {"training": trained.seconds, "judging": time.perf_counter() - begun},
        "machine": {"device": _device(args), "threads": args.threads, "torch": torch.__version__},
    }
    numbers = ", ".join(f"{key} {value:.1f}" for key, value in found.items())
    print(f"{name} {seed}: {result['seconds']}; {numbers}", flush=True)
    return result


SETTINGS = (
    "steps", "batch", "image", "train", "validation", "object", "probe_clips", "tune_steps",
)  # fmt: skip


def _device(args: argparse.Namespace) -> str:
    if args.device == "cuda":
        return torch.cuda.get_device_name()
    return f"{platform.machine()}, {os.cpu_count()} cores"


def _arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add("--quick", action="store_true", help="only random tubes against HPM")
    add("--image", action="store_true", help="single frames: tubes are patches")
    add("--table", action="store_true", help="train nothing, only put together what is there")
    add("--arms", nargs="+", choices=ARMS, help="instead of the usual ones")
    add("--seeds", nargs="+", type=int, default=[0, 1, 2])
    add("--steps", type=int, default=600, help="of pre-training")
    add("--batch", type=int, default=32, help="clips of a step")
    add("--train", type=int, default=2048, help="training clips")
    add("--validation", type=int, default=1024, help="validation clips")
    add("--object", type=float, default=1.75, help="of the shapes, see their --object")
    add("--probe-clips", type=int, default=1024, help="training clips that the probes see")
    add("--tune-steps", type=int, default=200, help="of fine-tuning; 0 for none")
    add("--threads", type=int, default=1)
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add("--data", type=Path, help="folder of the shapes, made where it is missing")
    add("--out", type=Path, help="folder of the results")
    add("--weights", type=Path, help="folder of trained weights, to judge them again")
    args = parser.parse_args(arguments)
    if args.arms is None:
        args.arms = QUICK if args.quick else IMAGE if args.image else MAIN
    args.data = args.data or Path(f"data/shapes-{args.train}-{args.object:g}")
    name = "evidence-image" if args.image else "evidence"
    args.out = args.out or RESULTS / name
    args.weights = args.weights or Path("runs") / name
    return args


if __name__ == "__main__":
    main()
