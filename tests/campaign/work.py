"""What is disturbed: commands of the real command line, and how their results are compared."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import yaml
from safetensors import safe_open

STEPS, SAVE_EVERY = 20, 3
TIMEOUT = 60
"""engine.timeout of all commands, seconds."""
MODEL = {"arch": "vit_tiny", "frames": 4, "image_size": 32, "patch": 8, "dim": 24, "depth": 1,
         "heads": 2}  # fmt: skip
RUN = {"steps": STEPS, "log_every": 1, "save_every": SAVE_EVERY, "keep": 3}
OPTIM = {"global_batch_size": 4, "base_lr": 1e-2, "warmup_steps": 2}
ENGINE = {"device": "cpu", "precision": "fp32", "timeout": float(TIMEOUT)}


@dataclass(frozen=True)
class Work:
    """One command, on so many processes.

    ``stage`` is that of ZeRO; None without DeepSpeed.
    """

    command: str
    world: int
    stage: int | None = None

    @property
    def name(self) -> str:
        zero = "" if self.stage is None else f" ZeRO-{self.stage}"
        return f"{self.command} x{self.world}{zero}"

    @property
    def trains(self) -> bool:
        return self.command in ("pretrain", "finetune")


WORKS = [
    (Work("pretrain", 1), 10),
    (Work("pretrain", 2, 1), 3),
    (Work("pretrain", 2, 3), 1),
    (Work("finetune", 1), 5),
    (Work("finetune", 2, 1), 1),
    (Work("evaluate", 1), 2),
    (Work("evaluate", 2), 1),
    (Work("features", 1), 2),
    (Work("features", 2), 1),
]
"""And how often each is chosen."""


class Place:
    """A folder with data, configurations, and what nothing disturbed."""

    def __init__(self, folder: Path, shapes: Path):
        self.folder, self.shapes = folder, shapes
        folder.mkdir(parents=True, exist_ok=True)
        self.pretraining = self._write("pretrain", {
            "run": RUN | {"picture_every": 0},
            "data": {"root": str(shapes / "train"), "workers": 0, "stride": 2},
            "model": MODEL | {
                "decoder_dim": 16, "decoder_depth": 1, "decoder_heads": 2, "drop_path": 0.2,
                "target": "raw",
            },
            "mask": {"ratio": 0.75},
            "hpm": {"momentum_start": 0.9, "momentum_steps": 10},
            "optim": OPTIM,
            "engine": ENGINE,
        })  # fmt: skip
        self.finetuning = self._write("finetune", {
            "run": RUN,
            "data": {"manifest": str(shapes / "train-shape.csv"), "workers": 0, "stride": 2},
            "validation": {"manifest": str(shapes / "validation-shape.csv"), "every_steps": 8},
            "test": {"clips": 1, "batch": 4},
            "model": MODEL | {"tubelet": 2, "drop_path": 0.1},
            "optim": OPTIM,
            "augment": {"rand_augment": ""},
            "engine": ENGINE,
        })  # fmt: skip

    def reference(self, work: Work) -> Path:
        """Where the undisturbed results of ``work`` lie."""
        return self.folder / "reference" / work.name.replace(" ", "-")

    def words(self, work: Work, out: Path) -> list[str]:
        """The command line that leaves its results in ``out``."""
        model = self.reference(Work("finetune", 1))
        listed = str(self.shapes / "validation-shape.csv")
        if work.command == "evaluate":
            return [
                "evaluate", "--model", str(model), "--out", str(out), "--device", "cpu",
                "--data.manifest", listed, "--data.workers", "0", "--test.clips", "2",
                "--timeout", str(TIMEOUT),
            ]  # fmt: skip
        if work.command == "features":
            return [
                "features", str(model), str(out), "--manifest", listed, "--shard", "2",
                "--workers", "0", "--device", "cpu", "--timeout", str(TIMEOUT),
            ]  # fmt: skip
        config = self.pretraining if work.command == "pretrain" else self.finetuning
        zero = [] if work.stage is None else ["--engine.zero_stage", str(work.stage)]
        return [work.command, "--config", str(config), "--run.dir", str(out), *zero]

    def _write(self, name: str, settings: dict) -> Path:
        path = self.folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(settings))
        return path


def steps_of(run: Path) -> list[tuple[int, float]]:
    """(step, loss) of each line of a run's metrics that has a loss."""
    file = run / "metrics.jsonl"
    lines = file.read_text().splitlines() if file.exists() else []
    rows = [json.loads(line) for line in lines if line]
    return [(row["step"], row["loss"]) for row in rows if "loss" in row]


def compared(work: Work, found: Path, reference: Path) -> tuple[int, list[str]]:
    """Steps that are missing, and names of what differs from the undisturbed results."""
    lost, differing = 0, []
    if work.trains:
        mine, theirs = steps_of(found), steps_of(reference)
        lost = len({step for step, _ in theirs} - {step for step, _ in mine})
        if mine != theirs:
            differing.append("metrics.jsonl")
        patterns = [f"checkpoints/step_{STEPS:08d}/*.safetensors", "best/*.safetensors"]
    else:
        patterns = ["*.csv", "*.safetensors"]
    if work.command in ("finetune", "evaluate"):
        same = [_without_paths(run / "evaluation.json") for run in (found, reference)]
        differing += [] if same[0] == same[1] else ["evaluation.json"]
    for pattern in patterns:
        names = {path.relative_to(run) for run in (found, reference) for path in run.glob(pattern)}
        for name in sorted(names):
            files = [run / name for run in (found, reference)]
            if not all(file.exists() for file in files):
                differing.append(f"{name} (missing)")
            elif _contents(files[0]) != _contents(files[1]):
                differing.append(str(name))
    return lost, differing


def _contents(file: Path) -> object:
    """What a file holds; the order of a safetensors header's metadata differs between processes."""
    if file.suffix != ".safetensors":
        return file.read_bytes()
    with safe_open(file, "np") as opened:
        names = sorted(opened.keys())
        arrays = [(name, opened.get_tensor(name)) for name in names]
        return [(name, a.dtype, a.shape, a.tobytes()) for name, a in arrays], opened.metadata()


def _without_paths(file: Path) -> dict:
    values = json.loads(file.read_text())
    return {name: value for name, value in values.items() if name != "model"}
