"""What the arms of evidence.py are trained and judged on: real pictures, alone or in motion."""

from __future__ import annotations

import csv
import fcntl
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from videohpm.errors import UserError

ROOT = Path(__file__).parents[1]
SHAPES = ROOT / "datasets/shapes/prepare.py"
STRIDE = 2
"""Of the frames of a clip."""
PADDING = 4
"""Pixels around a picture of 32, of which a crop takes any place."""
OBJECT = 1.75
"""Times the usual width of the moving object: over a third of the frame."""
PICTURES = (".jpg", ".jpeg", ".png")


@dataclass
class Split:
    """Every frame of a split, the classes of each clip, and where its object is.

    Attributes:
        frames: uint8 (n, 3, F, H, W); F = 1 for pictures.
        labels: int64 (n,) for each kind of class.
        cover: (n, F, H/4, W/4) in [0, 1], share of each cell that is object; None where not known.
    """

    frames: Tensor
    labels: dict[str, Tensor]
    cover: Tensor | None = None

    def __len__(self) -> int:
        return len(self.frames)

    def at(self, rows: Tensor, start: Tensor, frames: int) -> Tensor:
        """uint8 (B, 3, frames, H, W): clips that begin at ``start``, every second frame."""
        steps = start[:, None] + STRIDE * torch.arange(frames)
        return self.frames.transpose(1, 2)[rows[:, None], steps].transpose(1, 2)

    def part(self, start: int, stop: int) -> Split:
        """Those of the rows from ``start`` to ``stop``."""
        rows = slice(start, stop)
        labels = {kind: values[rows] for kind, values in self.labels.items()}
        return Split(self.frames[rows], labels, None if self.cover is None else self.cover[rows])


@dataclass
class Data:
    """``train``, ``validation`` (choices are made on it) and ``test``, and how training crops."""

    splits: dict[str, Split]
    augment: Callable[[Tensor, torch.Generator], Tensor]

    def __getitem__(self, split: str) -> Split:
        return self.splits[split]


# --- pictures -----------------------------------------------------------------------------------


def load_pictures(folder: Path, held_out: float = 0.1) -> Data:
    """train/CLASS/*.jpg and test/CLASS/*.jpg; of train, a fixed share is held out for validation.

    Raises UserError where a folder is missing or pictures differ in size.
    """
    pixels, labels = read_folder(folder / "train")
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    held = int(held_out * len(labels))
    splits = {
        "train": Split(pixels[order[held:]], {"class": labels[order[held:]]}),
        "validation": Split(pixels[order[:held]], {"class": labels[order[:held]]}),
    }
    pixels, labels = read_folder(folder / "test")
    return Data(splits | {"test": Split(pixels, {"class": labels})}, padded_crop)


def read_folder(folder: Path) -> tuple[Tensor, Tensor]:
    """A folder of a folder per class: uint8 (n, 3, 1, H, W), and int64 (n,) classes in order."""
    if not folder.is_dir():
        raise UserError(
            f"--pictures: {folder} is not there; save pictures as train/CLASS/*.jpg and "
            "test/CLASS/*.jpg"
        )
    classes = sorted(path for path in folder.iterdir() if path.is_dir())
    pictures, labels = [], []
    for label, place in enumerate(classes):
        for path in sorted(p for p in place.iterdir() if p.suffix.lower() in PICTURES):
            with Image.open(path) as picture:
                pictures.append(np.asarray(picture.convert("RGB")))
            labels.append(label)
            if pictures[-1].shape != pictures[0].shape:
                raise UserError(f"--pictures: {path} differs in size from the first picture")
    if not pictures:
        raise UserError(f"--pictures: {folder} has no folder of pictures per class")
    pixels = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).unsqueeze(2).contiguous()
    return pixels, torch.tensor(labels)


def padded_crop(clips: Tensor, generator: torch.Generator) -> Tensor:
    """Each picture from a random place of its padded self, mirrored half of the time."""
    count, _, _, height, width = clips.shape
    padded = F.pad(clips.squeeze(2), (PADDING,) * 4)
    top, left = torch.randint(2 * PADDING + 1, (2, count), generator=generator)
    rows = top[:, None] + torch.arange(height)
    columns = left[:, None] + torch.arange(width)
    mirrored = torch.rand(count, generator=generator) < 0.5
    columns = torch.where(mirrored[:, None], columns.flip(1), columns)
    index = torch.arange(count)[:, None, None]
    return padded[index, :, rows[:, :, None], columns[:, None]].permute(0, 3, 1, 2).unsqueeze(2)


# --- clips --------------------------------------------------------------------------------------


def load_clips(
    folder: Path, train: int, validation: int, pictures: Path, size: float = OBJECT
) -> Data:
    """Pictures of one class that move over other pictures, made where they are missing.

    Half of what the generator calls validation is for choices, the other half the test; no picture
    of the training clips is in them.

    Args:
        pictures: folder of folders of pictures, one per class.
        size: of the objects, see ``--object`` of the shapes.
    """
    command = [
        sys.executable, SHAPES, "--out", folder, "--train", train, "--validation", validation,
        "--object", size, "--sprites", pictures, "--backgrounds", pictures,
    ]  # fmt: skip
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open(f"{folder}.lock", "w") as lock:  # one process makes them, the others wait
        fcntl.flock(lock, fcntl.LOCK_EX)
        made = subprocess.run([str(part) for part in command], stdout=subprocess.DEVNULL)
    if made.returncode:
        raise UserError(f"--pictures: no clips could be made of {pictures}; the reason is above")
    held = _load_split(folder, "validation")
    half = len(held) // 2
    splits = {"train": _load_split(folder, "train"), "validation": held.part(0, half),
              "test": held.part(half, len(held))}  # fmt: skip
    return Data(splits, part_crop)


def _load_split(folder: Path, name: str) -> Split:
    with open(folder / f"{name}.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    frames = torch.stack([_decode(folder / row["path"]) for row in rows])
    labels = {}
    for kind in ("class", "motion"):
        names = (folder / f"classes-{kind}.txt").read_text().split()
        labels[kind] = torch.tensor([names.index(row[kind]) for row in rows])
    with np.load(folder / f"objects-{name}.npz") as objects:
        cover = torch.from_numpy(objects["cover"]).float() / 255
    return Split(frames, labels, cover)


def _decode(path: Path) -> Tensor:
    with av.open(str(path)) as file:
        frames = [frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)]
    return torch.from_numpy(np.stack(frames)).permute(3, 0, 1, 2)


def part_crop(clips: Tensor, generator: torch.Generator) -> Tensor:
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
