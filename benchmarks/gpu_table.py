"""README.md of what gpu.sh found: ``python benchmarks/gpu_table.py FOLDER``."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from videohpm.config.plan import GPUS
from videohpm.plan.reading import FORMS

CASES = ("small", "base", "large")
CHECKS = ("tests", "stages", "compile", "resume")


def main(folder: Path) -> None:
    """Write FOLDER/README.md from the parts that are there."""
    parts = {file.stem: json.loads(file.read_text()) for file in sorted(folder.glob("*.json"))}
    if not parts:
        print(f"{folder}: no part has come to its end")
        return
    machine = next(iter(parts.values()))["machine"]
    lines = [
        f"# {machine['device']}",
        "",
        f"torch {machine['torch']}, CUDA {machine['cuda']}, {machine['cores']} CPU cores. "
        "Written by `benchmarks/gpu.sh`.",
    ]
    if machine["tiny"]:
        lines += [
            "",
            "Tiny sizes on a CPU, to see that everything runs: these are no measurements.",
        ]
    lines += ["", *checks(parts), "", *memory(parts), "", *steps(parts, machine)]
    (folder / "README.md").write_text("\n".join(lines).rstrip() + "\n")
    print(folder / "README.md")


def checks(parts: dict) -> list[str]:
    """A row for each check that passed, failed or was not made."""
    lines = ["| check | result |", "|---|---|"]
    for name in CHECKS:
        found = parts.get(name)
        if found is None:
            result = "not done"
        elif name == "tests":
            result = found["summary"].strip("= ")
        else:
            result = "passed" if found["ok"] else "FAILED"
            if "apart" in found:
                worst = found["apart"]
                worst = max(worst.values()) if isinstance(worst, dict) else worst
                result += f", losses at most {worst:.2g} apart"
        lines.append(f"| {name} | {result} |")
    return lines


def memory(parts: dict) -> list[str]:
    """The plan beside what the allocator gave out."""
    if "memory" not in parts:
        return ["Memory: not done."]
    lines = [
        "| a step of | clips | found, GB | plan, GB | plan over found |",
        "|---|---|---|---|---|",
    ]
    for name, row in parts["memory"]["memory"].items():
        found, plan = row["found"] / 1e9, row["plan"] / 1e9
        lines.append(f"| {name} | {row['clips']} | {found:.2f} | {plan:.2f} | {row['ratio']:.2f} |")
    return lines


def steps(parts: dict, machine: dict) -> list[str]:
    """The step table: how much of the peak is reached, and what the loader has to give."""
    per_core = FORMS["copy"].clips_per_second(frames=16)
    head = ("case", "arm", "step, ms", "clips/s", "TFLOP/s", "of measured products",
            "of data sheet", "peak, GB", "cores to read")  # fmt: skip
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for case in CASES:
        for kind in ("eager", "compiled"):
            for result in ((parts.get(f"step-{case}") or {}).get(kind) or {}).get("cases", []):
                for arm, fact in result["arms"].items():
                    rate = fact["flops"] / fact["seconds"]
                    sheet = peak_of(machine["device"], result["case"])
                    clips = fact["clips_per_second"]
                    row = (
                        f"{result['case']}, {kind}", arm, f"{fact['seconds'] * 1e3:.1f}",
                        f"{clips:.1f}", f"{rate / 1e12:.2f}", f"{rate / result['matmul_rate']:.0%}",
                        f"{rate / sheet:.0%}" if sheet else "", f"{fact['peak_memory'] / 1e9:.2f}",
                        f"{clips / per_core:.0f}",
                    )  # fmt: skip
                    lines.append(f"| {' | '.join(row)} |")
    what = "clips of 16 frames a second, of a copy of key frames alone"
    lines += ["", f"Cores to read: at {per_core:.0f} {what}."]
    return lines


def peak_of(device: str, case: str) -> float | None:
    """FLOP/s of the device by its data sheet, where it is known."""
    for name, gpu in GPUS.items():
        if name.split("_")[0].removeprefix("rtx") in device.lower().replace(" ", ""):
            return (gpu.bf16 if case.endswith("bf16") else gpu.fp32) or None
    return None


if __name__ == "__main__":
    main(Path(sys.argv[1]))
