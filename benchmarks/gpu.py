"""One part of what gpu.sh does: ``python benchmarks/gpu.py PART --out FOLDER [--tiny]``.

Writes FOLDER/PART.json when the part has come to its end, and not before.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import step
import torch
from arms import Ours, make_batch
from clock import peak_memory
from PIL import Image

from videohpm import hpm
from videohpm.config import MaskConfig, ModelConfig, OptimConfig, PretrainConfig
from videohpm.engine import EngineConfig, make_engine, process_group, torch_device
from videohpm.hpm import LossTeacher
from videohpm.models import MaskedAutoencoder
from videohpm.plan import PlanConfig, memory_of
from videohpm.pretrain import train_step

ROOT = Path(__file__).resolve().parents[1]
TINY = {"arch": "vit_tiny", "frames": 4, "image_size": 32, "patch": 8, "depth": 2}
ON_GPU = torch.cuda.is_available()
STEPS, CLOSE = 5, 0.02
"""Training steps that are compared, and how far losses in bf16 may be apart."""
CLIPS = {"small": 64, "base": 64, "large": 32}
"""A GPU's clips at a time."""
SECONDS = 110.0
"""Of a table's rounds, eager and compiled each."""


def config_of(tiny: bool, arch: str = "vit_base", clips: int = 16, **engine) -> PretrainConfig:
    """A run on random clips of a ViT, or of a tiny one."""
    model = TINY if tiny else {"arch": arch}
    return PretrainConfig(
        model=ModelConfig(**model),
        mask=MaskConfig(ratio=0.75 if tiny else 0.9),
        optim=OptimConfig(global_batch_size=2 if tiny else clips),
        engine=EngineConfig(**{"precision": "bf16", "grad_accum_steps": 1} | engine),
    )


def losses_of(config: PretrainConfig) -> list[float]:
    """Of a few steps on the same clips from the same weights."""
    torch.manual_seed(0)
    model = MaskedAutoencoder(config.model_config(), config.engine.checkpoint_activations)
    teacher = LossTeacher(model, config.teacher_samples)
    target = hpm.TARGETS[config.model.target](model.grid, config)
    engine = make_engine(model, config.engine, config.optim)
    engine.attach_ema(teacher)
    batch = make_batch(config).to(engine.device)
    options = {"hard_ratio": 0.0, "momentum": 0.9, "lr": 1e-4}
    return [
        float(train_step(engine, teacher, target, [batch], config, **options)["loss"])
        for _ in range(STEPS)
    ]


def apart(losses: list[float], others: list[float]) -> float:
    """The largest relative difference."""
    return max(abs(a / b - 1) for a, b in zip(losses, others, strict=True))


def tests(tiny: bool) -> dict:
    """The tests that are marked gpu."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider"]
    where = ["tests/test_speed_paths.py"] if tiny else ["tests"]
    done = subprocess.run([*command, *where], cwd=ROOT, capture_output=True, text=True)
    if done.returncode not in (0, 5):  # 5: there are none
        print(done.stdout[-4000:], done.stderr[-2000:])
    return {"code": done.returncode, "summary": done.stdout.strip().splitlines()[-1]}


def stages(tiny: bool) -> dict:
    """Losses of plain torch, and of DeepSpeed's stages in one process (over NCCL on a GPU)."""
    plain = losses_of(config_of(tiny))
    found = {"plain": plain}
    first = config_of(tiny, zero_stage=0)
    with process_group(first.engine, first.optim.global_batch_size):
        for stage in range(4):
            config = replace(first, engine=replace(first.engine, zero_stage=stage))
            found[f"stage {stage}"] = losses_of(config)
    differences = {name: apart(losses, plain) for name, losses in found.items()}
    return {"losses": found, "apart": differences, "ok": max(differences.values()) < CLOSE}


def compile(tiny: bool) -> dict:
    """Compiled blocks beside plain ones; in the tiny form nothing is compiled."""
    if tiny:
        return {"compiled": False, "ok": True}
    begun = time.monotonic()
    losses = losses_of(config_of(tiny)), losses_of(config_of(tiny, compile=True))
    seconds = time.monotonic() - begun
    return {
        "compiled": True, "losses": losses, "apart": apart(*losses), "seconds": seconds,
        "ok": apart(*losses) < CLOSE,
    }  # fmt: skip


def memory(tiny: bool) -> dict:
    """Bytes at the fullest moment of a step, and what the plan says of them."""
    device, found = torch_device("auto"), {}
    for arch in ("small", "base", "large"):
        for recompute in (False, True):
            clips = CLIPS[arch]
            config = config_of(tiny, f"vit_{arch}", clips, checkpoint_activations=recompute)
            arm = Ours(config, "wall")
            arm.step()
            peak = peak_memory(arm.step, arm.held(), device)
            sections = {name: getattr(config, name) for name in PretrainConfig.__dataclass_fields__}
            plan = memory_of(PlanConfig(**sections, gpus=1), 0).total
            found[f"{arch}{', recomputed' if recompute else ''}"] = {
                "clips": config.optim.global_batch_size, "found": peak, "plan": plan,
                "ratio": plan / peak,
            }  # fmt: skip
            del arm
            if ON_GPU:
                torch.cuda.empty_cache()
        if tiny:
            break
    return {"memory": found, "ok": tiny or all(0.9 < x["ratio"] < 1.1 for x in found.values())}


def resume(tiny: bool) -> dict:
    """A run of the command line that is cut in two, beside one that is not."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "images").mkdir()
        noise = np.random.default_rng(0)
        for number in range(32):
            pixels = noise.integers(256, size=(64, 64, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"images/{number}.png")
        words = [
            "pretrain", "--data.root", folder / "images", "--model.frames", 1, "--model.tubelet", 1,
            "--model.image_size", 64, "--model.arch", "vit_tiny", "--optim.global_batch_size", 8,
            "--run.log_every", 1, "--run.picture_every", 0, "--run.save_every", 3,
            "--run.steps", 6, "--mask.ratio", 0.75, "--data.workers", 1,
        ]  # fmt: skip
        command = [sys.executable, "-m", "videohpm", *map(str, words), "--run.dir"]

        def losses(run: str) -> list[float]:
            subprocess.run([*command, folder / run], check=True, stdout=subprocess.DEVNULL)
            lines = (folder / run / "metrics.jsonl").read_text().splitlines()
            return [json.loads(line)["loss"] for line in lines]

        runs = {"whole": losses("whole")}
        shutil.copytree(folder / "whole", folder / "cut")
        shutil.rmtree(folder / "cut/checkpoints/step_00000006")  # as if it had ended before
        runs["cut"] = losses("cut")
    difference = apart(runs["cut"], runs["whole"])
    return {"losses": runs, "apart": difference, "ok": difference < CLOSE}


def table(case: str, tiny: bool) -> dict:
    """The step, transformers' beside ours, in fp32 and bf16, plain and compiled."""
    have = importlib.util.find_spec("transformers") is not None
    arms = ["--arms", *(("transformers",) if have else ()), "plain", "hpm", "published"]
    if tiny:
        words = ["--cases", "toy", "--rounds", "2", "--device", "cpu", "--precision", "fp32"]
        return {"eager": step.main([*words, *arms]), "compiled": None}
    words = ["--cases", case, "--rounds", "9", "--seconds", str(SECONDS), "--clock", "wall"]
    words += ["--batch", str(CLIPS[case])]
    return {
        "eager": step.main([*words, *arms]),
        "compiled": step.main([*words, *arms, "--compile"]),
    }


PARTS = {
    "tests": tests,
    "stages": stages,
    "compile": compile,
    "memory": memory,
    "resume": resume,
} | {f"step-{case}": lambda tiny, case=case: table(case, tiny) for case in CLIPS}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tiny", action="store_true")
    args = parser.parse_args()
    begun = time.monotonic()
    found = PARTS[args.part](args.tiny or not ON_GPU)
    found["machine"] = {
        "device": torch.cuda.get_device_name() if ON_GPU else platform.machine(),
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda if ON_GPU else None,
        "tiny": args.tiny or not ON_GPU,
    }
    found["seconds_of_part"] = time.monotonic() - begun
    partial = args.out / f"{args.part}.json.part"
    partial.write_text(json.dumps(found, indent=1) + "\n")
    partial.rename(args.out / f"{args.part}.json")
    return 0 if found.get("ok", True) and found.get("code", 0) in (0, 5) else 1


if __name__ == "__main__":
    sys.exit(main())
