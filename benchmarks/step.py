"""One training step four ways, side by side: ``python benchmarks/step.py --quick``.

Prints a table; ``--json FILE`` and ``--chart FILE`` keep what was measured. README.md beside this
file says what came out, and what was expected.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from dataclasses import replace
from pathlib import Path

import torch
from arms import OTHER_ARMS, PARTS, SCORED, Case, make_arms
from clock import count_flops, load_average, matmul_rate, peak_memory

from videohpm.config import HPMConfig, MaskConfig, ModelConfig, OptimConfig, PretrainConfig
from videohpm.engine import EngineConfig, torch_device

CASES = {
    "small": {"model": {"arch": "vit_small"}, "batch": 8},
    "base": {"model": {"arch": "vit_base"}, "batch": 2},
    "large": {"model": {"arch": "vit_large"}, "batch": 1},
    "image": {"model": {"arch": "vit_base", "frames": 1, "tubelet": 1}, "ratio": 0.75, "batch": 8},
    "toy": {"model": {"arch": "vit_tiny", "image_size": 64}, "batch": 2},
}
ARMS = ("transformers", "plain", "hpm", "published")  # of the others only those asked for
QUICK_SECONDS = 160.0
QUICK_RATE = 120e9
"""Operations a second below which the quick run halves its batches, to end in time."""


def main(arguments: list[str] | None = None) -> dict:
    """Measure what the arguments ask for; prints the table and returns what the JSON holds."""
    args = _arguments(arguments)
    started = time.monotonic()
    clock = _choose_clock(args)
    torch.set_num_threads(args.threads)
    if args.quick and not args.batch:
        rate = matmul_rate(torch.device(args.device), torch.float32, clock)
        args.batch = 4 if rate < QUICK_RATE else None
    print(f"{args.threads} threads, {clock} clock, torch {torch.__version__}")
    results = []
    runs = [(name, precision) for name in args.cases for precision in args.precision]
    for number, (name, precision) in enumerate(runs):
        case = make_case(name, precision, args)
        share = (number + 1) / len(runs)
        ends = started + args.seconds * share if args.seconds else None
        result = measure(case, args.arms, clock, args.rounds, ends, args.encoder)
        results.append(result)
        print_table(result)
    said = {
        "machine": _machine(args, clock),
        "seconds": time.monotonic() - started,
        "ratios": summary(results),
        "cases": results,
    }
    if args.json:
        Path(args.json).write_text(json.dumps(said, indent=1) + "\n")
    if args.chart:
        from chart import draw

        draw(said, Path(args.chart))
    return said


def make_case(name: str, precision: str, args: argparse.Namespace) -> Case:
    """The case called ``name``, as the command line changes it."""
    chosen = CASES[name]
    config = PretrainConfig(
        model=ModelConfig(**chosen["model"]),
        mask=MaskConfig(ratio=chosen.get("ratio", 0.9)),
        engine=EngineConfig(device=args.device, precision=precision, compile=args.compile),
        optim=OptimConfig(global_batch_size=args.batch or chosen["batch"]),
        hpm=HPMConfig(),
    )
    for field in ("teacher_samples_per_tube", "predictor_depth"):
        if getattr(args, field) is not None:
            config = replace(config, hpm=replace(config.hpm, **{field: getattr(args, field)}))
    return Case(f"{name} {precision}", config)


def measure(
    case: Case,
    names: list[str],
    clock: str,
    rounds: int,
    ends: float | None = None,
    encoder: str | None = None,
) -> dict:
    """Rounds of one step of each arm in turn, so that what disturbs one disturbs all.

    Args:
        ends: no round is begun after this moment (of ``time.monotonic``), the first two excepted.
    """
    arms = make_arms(case.config, names, clock, encoder)
    device = torch_device(case.config.engine.device)
    facts = {}
    for name, arm in arms.items():
        facts[name] = {
            "parameters": sum(p.numel() for p in arm.engine.model.parameters()),
            "flops": count_flops(arm.step),  # and make the optimiser's state
            "peak_memory": peak_memory(arm.step, arm.held(), device),
        }
    seconds = {name: [] for name in arms}
    parts = {name: [] for name in arms}
    rates, loads = [], []
    for number in range(rounds):
        if ends and number >= 2 and time.monotonic() > ends:
            break
        loads.append(load_average())
        around = []
        for name, arm in arms.items():
            # The limit is that of the plain step, so the rate is that of the same moments.
            rated = name == "plain"
            around += [matmul_rate(device, case.dtype, clock)] if rated else []
            spent = arm.step()
            around += [matmul_rate(device, case.dtype, clock)] if rated else []
            parts[name].append(spent)
            seconds[name].append(sum(spent.values()))
        rates.append(statistics.mean(around or [matmul_rate(device, case.dtype, clock)]))
    batch = case.config.optim.global_batch_size
    for name in arms:
        facts[name] |= _times(seconds[name], parts[name], batch)
        facts[name]["limit_seconds"] = facts[name]["flops"] / statistics.median(rates)
    model = case.config.model
    return {
        "case": case.name,
        "arch": model.arch,
        "frames": model.frames,
        "image_size": model.image_size,
        "batch": batch,
        "rounds": len(rates),
        "load_average": loads,
        "matmul_rate": statistics.median(rates),
        "arms": facts,
        "ratios": ratios(facts, seconds, rates),
    }


def _times(seconds: list[float], parts: list[dict[str, float]], batch: int) -> dict:
    middle = statistics.median(seconds)
    return {
        "seconds": middle,
        "all_seconds": seconds,
        "clips_per_second": batch / middle,
        "parts": {
            part: statistics.median(spent.get(part, 0.0) for spent in parts) for part in PARTS
        },
    }


def ratios(facts: dict, seconds: dict[str, list[float]], rates: list[float]) -> dict[str, float]:
    """Medians, over the rounds, of one arm's time over another's in the same round."""

    def paired(above: list[float], below: list[float]) -> float:
        return statistics.median(a / b for a, b in zip(above, below, strict=True))

    said = {}
    for name, below in (
        ("hpm", "plain"),
        ("published", "plain"),
        ("published", "hpm"),
        ("plain", "transformers"),
        *((name, "plain") for name in (*SCORED, *OTHER_ARMS)),
    ):
        if name in seconds and below in seconds:
            said[f"{name}_over_{below}"] = paired(seconds[name], seconds[below])
    if "plain" in seconds:
        limits = [facts["plain"]["flops"] / rate for rate in rates]
        said["plain_over_limit"] = paired(seconds["plain"], limits)
        for name in seconds.keys() - {"plain"}:
            memory = facts[name]["peak_memory"] / facts["plain"]["peak_memory"]
            said[f"{name}_memory_over_plain"] = memory
            said[f"{name}_flops_over_plain"] = facts[name]["flops"] / facts["plain"]["flops"]
    return said


def summary(results: list[dict]) -> dict[str, float]:
    """The first case's ratios; those of other precisions of it with the precision in the name."""
    first, *others = results
    said = dict(first["ratios"])
    size = first["case"].split()[0]
    for other in others:
        name, precision = other["case"].split()
        if name == size:
            said |= {f"{key}_{precision}": value for key, value in other["ratios"].items()}
    return said


def print_table(result: dict) -> None:
    """One case: a line an arm, milliseconds of its parts, then the ratios."""
    print(
        f"\n{result['case']}: {result['arch']}, {result['frames']} frames of "
        f"{result['image_size']}, batch {result['batch']}, {result['rounds']} rounds; matrix "
        f"products {result['matmul_rate'] / 1e9:.0f} GFLOP/s; load {result['load_average']}"
    )
    head = ("step ms", "clips/s", *PARTS, "GFLOP", "limit ms", "peak MB")
    print(f"{'':14}" + "".join(f"{column:>11}" for column in head))
    for name, fact in result["arms"].items():
        numbers = [fact["seconds"] * 1e3, fact["clips_per_second"]]
        numbers += [fact["parts"][part] * 1e3 for part in PARTS]
        numbers += [fact["flops"] / 1e9, fact["limit_seconds"] * 1e3, fact["peak_memory"] / 1e6]
        print(f"{name:14}" + "".join(f"{x:>11.2f}" if x < 10 else f"{x:>11.0f}" for x in numbers))
    for name, value in result["ratios"].items():
        print(f"  {name:34} {value:.3f}")


def _choose_clock(args: argparse.Namespace) -> str:
    cores, load = os.cpu_count() or 1, load_average() or 0.0
    busy = args.clock == "auto" and args.device != "cuda" and load > cores / 2
    if busy:
        print(f"load {load} on {cores} cores: processor time of one thread instead of wall time")
    if args.threads is None:
        args.threads = 1 if busy or args.clock == "cpu" else torch.get_num_threads()
    return "cpu" if busy else args.clock.replace("auto", "wall")


def _machine(args: argparse.Namespace, clock: str) -> dict:
    return {
        "device": torch.cuda.get_device_name() if args.device == "cuda" else platform.machine(),
        "cores": os.cpu_count(),
        "threads": args.threads,
        "clock": clock,
        "torch": torch.__version__,
        "compile": args.compile,
    }


def _arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--quick", action="store_true", help="ViT-S only, within five minutes")
    add("--cases", nargs="+", choices=CASES, default=["small", "base", "image"])
    add("--precision", nargs="+", choices=("fp32", "bf16"), default=["fp32", "bf16"])
    add("--arms", nargs="+", choices=(*ARMS, *SCORED, *OTHER_ARMS), default=list(ARMS))
    add("--encoder", help="of the arm frozen_encoder, as model.target_encoder")
    add("--rounds", type=int, default=7)
    add("--seconds", type=float, help="begin no round later than this")
    add("--batch", type=int, help="clips of a step, instead of the case's")
    add("--teacher-samples-per-tube", type=float)
    add("--predictor-depth", type=int)
    add("--compile", action="store_true", help="our arms with engine.compile")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add("--threads", type=int)
    add("--clock", choices=("auto", "wall", "cpu"), default="auto", help="auto: cpu if it is busy")
    add("--json", metavar="FILE")
    add("--chart", metavar="FILE", help="bar chart, PNG")
    args = parser.parse_args(arguments)
    if "frozen_encoder" in args.arms and not args.encoder:
        parser.error("--encoder: the arm frozen_encoder needs one")
    if args.quick:
        args.cases, args.seconds = ["small"], args.seconds or QUICK_SECONDS
    return args


if __name__ == "__main__":
    main()
