"""Tiny models: with a teacher and an engine, to be saved and loaded; and as timm exports them."""

import json
from pathlib import Path

import timm
import torch
import yaml
from safetensors.torch import save_file

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


def write_timm_export(folder: Path, pixels: dict) -> None:
    """A ViT of 4x4 patches of 32x32 pixels in timm's own layout; ``pixels``: its mean and std."""
    torch.manual_seed(0)
    shape = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 1, "num_heads": 2}
    name = "vit_tiny_patch16_224"
    network = timm.create_model(name, num_classes=0, **shape)
    folder.mkdir()
    save_file(network.state_dict(), folder / "model.safetensors")
    about = {"architecture": name, "num_classes": 0, "model_args": shape}
    about["pretrained_cfg"] = pixels | {"num_classes": 0, "input_size": [3, 32, 32]}
    (folder / "config.json").write_text(json.dumps(about))


def write_settings(folder: Path, **sections: dict) -> Path:
    """config.yaml of a tiny pre-training on the CPU, with what each section has besides."""
    usual = {
        "run": {"picture_every": 0},
        "data": {"stride": 2},
        "model": {
            "arch": "vit_tiny", "frames": 4, "image_size": 32, "patch": 8, "dim": 24, "depth": 1,
            "heads": 2, "decoder_dim": 16, "decoder_depth": 1, "decoder_heads": 2, "target": "raw",
        },
        "mask": {"ratio": 0.75},
        "engine": {"device": "cpu", "precision": "fp32"},
    }  # fmt: skip
    names = usual.keys() | sections.keys()
    settings = {name: usual.get(name, {}) | sections.get(name, {}) for name in names}
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path
