"""Tiny models with a teacher and an engine, to be saved and loaded."""

import torch

from videohpm import checkpoint
from videohpm.config import OptimConfig
from videohpm.engine import EngineConfig, TorchEngine
from videohpm.hpm import LossTeacher
from videohpm.models import MaskedAutoencoder

SIZES = {
    "arch": "vit_tiny", "frames": 2, "image_size": 16, "patch": 8, "dim": 8, "depth": 1, "heads": 1,
    "decoder_dim": 8, "decoder_depth": 1, "decoder_heads": 1, "target": "raw",
}  # fmt: skip


class Run:
    """A model, its teacher and their engine, moved at random."""

    def __init__(self, seed=0, **sizes):
        torch.manual_seed(seed)
        self.model = MaskedAutoencoder.create(**SIZES | sizes)
        self.teacher = LossTeacher(self.model, 1)
        self.wish = "auto"

    def start(self):
        config = EngineConfig(device="cpu", precision="fp32")
        self.engine = TorchEngine(self.model, config, OptimConfig(global_batch_size=1))
        return self

    def step(self):
        loss = sum((p * torch.randn_like(p)).sum() for p in self.model.parameters())
        self.engine.backward(loss)
        self.engine.step(1e-2)
        self.teacher.update(self.model, 0.9)

    def save(self, folder, step, keep=2):
        ema_modules = {"teacher": self.teacher.model}
        state = {"samples": 3, "config": {"run": {"resume": self.wish}, "data": {}}}
        description = {"teacher": self.teacher.config}
        checkpoint.save(folder, step, self.engine, ema_modules, state, keep, description)

    def load(self, folder):
        saved = checkpoint.restore(folder, self.model, {"teacher": self.teacher.model})
        self.start()
        checkpoint.restore_moments(saved, self.engine)
        return saved


def same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)
