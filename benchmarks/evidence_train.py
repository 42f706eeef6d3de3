"""The training of one arm of evidence.py: the library's step on clips held in memory."""

from __future__ import annotations

import csv
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import torch
import torch.nn.functional as F
import yaml
from evidence_arms import Arm
from torch import Tensor

from videohpm import hpm
from videohpm.config import HPMConfig, MaskConfig, ModelConfig, OptimConfig, PretrainConfig
from videohpm.data import Batch
from videohpm.engine import EngineConfig, TorchEngine, torch_device
from videohpm.hpm import LossTeacher, Scorer
from videohpm.models import MaskedAutoencoder
from videohpm.pretrain import schedule, train_step

STRIDE = 2
MOTIONS = 8  # label = 8 * shape + motion
ROOT = Path(__file__).parents[1]
DEMO, SHAPES = ROOT / "configs/pretrain/demo.yaml", ROOT / "datasets/shapes/prepare.py"


@dataclass
class Clips:
    """A split of the shapes: every frame, the class of each clip, and where its object is."""

    frames: Tensor  # uint8 (n, 3, F, H, W)
    labels: dict[str, Tensor]  # "shape", "motion" and "both": int64 (n,)
    cover: Tensor  # (n, F, H/4, W/4) in [0, 1], share of each cell that is object

    def at(self, rows: Tensor, start: Tensor, frames: int) -> Tensor:
        """(B, 3, frames, H, W): clips that begin at ``start``, every second frame."""
        steps = start[:, None] + STRIDE * torch.arange(frames)
        return self.frames.transpose(1, 2)[rows[:, None], steps].transpose(1, 2)


def common_config(steps: int, batch: int, image: bool, device: str) -> PretrainConfig:
    """What all arms share: the demo's model and recipe, over another number of steps."""
    demo = yaml.safe_load(DEMO.read_text())
    model = demo["model"] | ({"frames": 1, "tubelet": 1} if image else {})
    return PretrainConfig(
        model=ModelConfig(**model),
        mask=MaskConfig(**demo["mask"]),
        hpm=HPMConfig(**demo["hpm"]),
        optim=OptimConfig(
            **demo["optim"] | {"global_batch_size": batch, "warmup_steps": steps // 12}
        ),
        engine=EngineConfig(device=device),
    )


def load_clips(folder: Path, train: int, validation: int, scale: float) -> dict[str, Clips]:
    """The shapes with objects of ``scale``, made where they are missing, decoded once."""
    subprocess.run(
        [sys.executable, SHAPES, "--out", folder, "--train", str(train),
         "--validation", str(validation), "--object", str(scale)],
        check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    return {split: _load_split(folder, split) for split in ("train", "validation")}


def _load_split(folder: Path, split: str) -> Clips:
    with open(folder / f"{split}.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    clips = torch.stack([_decode(folder / row["path"]) for row in rows])
    both = torch.tensor([int(row["label"]) for row in rows])
    cover = torch.from_numpy(np.load(folder / f"objects-{split}.npz")["cover"]).float() / 255
    labels = {"shape": both // MOTIONS, "motion": both % MOTIONS, "both": both}
    return Clips(clips, labels, cover)


def _decode(path: Path) -> Tensor:
    with av.open(str(path)) as file:
        frames = [frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)]
    return torch.from_numpy(np.stack(frames)).permute(3, 0, 1, 2)


def make_batch(clips: Clips, config: PretrainConfig, seed: int, step: int) -> Batch:
    """The batch of a step: the same clips, cuts and random part of the masks for every arm."""
    count, batch = len(clips.frames), config.optim.global_batch_size
    epoch, first = divmod(step * batch, count)
    order = torch.randperm(count, generator=_random(seed, 1, epoch))
    rows = order[first : first + batch]
    generator = _random(seed, 2, step)
    frames = config.model.frames
    last = clips.frames.shape[2] - STRIDE * (frames - 1)
    start = torch.randint(last, (len(rows),), generator=generator)
    return Batch(
        clips=cropped(clips.at(rows, start, frames), generator),
        shuffle_ids=random_part(len(rows), config, generator),
        labels=clips.labels["both"][rows],
        index=rows,
        bad=[],
    )


def cropped(clips: Tensor, generator: torch.Generator) -> Tensor:
    """Each clip uncropped or a random square of 7/8 of its side, resized: the demo's crops."""
    side = clips.shape[-1]
    small = side * 7 // 8
    out = clips.clone()
    for index in range(len(clips)):
        take, top, left = (
            int(torch.randint(n, (), generator=generator))
            for n in (2, side - small + 1, side - small + 1)
        )
        if take:
            part = clips[index, :, :, top : top + small, left : left + small]
            frames = part.transpose(0, 1).float()
            resized = F.interpolate(frames, (side, side), mode="bilinear", antialias=True)
            out[index] = resized.round().clamp(0, 255).to(clips.dtype).transpose(0, 1)
    return out


def random_part(count: int, config: PretrainConfig, generator: torch.Generator) -> Tensor:
    """The shuffle_ids of so many clips."""
    units = hpm.unit_count(config.model.grid(), config.mask.unit)
    return hpm.random_shuffle_ids(count, units, generator)


def _random(*key: int) -> torch.Generator:
    return torch.Generator().manual_seed(int(np.random.SeedSequence(key).generate_state(1)[0]))


@dataclass
class Trained:
    """What a training leaves: the model, its teacher, and a row of numbers every few steps."""

    model: MaskedAutoencoder
    teacher: LossTeacher | None
    scorer: Scorer | None
    """What chooses hard tubes: made of the teacher."""
    curve: list[dict[str, float]]
    seconds: float

    def save(self, path: Path) -> None:
        """Weights, curve and seconds as one file, which appears when it is complete."""
        teacher = None if self.teacher is None else self.teacher.state_dict()
        kept = {"model": self.model.state_dict(), "teacher": teacher}
        torch.save(kept | {"curve": self.curve, "seconds": self.seconds}, f"{path}.part")
        Path(f"{path}.part").replace(path)

    @classmethod
    def load(cls, path: Path, arm: Arm, config: PretrainConfig) -> Trained:
        """What was saved of an arm, whose configuration is ``config``."""
        kept = torch.load(path, map_location=torch_device(config.engine.device), weights_only=True)
        model, teacher = make_models(config)
        model.load_state_dict(kept["model"])
        if teacher is not None:  # files of before hold "now.*" too, the student's weights again
            weights = kept["teacher"].items()
            teacher.load_state_dict({k: v for k, v in weights if not k.startswith("now.")})
        scorer = make_scorer(arm, config, model, teacher)
        return cls(model.eval(), teacher, scorer, kept["curve"], kept["seconds"])


def make_models(config: PretrainConfig) -> tuple[MaskedAutoencoder, LossTeacher | None]:
    """Student and teacher, untrained."""
    model = MaskedAutoencoder(config.model_config(), config.engine.checkpoint_activations)
    teacher = None
    if config.hpm.enabled:
        teacher = LossTeacher(model, config.teacher_samples, config.hpm.score_readout)
    return model, teacher


def make_scorer(
    arm: Arm, config: PretrainConfig, model: MaskedAutoencoder, teacher: LossTeacher | None
) -> Scorer | None:
    """What chooses an arm's hard tubes; ``config`` is the arm's own."""
    if teacher is None or config.scorer != "loss_teacher":
        return hpm.SCORERS[config.scorer](model, config)
    return teacher if arm.scorer is None else arm.scorer(teacher, model)


def train(arm: Arm, common: PretrainConfig, clips: Clips, seed: int, steps: int) -> Trained:
    """Pre-train one arm. The encoder and pixel decoder begin alike for every arm of a seed."""
    config, begun = arm.config(common), time.perf_counter()
    torch.manual_seed(seed)
    model, teacher = make_models(config)
    engine = TorchEngine(model, config.engine, config.optim)
    if teacher is not None:
        engine.attach_ema(teacher)
    scorer = make_scorer(arm, config, model, teacher)
    target = hpm.TARGETS[config.model.target](model.grid, config)
    every, curve, recent = max(1, steps // 40), [], []
    for step in range(steps):
        batch = make_batch(clips, config, seed, step)
        now = schedule(config, step, steps, len(clips.frames) / config.optim.global_batch_size)
        recent.append(train_step(engine, scorer, target, [batch], config, **now))
        if (step + 1) % every == 0 or step + 1 == steps:
            means = {k: float(torch.stack([row[k] for row in recent]).mean()) for k in recent[0]}
            curve.append({"step": step + 1} | means)
            recent = []
            if not np.isfinite(means["loss"]):
                raise RuntimeError(f"step {step + 1}: the loss is {means['loss']}")
    return Trained(model.eval(), teacher, scorer, curve, time.perf_counter() - begun)
