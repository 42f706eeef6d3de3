"""What reads foreign bytes, with good inputs to start from. Each call parses one mutated input."""

from __future__ import annotations

import io
import json
import pickle
import random
import shutil
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import torch
from mutations import mutated, mutated_json
from PIL import Image
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from painted import encode  # noqa: E402

from videohpm import checkpoint  # noqa: E402
from videohpm.cli import main  # noqa: E402
from videohpm.config.dataset_info import read_dataset_info  # noqa: E402
from videohpm.data import find_samples  # noqa: E402
from videohpm.data.container import DecodeError  # noqa: E402
from videohpm.data.decode import verify  # noqa: E402
from videohpm.data.images import read_image  # noqa: E402
from videohpm.data.scan import Journal  # noqa: E402
from videohpm.errors import UserError  # noqa: E402
from videohpm.evaluate.extraction import read_features  # noqa: E402
from videohpm.interop.files import read_source  # noqa: E402
from videohpm.models import MaskedAutoencoder  # noqa: E402
from videohpm.report.page import page  # noqa: E402
from videohpm.report.runs import load_runs  # noqa: E402

SAID = (UserError, DecodeError)
"""How a parser says that an input is wrong."""
TINY = {"frames": 4, "image_size": 16, "patch": 8, "dim": 16, "depth": 1, "heads": 2,
        "decoder_dim": 16, "decoder_depth": 1, "decoder_heads": 2}  # fmt: skip
CONFIG = b"""run: {dir: runs/a, steps: 10, seed: 3}
data: {root: data/a, workers: 0, stride: 2, crop_area: [0.5, 1.0], mean: [0.5, 0.5, 0.5]}
model: {arch: vit_tiny, frames: 4, image_size: 32, patch: 8, target: raw}
mask: {ratio: 0.75, unit: tube}
hpm: {enabled: true, momentum_start: 0.9}
optim: {global_batch_size: 8, base_lr: 1e-3, betas: [0.9, 0.95]}
engine: {device: cpu, precision: fp32, timeout: 60}
"""
MANIFESTS = [
    b'path,label,frames,reader\na.mp4,1,30,pyav\n"b, c.mp4",0,12,decord\n=d.mp4,2,,\n',
    b"a.mp4 30 1\nb c.mp4 20 0\n",
    b"a.mp4\nb.mp4\n",
    b"a.mp4,cat\nb.mp4,dog\n",
    "path;label\né.mp4;\u2028x\n".encode(),
    b"path,height,width\r\na.png,10,20\r\nb.png,5,5\r\n",
]


class Parser:
    """One reader of foreign bytes.

    Args:
        files: good files by name, one of which is mutated at a time.
        call: reads the folder that they are written to.
        as_json: those that are JSON, and also mutated as such.
    """

    def __init__(self, files: dict[str, bytes], call: Callable[[Path], object], as_json=()):
        self.files, self.call, self.as_json = files, call, set(as_json)

    def feed(self, chance: random.Random, folder: Path) -> None:
        """Write one mutated input to ``folder`` and read it."""
        name = chance.choice(list(self.files))
        for other, data in self.files.items():
            if other != name and not (folder / other).exists():
                (folder / other).parent.mkdir(parents=True, exist_ok=True)
                (folder / other).write_bytes(data)
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(self._mutated(chance, name))
        try:
            self.call(folder)
        except SAID as error:
            text = str(error)
            if "\n" in text or len(text) > 4000:
                raise AssertionError(f"not one line: {text[:200]!r}") from error
        finally:
            (folder / name).write_bytes(self.files[name])

    def _mutated(self, chance: random.Random, name: str) -> bytes:
        data = self.files[name]
        if name in self.as_json and chance.random() < 0.7:
            return mutated_json(chance, data)
        if name.endswith(".safetensors") and chance.random() < 0.7:
            length = int.from_bytes(data[:8], "little")
            head = mutated_json(chance, data[8 : 8 + length])
            return len(head).to_bytes(8, "little") + head + data[8 + length :]
        return mutated(chance, data, list(self.files.values()))


def _each(files: dict[str, bytes], read: Callable[[Path], object]) -> Parser:
    """Of files that are read by themselves."""
    names = list(files)

    def call(folder: Path) -> None:
        for name in names:
            if (folder / name).read_bytes() != files[name]:
                read(folder / name)

    return Parser(files, call)


def _manifest(path: Path) -> None:
    for labels in (True, False):
        try:
            found = find_samples(None, path, labels=labels)
        except UserError:
            continue
        for row in range(min(len(found), 3)):
            found[row]


def _journal(path: Path) -> None:
    journal = Journal(path, retry=True)
    for name, entry in journal.load().items():
        journal.is_current(entry, name)


def _config(path: Path) -> None:
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()) as said:
        try:
            code = main(["pretrain", "--config", str(path), "--print_config"])
        except SystemExit as end:  # of the parser, when it has printed
            code = end.code
    lines = said.getvalue().splitlines()
    if code not in (0, 2) or (code == 2 and len(lines) != 1):
        raise AssertionError(f"code {code}: {said.getvalue()[-400:]}")


def _model(folder: Path) -> None:
    checkpoint.find_damage(folder)
    for load in (checkpoint.load_model, checkpoint.load_teacher):
        try:
            load(folder)
        except UserError as error:
            if "\n" in str(error):
                raise AssertionError("not one line") from error


def _report(folder: Path) -> None:
    page(load_runs([str(folder)]))


def _pictures(folder: Path) -> dict[str, bytes]:
    pixels = np.random.default_rng(0).integers(0, 255, (24, 32, 3), dtype=np.uint8)
    files = {}
    for kind in ("png", "jpeg", "gif", "webp", "bmp", "tiff", "ppm"):
        path = folder / f"a.{'jpg' if kind == 'jpeg' else 'tif' if kind == 'tiff' else kind}"
        Image.fromarray(pixels).save(path, format=kind)
        files[path.name] = path.read_bytes()
    return files


def _videos(folder: Path) -> dict[str, bytes]:
    kinds = {"a.mp4": "libx264", "b.avi": "mpeg4", "c.webm": "libvpx", "d.mkv": "libx264"}
    return {name: encode(folder / name, codec, 6).read_bytes() for name, codec in kinds.items()}


def _pickles(folder: Path, model: torch.nn.Module) -> dict[str, bytes]:
    tree = {"model": model.state_dict(), "epoch": 3, "args": {"frames": 4, "names": ["a", (1, 2)]}}
    torch.save(tree, folder / "zip.pth")
    torch.save(tree, folder / "legacy.pth", _use_new_zipfile_serialization=False)
    plain = {"model": {"a": [1, 2.0, None]}, "b": ("x", {"y": True})}
    (folder / "bare.pth").write_bytes(pickle.dumps(plain, protocol=2))
    save_file(model.state_dict(), folder / "a.safetensors")
    names = ("zip.pth", "legacy.pth", "bare.pth", "a.safetensors")
    return {name: (folder / name).read_bytes() for name in names}


def make_parsers(folder: Path, root: Path) -> dict[str, tuple[Parser, float]]:
    """All of them by name, and their shares of the inputs. ``folder``: for files in between."""
    torch.manual_seed(0)
    model = MaskedAutoencoder.create("vit_tiny", **TINY)
    from videohpm.hpm import LossTeacher

    checkpoint.save_weights(folder / "model", model, LossTeacher(model, steps=1))
    state = {"step": 1, "updates": 1, "skipped": 0, "ema_modules": ["teacher"], "samples": 4}
    (folder / "model/state.json").write_text(json.dumps(state))
    save_file({"exp_avg/a": torch.ones(4)}, folder / "model/optimizer.safetensors")
    weights = {path.name: path.read_bytes() for path in (folder / "model").iterdir()}
    datasets = {
        f"{path.parent.name}/dataset.yaml": path.read_bytes()
        for path in sorted((root / "datasets").glob("*/dataset.yaml"))
    }
    shapes = {"index": torch.arange(4), "labels": torch.arange(4), "spans": torch.ones(4, 1, 2)}
    shapes |= {"pooled": torch.ones(4, 1, 8), "errors": torch.tensor([123, 125]).byte()}
    save_file(shapes, folder / "features_00000.safetensors")
    features = {
        "features.json": b'{"samples": 4, "shard": 4, "format": "safetensors"}',
        "features_00000.safetensors": (folder / "features_00000.safetensors").read_bytes(),
    }
    journal = {"path": "a.mp4", "size": 3, "changed": 5, "reason": None, "frames": 10}
    rows = b"".join(
        json.dumps({"step": step, "loss": 1.0 / (step + 1), "lr": 1e-3}).encode() + b"\n"
        for step in range(20)
    )
    run = {
        "metrics.jsonl": rows,
        "config.yaml": CONFIG,
        "environment.json": b'{"python": "3.11", "gpus": ["a", "b"], "cores": 4}',
        "evaluation.json": b'{"top1": 30.5, "views": 2, "protocol": {"clips": 2}}',
        "bad_files.jsonl": b'{"path": "a.mp4", "reason": "x"}\n',
        "pictures/reconstruction_0000010.png": _pictures(folder)["a.png"],
    }
    manifests = {f"m{number}.csv": text for number, text in enumerate(MANIFESTS)}
    json_files = ("environment.json", "evaluation.json")
    found = {
        "manifest": (_each(manifests, _manifest), 0.41),
        "journal": (_each({"j.jsonl": json.dumps(journal).encode() + b"\n"}, _journal), 0.215),
        "dataset": (_each(datasets, lambda path: read_dataset_info(path)), 0.036),
        "config": (_each({"c.yaml": CONFIG}, _config), 0.0006),
        "model": (Parser(weights, _model, ("config.json", "state.json")), 0.0064),
        "foreign weights": (_each(_pickles(folder, model), read_source), 0.06),
        "features": (Parser(features, read_features, ("features.json",)), 0.12),
        "run folder": (Parser(run, _report, json_files), 0.012),
        "image": (_each(_pictures(folder), read_image), 0.12),
        "video": (_each(_videos(folder), verify), 0.02),
    }
    shutil.rmtree(folder)
    return found
