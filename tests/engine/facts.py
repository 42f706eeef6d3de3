"""Run in each rank by the tests of several ranks: what only the running process can tell."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from videohpm.config import HPMConfig, MaskConfig, ModelConfig, PretrainConfig
from videohpm.data import DataConfig, normalise
from videohpm.engine import EngineConfig, processes
from videohpm.optim import OptimConfig
from videohpm.pretrain import Pretraining
from videohpm.tracking import RunConfig

SECTIONS = {
    "run": RunConfig, "data": DataConfig, "model": ModelConfig, "mask": MaskConfig,
    "hpm": HPMConfig, "optim": OptimConfig, "engine": EngineConfig,
}  # fmt: skip


def read(plain: dict) -> PretrainConfig:
    """A configuration from what YAML holds."""
    return PretrainConfig(**{name: SECTIONS[name](**values) for name, values in plain.items()})


def resident_bytes(module: torch.nn.Module) -> int:
    """Bytes of weights that this process keeps: whole ones, and under ZeRO-3 shards."""
    kept = [parameter.data for parameter in module.parameters()]
    kept += [p.ds_tensor for p in module.parameters() if hasattr(p, "ds_tensor")]
    return sum(tensor.numel() * tensor.element_size() for tensor in kept)


def between_steps(plain: dict, out: str, whole: dict[str, int]) -> None:
    """Train as ``plain`` says, then write what this rank holds, and the encoder's features.

    ``whole`` is how many bytes student and teacher have all in all.
    """
    config = read(plain)
    with processes(config.engine, config.optim.batch):
        training = Pretraining(config)
        training.run()
        engine, teacher = training.engine, training.teacher
        kept = {
            "student": resident_bytes(engine.model) / whole["student"],
            "teacher": resident_bytes(teacher) / whole["teacher"],
        }
        clips = torch.load(Path(out) / "clips.pt")
        with engine.looking() as model:
            features = model.encoder(clips)
        # A gradient that is not finite: neither student nor teacher moves.
        batch = normalise(training.data[0, 0]["clips"], config.data.mean, config.data.std)
        before = [engine.whole(p) for p in (*engine.model.parameters(), *teacher.parameters())]
        for _ in range(config.engine.accumulation):
            mask = random_mask(config, len(batch))
            engine.backward(engine(batch, mask).pixels.sum() * float("inf"))
        engine.step(1.0)
        after = [engine.whole(p) for p in (*engine.model.parameters(), *teacher.parameters())]
        kept |= {
            "moved": engine.moved,
            "skipped": engine.skipped,
            "same": all(map(torch.equal, before, after)),
        }
        torch.save(features, Path(out) / f"features{engine.rank}.pt")
        (Path(out) / f"facts{engine.rank}.json").write_text(json.dumps(kept))


def random_mask(config: PretrainConfig, count: int):
    """Any mask for ``count`` clips."""
    from videohpm import hpm

    units = hpm.unit_count(config.model.grid(), config.mask.unit)
    return hpm.random_mask(
        config.model.grid(), config.mask.ratio, hpm.random_priority(count, units), config.mask.unit
    )
