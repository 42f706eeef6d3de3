"""The training of one arm of evidence.py: the library's step on clips held in memory."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import yaml
from evidence_arms import Arm
from evidence_data import ROOT, STRIDE, Data, Split
from torch import Tensor

from videohpm import hpm
from videohpm.config import HPMConfig, MaskConfig, ModelConfig, OptimConfig, PretrainConfig
from videohpm.data import Batch
from videohpm.engine import EngineConfig, TorchEngine, torch_device
from videohpm.grid import Mask
from videohpm.hpm import LossTeacher, Scorer, Target
from videohpm.interop.frozen import encoders_of
from videohpm.models import MaskedAutoencoder
from videohpm.pretrain import schedule, train_step

RECIPES = {"images": "benchmarks/cifar10.yaml", "clips": "configs/pretrain/demo.yaml"}
WARMUP = 1 / 15
"""Share of the steps."""


def common_config(kind: str, steps: int, batch: int, device: str) -> PretrainConfig:
    """What all arms share: the model and recipe of :data:`RECIPES`, over ``steps`` steps."""
    recipe = yaml.safe_load((ROOT / RECIPES[kind]).read_text())
    schedule = {"global_batch_size": batch, "warmup_steps": round(steps * WARMUP)}
    return PretrainConfig(
        model=ModelConfig(**recipe["model"]),
        mask=MaskConfig(**recipe["mask"]),
        hpm=HPMConfig(**recipe.get("hpm", {})),
        optim=OptimConfig(**recipe["optim"] | schedule),
        engine=EngineConfig(device=device, precision="fp32"),
    )


@dataclass
class Method:
    """What a step needs of an arm, untrained."""

    model: MaskedAutoencoder
    scorer: Scorer | None
    teacher: LossTeacher | None
    target: Target

    @classmethod
    def of(cls, config: PretrainConfig) -> Method:
        """As pre-training makes it of a configuration."""
        made: list[LossTeacher] = []
        target = hpm.TARGETS[config.model.target](
            config.model.grid(), config, encoders_of(lambda: made[0] if made else None)
        )
        model = MaskedAutoencoder(config.model_config(target.dim))
        scorer = hpm.SCORERS[config.scorer](model, config)
        if isinstance(scorer, LossTeacher):
            made.append(scorer)
        if config.hpm.center_scores and scorer is not None:
            scorer = hpm.CenteredScorer(scorer, config.hpm.center_momentum)
        return cls(model, scorer, made[0] if made else None, target)


class OtherLosses(Target):
    """A target of which the loss predictor learns the losses of the clip before it in the batch.

    What they are, and of which tokens, nothing in its own clip tells.
    """

    def __init__(self, target: Target):
        self.target, self.dim = target, target.dim

    def __call__(self, clips: Tensor, mask: Mask) -> Tensor:
        return self.target(clips, mask)

    def hardness(
        self, losses: Tensor, predicted: Tensor, targets: Tensor, clips: Tensor, mask: Mask
    ) -> Tensor:
        return self.target.hardness(losses, predicted, targets, clips, mask).roll(1, 0)


@dataclass
class Trained:
    """What a training leaves, and a row of numbers every few steps."""

    method: Method
    curve: list[dict[str, float]]
    processor_seconds: float

    def save(self, path: Path) -> None:
        """Weights, curve and seconds as one file, which appears when it is complete."""
        teacher = self.method.teacher
        kept = {
            "model": self.method.model.state_dict(),
            "teacher": None if teacher is None else teacher.state_dict(),
            "center": getattr(self.method.scorer, "center", None),
            "curve": self.curve,
            "processor_seconds": self.processor_seconds,
        }
        torch.save(kept, f"{path}.part")
        Path(f"{path}.part").replace(path)

    @classmethod
    def load(cls, path: Path, config: PretrainConfig) -> Trained:
        """What was saved of an arm, whose configuration is ``config``."""
        kept = torch.load(path, map_location=torch_device(config.engine.device), weights_only=True)
        method = Method.of(config)
        method.model.load_state_dict(kept["model"])
        if method.teacher is not None:
            method.teacher.load_state_dict(kept["teacher"])
        if isinstance(method.scorer, hpm.CenteredScorer):
            method.scorer.center = kept["center"]
        method.model.eval()
        return cls(method, kept["curve"], kept["processor_seconds"])


def make_batch(data: Data, config: PretrainConfig, seed: int, step: int) -> Batch:
    """The batch of a step: the same clips, crops and random part of the masks for every arm."""
    train, batch = data["train"], config.optim.global_batch_size
    per_epoch = len(train) // batch
    epoch, place = divmod(step, per_epoch)
    order = torch.randperm(len(train), generator=random_stream(seed, 1, epoch))
    rows = order[place * batch : (place + 1) * batch]
    generator = random_stream(seed, 2, step)
    frames = config.model.frames
    last = train.frames.shape[2] - STRIDE * (frames - 1)
    start = torch.randint(last, (len(rows),), generator=generator)
    return Batch(
        clips=data.augment(train.at(rows, start, frames), generator),
        shuffle_ids=random_part(len(rows), config, generator),
        labels=None,
        index=rows,
        bad=[],
    )


def random_part(count: int, config: PretrainConfig, generator: torch.Generator) -> Tensor:
    """The shuffle_ids of so many clips."""
    units = hpm.unit_count(config.model.grid(), config.mask.unit)
    return hpm.random_shuffle_ids(count, units, generator)


def random_stream(*key: int) -> torch.Generator:
    """A generator of its own for each key."""
    return torch.Generator().manual_seed(int(np.random.SeedSequence(key).generate_state(1)[0]))


def with_statistics(config: PretrainConfig, train: Split) -> PretrainConfig:
    """Normalised by the mean and deviation of each channel of the training split."""
    channels = train.frames[:2048].transpose(0, 1).flatten(1)
    often = torch.stack([channel.bincount(minlength=256) for channel in channels]).double()
    levels, count = torch.arange(256).double() / 255, channels.shape[1]
    mean = (often @ levels) / count
    std = ((often * (levels - mean[:, None]).square()).sum(1) / (count - 1)).sqrt()
    data = replace(config.data, mean=tuple(mean.tolist()), std=tuple(std.tolist()))
    return replace(config, data=data)


def train(arm: Arm, common: PretrainConfig, data: Data, seed: int, steps: int) -> Trained:
    """Pre-train one arm. The encoder and pixel decoder begin alike for every arm of a seed."""
    config, begun = arm.config(common), time.process_time()
    torch.manual_seed(seed)
    method = Method.of(config)
    engine = TorchEngine(method.model, config.engine, config.optim)
    if method.teacher is not None:
        engine.attach_ema(method.teacher)
    per_epoch = len(data["train"]) / config.optim.global_batch_size
    target = OtherLosses(method.target) if arm.other_losses else method.target
    every, curve, recent = max(1, steps // 40), [], []
    for step in range(steps):
        batch = make_batch(data, config, seed, step)
        now = schedule(config, step, steps, per_epoch)
        parts = engine, method.scorer, target
        recent.append(train_step(*parts, [batch], config, **now))
        if (step + 1) % every == 0 or step + 1 == steps:
            means = {k: float(torch.stack([row[k] for row in recent]).mean()) for k in recent[0]}
            curve.append({"step": step + 1} | means)
            recent = []
            if not np.isfinite(means["loss"]):
                raise RuntimeError(f"step {step + 1}: the loss is {means['loss']}")
    method.model.eval()
    return Trained(method, curve, time.process_time() - begun)
