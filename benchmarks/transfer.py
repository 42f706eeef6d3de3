#!/usr/bin/env python
"""Does pre-training help? Fine-tuning and frozen probes against untrained weights, same budget.

    python benchmarks/transfer.py --init runs/demo --seeds 0 1 2

Every run is a command of videohpm, started in turn in this process; what is done already is not
done again, so an interrupted comparison goes on. The table gives mean and spread (smallest to
largest) of validation top-1 over the seeds. A seed decides the order of the clips, their crops, the
head and all untrained weights; the pre-trained weights are the same for all of them unless --init
names one run for each seed. The linear probe has nothing random but the untrained encoder.
"""

import argparse
import json
import statistics
import sys
from pathlib import Path

from videohpm.cli import main as videohpm
from videohpm.data import find_samples

ROWS = ("fine-tuned", "linear", "attentive", "knn")


def fine_tune(args: argparse.Namespace, init: str, seed: int, scratch: bool) -> float:
    """Validation top-1 of one fine-tuning run."""
    folder = Path(args.out) / f"{'scratch' if scratch else 'finetune'}-{seed}"
    command = ["finetune", "--config", args.config, "--model.init", init]
    command += ["--model.scratch", str(scratch).lower()]
    command += ["--run.dir", str(folder), "--run.seed", str(seed)]
    if args.steps:
        command += ["--run.epochs", "null", "--run.steps", str(args.steps)]
    result = folder / "evaluation.json"
    if not (result.exists() and json.loads(result.read_text())["steps"] == args.steps):
        run(command + args.more)
    return json.loads(result.read_text())["top1"]


def probe(args: argparse.Namespace, init: str, seed: int, random: bool) -> dict[str, float]:
    """Validation top-1 of each probe."""
    folder = Path(args.out) / f"probe-{'random' if random else 'pretrained'}-{seed}"
    if not (folder / "probe.json").exists():
        command = ["probe", "--model", init, "--random", str(random).lower()]
        command += ["--train", args.train, "--validation", args.validation]
        command += ["--seed", str(seed), "--out", str(folder), "--workers", str(args.workers)]
        run(command + ["--epochs", str(args.probe_epochs)])
    result = json.loads((folder / "probe.json").read_text())["probes"]
    return {name: row["top1"] for name, row in result.items()}


def run(command: list[str]) -> None:
    """One command of videohpm; ends this program where it fails."""
    print("videohpm", " ".join(command), flush=True)
    code = videohpm(command)
    if code:
        sys.exit(code)


def table(found: dict[str, dict[str, list[float]]]) -> str:
    """Mean and spread of both columns, and of the difference seed by seed."""
    lines = [
        "| top-1, % | pre-trained | untrained | difference |",
        "|---|---|---|---|",
    ]
    for name in found:
        good, bad = found[name]["pretrained"], found[name]["untrained"]
        apart = [a - b for a, b in zip(good, bad, strict=True)]
        cells = " | ".join(map(spread, (good, bad, apart)))
        lines.append(f"| {name} | {cells} |")
    return "\n".join(lines)


def spread(values: list[float]) -> str:
    """``mean (smallest to largest)``."""
    return f"{statistics.mean(values):.1f} ({min(values):.1f} to {max(values):.1f})"


def main() -> None:
    """Run all that is missing, print the table and keep it in transfer.json."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--init", nargs="+", default=["runs/demo"], help="one run, or one a seed")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--config", default="configs/finetune/demo.yaml")
    parser.add_argument("--steps", type=int, help="of fine-tuning, instead of the config's epochs")
    parser.add_argument("--train", default="data/shapes/train.csv", help="for the probes")
    parser.add_argument("--validation", default="data/shapes/validation.csv")
    parser.add_argument("--probe-epochs", type=int, default=20)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--out", default="runs/transfer")
    args, args.more = parser.parse_known_args()
    if len(args.init) not in (1, len(args.seeds)):
        parser.error("--init: give one run, or one for each seed")
    inits = args.init * len(args.seeds) if len(args.init) == 1 else args.init
    found = {name: {"pretrained": [], "untrained": []} for name in args.rows}
    for init, seed in zip(inits, args.seeds, strict=True):
        for column in ("pretrained", "untrained"):
            scores = {}
            if set(args.rows) - {"fine-tuned"}:
                scores = probe(args, init, seed, column == "untrained")
            if "fine-tuned" in args.rows:
                scores["fine-tuned"] = fine_tune(args, init, seed, column == "untrained")
            for name in args.rows:
                found[name][column].append(scores[name])
    Path(args.out).mkdir(parents=True, exist_ok=True)
    tested = find_samples(None, args.validation, labels=True)
    about = {"seeds": args.seeds, "arguments": sys.argv[1:], "tested": len(tested), "top1": found}
    (Path(args.out) / "transfer.json").write_text(json.dumps(about, indent=2) + "\n")
    print(f"\n{table(found)}\n\n{len(args.seeds)} seeds; mean (smallest to largest)")
    print(f"{len(tested)} clips tested; chance {100 / len(set(tested.labels.tolist())):.1f}")


if __name__ == "__main__":
    main()
