"""How the cost of a step grows with the clip: ``python benchmarks/growth.py``.

One number changes at a time. The teacher and the relative objective must not grow faster than the
student's own step, or long clips would make mining dear.
"""

from __future__ import annotations

import argparse
import json
import statistics
from dataclasses import replace
from pathlib import Path

import torch
from arms import Ours
from clock import Clock, count_flops, load_average, peak_memory

from videohpm import hpm
from videohpm.config import MaskConfig, ModelConfig, OptimConfig, PretrainConfig
from videohpm.engine import EngineConfig, torch_device

SWEEPS = {
    "frames": ("model", "frames", (8, 16, 32, 64)),
    "image_size": ("model", "image_size", (112, 160, 224, 320)),
    "masked share": ("mask", "ratio", (0.6, 0.75, 0.9, 0.95)),
}
COLUMNS = ("tokens", "tubes", "student ms", "teacher ms", "ranking ms", "teacher %", "ranking %",
           "GFLOP", "peak MB")  # fmt: skip


def main(arguments: list[str] | None = None) -> dict[str, list[dict]]:
    """Print a table for each sweep; returns its rows."""
    args = _arguments(arguments)
    torch.set_num_threads(args.threads)
    found = {}
    for name in args.sweeps:
        section, field, values = SWEEPS[name]
        print(f"\n{name:>14}" + "".join(f"{column:>12}" for column in COLUMNS))
        found[name] = []
        for value in args.values or values:
            config = _base(args)
            config = replace(
                config, **{section: replace(getattr(config, section), **{field: value})}
            )
            row = measure(config, args.rounds, args.clock)
            found[name].append({name: value} | row)
            numbers = "".join(f"{row[column]:>12.4g}" for column in COLUMNS)
            print(f"{value:>14}{numbers}", flush=True)
    if args.json:
        Path(args.json).write_text(json.dumps({"load": load_average(), "sweeps": found}, indent=1))
    return found


def measure(config: PretrainConfig, rounds: int, kind: str) -> dict[str, float]:
    """One configuration: milliseconds of the student's work, the teacher's and the ranking's."""
    arm = Ours(config, kind)
    flops = count_flops(arm.step)
    peak = peak_memory(arm.step, arm.held(), arm.engine.device)
    steps = [arm.step() for _ in range(rounds)]
    teacher = statistics.median(parts["teacher"] for parts in steps)
    student = statistics.median(parts["forward"] + parts["backward"] for parts in steps)
    ranking = statistics.median(_ranking(config, kind) for _ in range(rounds))
    grid = config.model.grid()
    return {
        "tokens": grid.num_tokens,
        "tubes": grid.num_tubes,
        "student ms": student * 1e3,
        "teacher ms": teacher * 1e3,
        "ranking ms": ranking * 1e3,
        "teacher %": 100 * teacher / student,
        "ranking %": 100 * ranking / student,
        "GFLOP": flops / 1e9,
        "peak MB": peak / 1e6,
    }


def _ranking(config: PretrainConfig, kind: str) -> float:
    """Seconds of the relative objective, forward and backward."""
    count = hpm.masked_count(config.model.grid().num_tubes, config.mask.ratio)
    device = torch_device(config.engine.device)
    scores = torch.randn(config.optim.global_batch_size, count, device=device, requires_grad=True)
    losses = torch.rand_like(scores)
    clock = Clock(device, kind)
    clock.start()
    hpm.relative_loss(scores, losses).backward()
    clock.mark("ranking")
    return clock.parts()["ranking"]


def _base(args: argparse.Namespace) -> PretrainConfig:
    return PretrainConfig(
        model=ModelConfig(arch=args.size),
        mask=MaskConfig(ratio=0.9),
        engine=EngineConfig(device=args.device, precision=args.precision),
        optim=OptimConfig(global_batch_size=args.batch),
    )


def _arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--sweeps", nargs="+", choices=SWEEPS, default=list(SWEEPS))
    add("--values", nargs="+", type=int, help="instead of the sweep's own")
    add("--size", default="vit_small")
    add("--batch", type=int, default=1)
    add("--precision", choices=("fp32", "bf16"), default="fp32")
    add("--rounds", type=int, default=3)
    add("--threads", type=int, default=1)
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add("--clock", choices=("wall", "cpu"), default="cpu", help="cpu: processor time")
    add("--json", metavar="FILE")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
