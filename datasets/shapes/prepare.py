#!/usr/bin/env python
"""Write the shapes data set: small H.264 clips of one moving object each, in a few seconds.

Class = shape x motion, 4 x 8 = 32. The object moves, turns or changes its size steadily, from a
random moment on; what leaves the frame on one side comes in at the opposite one. What stays still
in a clip (position, size or angle) is drawn as if it had been caught at a random moment too. So
the object may be anywhere, and its state in any one frame has one and the same distribution for
every motion: a single frame cannot tell the motion, two neighbouring frames can.

With --sprites the object is a picture, upright, of the class of its folder; with --backgrounds so
is the ground. README.md beside this file describes what is written.
"""

import argparse
import csv
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NoReturn

import av
import numpy as np
import pictures
from drawing import MOTIONS, SHAPES, Track, draw_background, draw_object, make_track
from PIL import Image

SPLITS = ("train", "validation")
FPS = 8
CELL = 4  # pixels a side of the cells in which `cover` is stored
VERSION = 2  # raise it when the same arguments give other pixels


@dataclass(frozen=True)
class Settings:
    """What decides every pixel; recorded in shapes.json, compared before anything is written."""

    train: int = 1024
    validation: int = 256
    size: int = 64
    frames: int = 16
    seed: int = 0
    images: bool = False
    object: float = 1.0
    sprites: str | None = None
    backgrounds: str | None = None
    version: int = VERSION

    def __post_init__(self) -> None:
        limits = {"train": (1, 99_999), "validation": (1, 99_999), "size": (32, 512),
                  "frames": (1, 256), "seed": (0, 2**32 - 1)}  # fmt: skip
        for name, (low, high) in limits.items():
            value = getattr(self, name)
            if not isinstance(value, int) or not low <= value <= high:
                refuse(f"{name}: {value!r} is not a whole number from {low} to {high}")
        if not isinstance(self.object, int | float) or not 0.5 <= self.object <= 2:
            refuse(f"object: {self.object!r} is not a number from 0.5 to 2")
        if self.size % CELL:
            refuse(f"size: {self.size} is not a multiple of {CELL}; use {self.size // CELL * CELL}")
        for name in ("sprites", "backgrounds"):
            folder = getattr(self, name)
            if folder and not all(map(all, (pictures.pictures_of(folder, s).values() or [()]
                                            for s in SPLITS))):  # fmt: skip
                refuse(f"{name}: {folder} has no folders with {pictures.HELD_OUT} pictures or more "
                       f"each ({', '.join(pictures.SUFFIXES)})")  # fmt: skip

    @property
    def objects(self) -> tuple[str, ...]:
        """What may be the object of a clip."""
        return tuple(pictures.pictures_of(self.sprites, "train")) if self.sprites else SHAPES

    @property
    def motions(self) -> tuple[str, ...]:
        """What it may do."""
        return pictures.MOTIONS if self.sprites else MOTIONS

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the labels, in order."""
        return tuple(f"{name} {motion}" for name in self.objects for motion in self.motions)

    def clip_class(self, index: int) -> tuple[int, int, int]:
        """(label, object, motion) of clip `index`: the classes in turn, so any run of as many
        clips is one of each and counts that are multiples of their number are balanced."""
        label = index % (len(self.objects) * len(self.motions))
        return label, label // len(self.motions), label % len(self.motions)

    def path(self, split: str, index: int) -> str:
        """Where a clip lies in the folder; in image mode in a folder for each object."""
        if self.images:
            return f"{split}/{self.objects[self.clip_class(index)[1]]}/{index:05d}.png"
        return f"{split}/{index:05d}.mp4"


def refuse(message: str) -> NoReturn:
    """A user's mistake. Imported this late because the workers need nothing of the package."""
    from videohpm.errors import UserError

    raise UserError(message)


def clip_random(seed: int, split: str, index: int) -> np.random.Generator:
    """The random stream of one clip: the same whatever the other clips, counts and workers."""
    return np.random.default_rng((seed, SPLITS.index(split), index))


# --- one clip ------------------------------------------------------------------------------------


def make_clip(settings: Settings, split: str, index: int) -> tuple[np.ndarray, dict]:
    """Frames uint8 (T, H, W, 3) and the truth about the object.

    The truth: `centre`, `radius` and `angle` as in Track, and `cover` uint8 (T, H / 4, W / 4),
    the share of each cell that the object covers, 255 = all of it.
    """
    rng = clip_random(settings.seed, split, index)
    _, kind, motion = settings.clip_class(index)
    size, frames = settings.size, settings.frames
    track = make_track(settings.motions[motion], frames, size, rng, settings.object)
    body, paint, picture = draw_clip(settings, split, settings.objects[kind], track, rng)
    picture += body[..., None] * (paint - picture)
    cells = body.reshape(frames, size // CELL, CELL, size // CELL, CELL)
    cover = np.rint(255 * cells.mean((2, 4))).astype(np.uint8)
    return np.rint(255 * picture.clip(0, 1)).astype(np.uint8), vars(track) | {"cover": cover}


def draw_clip(
    settings: Settings, split: str, name: str, track: Track, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Coverage (T, H, W) by the object, its colours and those of the ground (T, H, W, 3)."""
    size, frames = settings.size, settings.frames
    if settings.sprites:
        paths = pictures.pictures_of(settings.sprites, split)[name]
        body, paint = pictures.draw_sprite(paths[rng.integers(len(paths))], track, size)
    else:
        body, half = draw_object(name, track, size, rng.uniform(0, 2 * np.pi))
        tint = rng.uniform(-0.06, 0.06, (2, 3)).astype(np.float32)
        dim, light = 0.62 + tint[0], 0.95 + tint[1]
        paint = dim + half[..., None] * (light - dim)
    if settings.backgrounds:
        by_class = pictures.pictures_of(settings.backgrounds, split).values()
        paths = [path for paths in by_class for path in paths]
        ground = pictures.draw_ground(paths[rng.integers(len(paths))], frames, size, rng)
    else:
        ground = draw_background(frames, size, rng)
    return body, paint, ground


def write_video(path: Path, frames: np.ndarray) -> None:
    """H.264 without B-frames in closed groups of 8, which every reader decodes alike; one
    encoder thread and no metadata, so that equal frames give equal bytes."""
    options = {"preset": "veryfast", "crf": "16", "x264-params":
               "keyint=8:min-keyint=8:scenecut=0:open-gop=0:bframes=0:threads=1"}  # fmt: skip
    with av.open(str(path), "w", options={"fflags": "+bitexact"}) as file:
        stream = file.add_stream("libx264", rate=FPS, options=options)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        file.mux(stream.encode())


# --- the folder ---------------------------------------------------------------------------------


def write_part(folder: Path, settings: Settings, part: int, parts: int) -> None:
    """One worker's share of the clips, a run of each split, and the truth about their objects."""
    for split in SPLITS:
        count = getattr(settings, split)
        truths = []
        for index in range(count * part // parts, count * (part + 1) // parts):
            frames, truth = make_clip(settings, split, index)
            truths.append(truth)
            path = folder / settings.path(split, index)
            path.parent.mkdir(parents=True, exist_ok=True)
            if settings.images:
                Image.fromarray(frames[0]).save(path)
            else:
                write_video(path, frames)
        if truths:
            share = {name: np.stack([truth[name] for truth in truths]) for name in truths[0]}
            np.savez(folder / f"{split}-{part:02d}.npz", **share)


def run_parts(folder: Path, settings: Settings, workers: int) -> None:
    """Write all clips in `workers` processes of this very file, showing how far they are."""
    total = settings.train + settings.validation
    arguments = [sys.executable, __file__, "--part", str(folder), json.dumps(asdict(settings))]
    processes = [subprocess.Popen([*arguments, str(part), str(workers)]) for part in range(workers)]
    try:
        while any(worker.poll() is None for worker in processes):
            if sys.stderr.isatty():
                done = sum(len(files) for _, _, files in os.walk(folder))
                print(f"\rshapes: {min(done, total)} of {total}", end="", file=sys.stderr)
            time.sleep(0.1)
    finally:
        for worker in processes:
            worker.terminate()
            worker.wait()
        if sys.stderr.isatty():
            print("\r\033[K", end="", file=sys.stderr)
    if any(worker.returncode for worker in processes):
        raise RuntimeError("a worker failed; its message is above")


def join_truth(folder: Path) -> None:
    """Put the workers' shares together: objects-SPLIT.npz, clips in manifest order."""
    for split in SPLITS:
        paths = sorted(folder.glob(f"{split}-*.npz"))
        shares = [dict(np.load(path)) for path in paths]
        whole = {name: np.concatenate([share[name] for share in shares]) for name in shares[0]}
        np.savez_compressed(folder / f"objects-{split}.npz", **whole)
        for path in paths:
            path.unlink()


def write_manifests(folder: Path, settings: Settings) -> None:
    """SPLIT.csv, and the same with one factor as the label; the classes of each, in order."""
    what = "class" if settings.sprites else "shape"
    kinds = [("", 1, settings.objects)]  # an image has an object only
    if not settings.images:
        kinds = [("", 0, settings.classes), (f"-{what}", 1, settings.objects),
                 ("-motion", 2, settings.motions)]  # fmt: skip
    for suffix, kind, names in kinds:
        (folder / f"classes{suffix}.txt").write_text("".join(f"{name}\n" for name in names))
        for split in SPLITS:
            with open(folder / f"{split}{suffix}.csv", "w", newline="") as file:
                rows = csv.writer(file, lineterminator="\n")
                told = 1 if settings.images else 2
                rows.writerow(("path", "label", "frames", *(what, "motion")[:told]))
                for index in range(getattr(settings, split)):
                    classes = settings.clip_class(index)
                    factors = settings.objects[classes[1]], settings.motions[classes[2]]
                    path = settings.path(split, index)
                    rows.writerow((path, classes[kind], settings.frames, *factors[:told]))


def is_ready(out: Path, settings: Settings, force: bool) -> bool:
    """Whether `out` holds just this data set already; UserError where it must not be touched."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    try:
        found = json.loads((out / "shapes.json").read_text())
    except (OSError, ValueError):
        refuse(f"{out}: exists and is not a shapes data set; name another folder with --out")
    wanted = asdict(settings)
    if not isinstance(found, dict) or "version" not in found:
        refuse(f"{out}: its shapes.json is not a shapes data set's; name another folder with --out")
    if force:
        return False
    found = {"object": 1.0, "sprites": None, "backgrounds": None} | found  # old ones do not say
    other = [name for name in wanted if found.get(name) != wanted[name]]
    if other:
        refuse(f"{out}: made with other settings ({', '.join(other)}); name another folder with "
               "--out, or replace it with --force")  # fmt: skip
    clips = [out / settings.path(split, i) for split in SPLITS for i in range(wanted[split])]
    if not all(clip.is_file() for clip in clips):
        refuse(f"{out}: some of its clips are missing; make it anew with --force")
    return True


def prepare(
    out: str | os.PathLike, train: int = 1024, validation: int = 256, *, size: int = 64,
    frames: int = 16, seed: int = 0, images: bool = False, object: float = 1.0,
    sprites: str | os.PathLike | None = None, backgrounds: str | os.PathLike | None = None,
    workers: int = 2, force: bool = False,
) -> Path:  # fmt: skip
    """Write the data set into the folder `out` and return it; see README.md for the layout.

    The folder appears when it is complete. One that was made with the same settings is left
    alone; other settings, or a folder that is something else, raise UserError. `force` replaces
    a shapes data set, and nothing else.
    """
    folders = (None if folder is None else str(folder) for folder in (sprites, backgrounds))
    settings = Settings(
        train, validation, size, 1 if images else frames, seed, images, object, *folders
    )
    if not isinstance(workers, int) or not 1 <= workers <= 64:
        refuse(f"workers: {workers!r} is not a whole number from 1 to 64")
    out = Path(out)
    if is_ready(out, settings, force):
        print(f"shapes: {out} is complete already")
        return out
    try:
        out.absolute().parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.absolute().parent))
    except (FileExistsError, NotADirectoryError, PermissionError) as error:
        refuse(f"{out}: cannot be made ({error.strerror}); name another folder with --out")
    try:
        folder = work / "new"
        folder.mkdir()
        run_parts(folder, settings, workers)
        join_truth(folder)
        write_manifests(folder, settings)
        (folder / "shapes.json").write_text(json.dumps(asdict(settings), indent=1) + "\n")
        if out.exists():
            out.rename(work / "old")
        folder.rename(out)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    kind = "images" if images else "clips"
    print(f"shapes: {train} training and {validation} validation {kind} in {out}")
    return out


def main(arguments: list[str] | None = None) -> int:
    """The command line; a user's mistake is one line and exit code 2."""
    from videohpm.errors import UserError

    parser = argparse.ArgumentParser(
        prog="videohpm data prepare shapes",
        description="Write the shapes data set: small videos of moving objects, in seconds.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--out", default="data/shapes", help="folder to write")
    parser.add_argument("--train", type=int, default=1024, help="training clips (32 classes)")
    parser.add_argument("--validation", type=int, default=256, help="validation clips")
    parser.add_argument("--size", type=int, default=64, help="height and width in pixels")
    parser.add_argument("--frames", type=int, default=16, help=f"frames a clip, at {FPS} a second")
    parser.add_argument("--seed", type=int, default=0, help="another seed, other clips")
    parser.add_argument("--images", action="store_true", help="one PNG a clip, not a video")
    parser.add_argument("--object", type=float, default=1.0, help="times its usual width; 1.75: "
                        "over a third of the frame, not an eighth")  # fmt: skip
    parser.add_argument("--sprites", help="folder of a folder of pictures per class: the objects")
    parser.add_argument("--backgrounds", help="folder of folders of pictures: the grounds")
    parser.add_argument("--workers", type=int, default=2, help="processes that draw and encode")
    parser.add_argument("--jobs", help=argparse.SUPPRESS)  # its name in earlier versions
    parser.add_argument("--force", action="store_true", help="replace a data set in that folder")
    try:
        options = vars(parser.parse_args(arguments))
        if options.pop("jobs") is not None:
            refuse("jobs: was renamed to workers; use that name")
        prepare(**options)
    except UserError as error:
        print(f"prepare.py: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--part"]:
        place, recipe, *share = sys.argv[2:]
        write_part(Path(place), Settings(**json.loads(recipe)), *map(int, share))
    else:
        sys.exit(main())
