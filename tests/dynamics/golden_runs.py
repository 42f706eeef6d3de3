"""Training runs of the published code on micro models, replayed step by step.

Each function trains for 40 steps and stops with a :class:`Deviation` at the first number that lies
further from the published one than its limit. ../shared/reference/dynamics/README.md says how the
published numbers were made; random numbers are given, so that they are comparable one by one.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import videohpm.finetune.run as finetune
from videohpm import hpm, pretrain
from videohpm.config import (
    AugmentConfig,
    ClassifierConfig,
    FinetuneConfig,
    HPMConfig,
    MaskConfig,
    ModelConfig,
    OptimConfig,
    PretrainConfig,
    RunConfig,
)
from videohpm.data import Batch
from videohpm.engine import EngineConfig, TorchEngine, make_engine
from videohpm.finetune.average import WeightAverage
from videohpm.finetune.task import Classification
from videohpm.hpm import LossTeacher
from videohpm.interop import read_weights

STEPS, EPOCHS, STEPS_PER_EPOCH = 40, 8, 5
LOSS, PREDICTOR_LOSS, GRADIENT_NORM = 2e-5, 2e-4, 2e-5
"""Largest relative differences of one step."""
WEIGHTS, TEACHER = 1e-3, 1e-3
"""Largest distances over how far the published weights moved."""
LR = 1e-9
EMA_ROUNDING = STEPS * 2.0**-24
"""What fp32 may add to a moving average, as a share of its size: its steps are far smaller."""

LOGITS = 1e-5
# Only rounding moves these: their gradients are zero, and AdamW divides by their size.
ROUNDING = ("predictor.norm.bias", "predictor.head.bias")
MICRO = {"arch": "vit_tiny", "image_size": 32, "dim": 16, "depth": 2, "heads": 2,
         "decoder_dim": 16, "decoder_depth": 1, "decoder_heads": 2}  # fmt: skip
CPU = {"device": "cpu", "precision": "fp32"}
OPTIM = {"global_batch_size": 8, "base_lr": 0.064, "warmup_epochs": 2}


class Deviation(AssertionError):
    """A number of a run lies too far from the published one."""


def compare(what: str, step: int, found: float | Tensor, published: Tensor, limit: float) -> None:
    """Deviation where ``found`` differs by more than ``limit``, relatively."""
    difference = abs(float(found) / float(published) - 1)
    if not difference <= limit:
        raise Deviation(f"{what} of step {step}: {float(found)}, published {float(published)}")


def compare_lr(step: int, found: float, published: Tensor) -> None:
    if not abs(found - float(published)) <= LR:
        raise Deviation(f"lr of step {step}: {found}, published {float(published)}")


def moves(model: nn.Module, published: dict, start: dict) -> Iterator[tuple[str, float, float]]:
    """(name, distance from the published tensor, how far that moved) of all that is trained."""
    for name, parameter in model.named_parameters():
        if name in ROUNDING:
            continue
        parts = [t.detach().double() for t in (parameter, published[name], start[name])]
        if name.endswith("qkv.bias"):  # a key's bias changes no output
            parts = [torch.cat([t.chunk(3)[0], t.chunk(3)[2]]) for t in parts]
        found, end, begin = parts
        yield name, float((found - end).norm()), float((end - begin).norm())


def compare_weights(
    what: str, model: nn.Module, published: dict, start: dict, limit: float, rounding: float = 0.0
) -> None:
    """Deviation where a tensor, or all together, did not end where the published ones did.

    Args:
        rounding: what a tensor may lie away besides, as a share of its own size.
    """
    found = list(moves(model, published, start))
    for name, distance, moved in found:
        if not distance <= limit * moved + rounding * float(published[name].norm()):
            raise Deviation(f"{what} {name}: {distance:.2e} away, having moved {moved:.2e}")
    total = math.hypot(*(distance for _, distance, _ in found))
    if not total <= limit * math.hypot(*(moved for _, _, moved in found)):
        raise Deviation(f"{what}: {total:.2e} away")


def part(data: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in data.items() if k.startswith(prefix)}


def build(tensors: dict[str, Tensor], entry: str = "model", **sizes: int) -> nn.Module:
    """A model from tensors of published names."""
    with tempfile.TemporaryDirectory() as folder:
        torch.save({entry: tensors}, Path(folder) / "published.pth")
        return read_weights(Path(folder) / "published.pth", **sizes)[0].build().train()


def batch(clips: Tensor, shuffle_ids: Tensor, labels: Tensor | None = None) -> Batch:
    count = len(clips)
    labels = torch.full((count,), -1) if labels is None else labels
    return Batch(clips, shuffle_ids.long(), labels, torch.arange(count), [])


@contextmanager
def recorded_masks() -> Iterator[list]:
    """The masks that training draws while a ``with`` statement lasts."""
    masks, draw = [], hpm.draw_mask

    def recorder(*arguments: Any, **options: Any):
        masks.append(draw(*arguments, **options))
        return masks[-1]

    hpm.draw_mask = recorder
    try:
        yield masks
    finally:
        hpm.draw_mask = draw


@dataclass(frozen=True)
class HPMVariant:
    """How image HPM trains; the defaults are the published way.

    Args:
        optim: fields of OptimConfig.
        hard_ratio, momentum: from the optimiser step.
        lr_step: the step whose learning rate a step has.
        scorer: what stands between the teacher and the masks.
        prepare: changes the engine before the first step.
        objective: the loss of the predictor, instead of the relative one.
        score_readout: where the teacher's scores are read.
    """

    optim: dict = field(
        default_factory=lambda: {"no_weight_decay": (), "warmup_peak": "after", "min_lr": 0.0}
    )
    hard_ratio: Callable[[int], float] = lambda s: hpm.hard_ratio((s // 5 + 1) / EPOCHS)
    momentum: Callable[[int], float] = lambda s: hpm.teacher_momentum((s // 5) / 100)
    lr_step: Callable[[int], int] = lambda s: s
    scorer: Callable[[LossTeacher, TorchEngine, float], Any] | None = None
    prepare: Callable[[TorchEngine], None] | None = None
    objective: Callable[[Tensor, Tensor], Tensor] | None = None
    score_readout: str = "visible"

    def changed(self, **optim: Any) -> HPMVariant:
        """With other fields of OptimConfig."""
        return replace(self, optim=self.optim | optim)


def image_hpm(folder: Path, variant: HPMVariant, check_schedules: bool = True) -> None:
    """Train image HPM as ``variant`` says, against the published run.

    Args:
        folder: of the reference files.
        check_schedules: compare learning rate, momentum and hard ratio too. Without, a variant
            that has others must be told by what it computes.
    """
    data = load_file(folder / "hpm_image.safetensors")
    fixed = {name: data[f"init.{name}"] for name in ("pos_embed", "decoder_pos_embed")}
    lean = ("decoder_blocks.", "decoder_norm.", "decoder_pred.")  # no teacher has these
    lean = {k: v for k, v in part(data, "init.").items() if k.startswith(lean)}

    def built(which: str) -> nn.Module:
        return build(fixed | lean | part(data, which), "state_dict", heads=2, decoder_heads=2)

    config = PretrainConfig(
        run=RunConfig(epochs=EPOCHS),
        mask=MaskConfig(ratio=0.75),
        engine=EngineConfig(**CPU, grad_clip=5.0),
        hpm=HPMConfig(predictor_unit="token", score_readout=variant.score_readout),
        model=ModelConfig(
            **MICRO, frames=1, tubelet=1, patch=4, position="sincos_2d", class_token=True,
            projection_bias=True, target="raw",
        ),
        optim=OptimConfig(**OPTIM | variant.optim),
    )  # fmt: skip
    model, target = built("init."), hpm.TARGETS["raw"](config.model.grid(), config)
    start = {name: p.detach().clone() for name, p in model.named_parameters()}
    teacher = LossTeacher(model, None, variant.score_readout)
    engine = make_engine(model, config.engine, config.optim)
    if variant.prepare:
        variant.prepare(engine)
    with recorded_masks() as masks:
        for step in range(STEPS):
            schedules = {
                "hard_ratio": variant.hard_ratio(step),
                "momentum": variant.momentum(step),
                "lr": config.optim.lr_at(variant.lr_step(step), STEPS, STEPS_PER_EPOCH),
            }
            if check_schedules:
                compare_lr(step, schedules["lr"], data["lr"][step])
                for name, published in (("hard_ratio", "hard_share"), ("momentum", "momentum")):
                    compare(name, step, schedules[name], data[published][step], 1e-12)
            scorer = teacher
            if variant.scorer:
                scorer = variant.scorer(teacher, engine, schedules["momentum"])
            clips = data["images"][step % 5][:, :, None]
            batches = [batch(clips, data["priority"][step])]
            found = pretrain.train_step(engine, scorer, target, batches, config, **schedules)
            if not torch.equal(masks[-1].is_masked, data["mask"][step].bool()):
                raise Deviation(f"mask of step {step}")
            compare("loss", step, found["loss"], data["loss"][step], LOSS)
            predictor_loss = data["relative_loss"][step]
            compare("predictor_loss", step, found["predictor_loss"], predictor_loss, PREDICTOR_LOSS)
    end, ema = built("final.").state_dict(), built("ema.").state_dict()
    compare_weights("student", model, end, start, WEIGHTS)
    compare_weights("teacher", teacher.model, ema, start, TEACHER, EMA_ROUNDING)


def videomae_pretraining(folder: Path, **optim: Any) -> None:
    """Pre-train VideoMAE against the published run; ``optim`` are fields of OptimConfig."""
    data = load_file(folder / "videomae.safetensors")

    def built(which: str) -> nn.Module:
        tensors = part(data, f"pretrain.{which}.")
        return build(tensors, image_size=32, frames=4, heads=2, decoder_heads=2)

    config = PretrainConfig(
        run=RunConfig(epochs=EPOCHS),
        mask=MaskConfig(ratio=0.75),
        hpm=HPMConfig(enabled=False),
        engine=EngineConfig(**CPU, grad_clip=1e9),  # never acts; the norm is measured
        model=ModelConfig(**MICRO, frames=4, patch=8),
        optim=OptimConfig(**OPTIM | {"min_lr": 1e-4} | optim),
    )
    model, target = built("init"), hpm.TARGETS["per_channel"](config.model.grid(), config)
    start = {name: p.detach().clone() for name, p in model.named_parameters()}
    engine = make_engine(model, config.engine, config.optim)
    for step in range(STEPS):
        schedules = pretrain.schedule(config, step, STEPS, STEPS_PER_EPOCH)
        compare_lr(step, schedules["lr"], data["pretrain.lr"][step])
        batches = [batch(data["clips"][step % 2], data["priority"][step])]
        found = pretrain.train_step(engine, None, target, batches, config, **schedules)
        compare("loss", step, found["loss"], data["pretrain.loss"][step], LOSS)
        norm = data["pretrain.gradient_norm"][step]
        compare("gradient norm", step, found["gradient_norm"], norm, GRADIENT_NORM)
    compare_weights("model", model, built("final").state_dict(), start, WEIGHTS)


def videomae_finetuning(folder: Path, kind: str = "finetune", **optim: Any) -> None:
    """Fine-tune VideoMAE against a published run; ``optim`` are fields of OptimConfig.

    Args:
        kind: finetune, mixup, or accumulated: mixup and two micro-batches a step.
    """
    data = load_file(folder / "videomae.safetensors")

    def built(which: str) -> nn.Module:
        return build(part(data, f"{which}."), image_size=32, frames=4, heads=2)

    parts = 2 if kind == "accumulated" else 1
    config = FinetuneConfig(
        run=RunConfig(epochs=EPOCHS),
        model=ClassifierConfig(drop_path=0.0),
        engine=EngineConfig(**CPU, grad_accum_steps=parts, grad_clip=1e9),
        augment=AugmentConfig(
            rand_augment="", random_erasing=0.0, cutmix=0.0,
            mixup=0.0 if kind == "finetune" else 0.8,
        ),
        optim=OptimConfig(
            **OPTIM | {"min_lr": 1e-4, "layer_decay": 0.75, "betas": (0.9, 0.999)} | optim
        ),
    )  # fmt: skip
    model = built("finetune.init")
    start = {name: p.detach().clone() for name, p in model.named_parameters()}
    engine, average = make_engine(model, config.engine, config.optim), WeightAverage(model, 0.99)
    task = TenClasses(config)
    logits: list[Tensor] = []
    model.register_forward_hook(lambda module, inputs, out: logits.append(out.detach()))
    losses = data[f"{kind}.loss"].view(STEPS, parts).mean(1)
    for step in range(STEPS):
        lr = config.optim.lr_at(step, STEPS, STEPS_PER_EPOCH)
        compare_lr(step, lr, data["finetune.lr"][step])
        pieces = zip(
            data["clips"][step % 2].chunk(parts), data["labels"][step % 2].chunk(parts), strict=True
        )
        batches = [batch(clips, torch.zeros(len(clips), 16), labels) for clips, labels in pieces]
        found = finetune.train_step(engine, task, batches, config, step=step, lr=lr)
        average.update(model, 10**9)  # the published average has no warm-up
        compare("loss", step, found["loss"], losses[step], LOSS)
        norm = data[f"{kind}.gradient_norm"][step]
        compare("gradient norm", step, found["gradient_norm"], norm, GRADIENT_NORM)
    if f"{kind}.logits" in data:
        found = torch.stack([logits[step] for step in (0, 9, 29, 39)])
        if not (found - data[f"{kind}.logits"]).abs().max() <= LOGITS:
            raise Deviation("logits")
    compare_weights("model", model, built(f"{kind}.final").state_dict(), start, WEIGHTS)
    if kind == "finetune":
        ema = built("finetune.ema").state_dict()
        compare_weights("average", average.model, ema, start, TEACHER)


class TenClasses(Classification):
    """The task of the published run, without a data set to read it from."""

    def __init__(self, config: FinetuneConfig):
        self.config, self.names, self.outputs, self.weights = config, None, 10, None
