"""Options of the commands that take no configuration file: their names, documentation and checks.

Each function stands for the command of its name: its parameters are the command's options, and it
raises ConfigError for values that cannot be used. The work is done by the function that
``videohpm.cli.COMMANDS`` names, which takes the same arguments.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from videohpm.config.checks import AUTO, above_zero, at_least, choice, fraction, text_path
from videohpm.config.data import KINDS, SAMPLINGS
from videohpm.config.engine import check_device
from videohpm.errors import ConfigError

FEATURES = ("pooled", "tokens", "both")
FEATURE_TYPES = ("float32", "float16")
FEATURE_FORMATS = ("safetensors", "npz")
PICTURE_SUFFIXES = (".png", ".gif", ".mp4")
CELL = 112
"""Height of a frame in a picture, pixels."""


def visualize(
    checkpoint: str,
    videos: list[str],
    output: str = "pictures.png",
    ratio: float | None = None,
    hard_ratio: float | None = None,
    stride: int | None = None,
    seed: int = 0,
    cell: int = CELL,
    fps: float = 4.0,
    device: str = "cpu",
    compare: list[str] | None = None,
) -> None:
    """Draw what a model and its teacher see in videos (or images, for a model of images).

    Args:
        checkpoint: run folder, checkpoint or export.
        videos: files; a clip is taken from the middle of each.
        output: file to write; .png shows time steps side by side, .gif and .mp4 play them.
        ratio: share of tubes (or tokens) to hide; what the run was trained with if left out.
        hard_ratio: share of those that the teacher chooses; what the run had come to if left out.
        stride: frames of the video from one frame of the clip to the next; as trained if left out.
        seed: for the random part of the mask.
        cell: height of a frame in the picture, pixels.
        fps: frames a second of an animation.
        device: auto, cpu, cuda or cuda:N.
        compare: further runs, checkpoints or exports: draws what each of all hides in the same
            clips, which are cut as the first run cuts them.
    """
    picture_suffix(output)
    fraction("ratio", ratio, zero=False, one=False)
    fraction("hard_ratio", hard_ratio)
    at_least("stride", stride, 1)
    at_least("cell", cell, 1)
    above_zero("fps", fps)
    check_device("device", device)


def picture_suffix(path: str | Path) -> str:
    """The suffix of a picture or animation in lower case; ConfigError for one not known."""
    suffix = Path(path).suffix.lower()
    if suffix not in PICTURE_SUFFIXES:
        raise ConfigError(f"output: {path} must end in {', '.join(PICTURE_SUFFIXES)}")
    return suffix


def demo(out: str = "demo", steps: int | None = None, finetune: bool = False) -> None:
    """Make small videos, pre-train a tiny model on them (about five minutes on two cores).

    Args:
        out: folder for the videos and the runs; started again, it goes on there.
        steps: length of the pre-training in optimiser steps; 600 if left out.
        finetune: go on to a classifier that names shape and motion, and test it.
    """
    text_path("out", out)
    at_least("steps", steps, 1)


def report(runs: list[str], output: str = "report.html") -> None:
    """Put runs side by side in one page that needs no network.

    Args:
        runs: run folders.
        output: HTML file to write.
    """


def explore(run: str, port: int = 0) -> None:
    """Show the report of a run, and follow it, until Ctrl-C.

    Only this machine can reach it, and nothing but the report is there.

    Args:
        run: run folder.
        port: where to serve; 0 for any free one.
    """
    if not 0 <= port < 1 << 16:
        raise ConfigError(f"port: {port}; give 0 to {(1 << 16) - 1}")


def features(
    model: str,
    out: str,
    root: str | None = None,
    manifest: str | None = None,
    kind: str = "auto",
    what: str = "pooled",
    format: str = "safetensors",
    dtype: str = "float32",
    clips: int = 1,
    crops: int = 1,
    sampling: str | None = None,
    stride: int | None = None,
    shard: int = 512,
    batch: int = 16,
    workers: int | Literal["auto"] = "auto",
    device: str = "auto",
    timeout: float = 600.0,
) -> None:
    """Write frozen features of a folder or manifest; started again, it continues.

    Args:
        model: run folder, checkpoint or export, of any kind.
        out: folder for the features.
        root: folder of videos or images; also the base of a manifest's paths.
        manifest: file that lists the samples; rows may have no label. Labels are numbered as the
            model's classes, or else are numbers themselves; index.csv also has their names.
        kind: auto (by suffix), video or image: which of the files in a folder of both; frames: each
            folder of pictures is a video.
        what: pooled, tokens or both.
        format: safetensors or npz.
        dtype: float32 or float16.
        clips: clips over the length of each video.
        crops: crops over the frame.
        sampling: dense or segments; as the model was trained if left out.
        stride: of dense sampling; likewise.
        shard: samples in one file.
        batch: clips of one forward pass.
        workers: reading processes for each rank; 0 reads in the main process, auto takes one for
            each core.
        device: auto, cpu, cuda or cuda:N.
        timeout: seconds one process waits for another that gives no sign of life; then all end.
    """
    check_features(what, dtype)
    check_shards(format, shard)
    choice("kind", kind, KINDS)
    text_path("out", out)
    choice("sampling", sampling, (None, *SAMPLINGS))
    sizes = {"clips": clips, "crops": crops, "stride": stride, "batch": batch}
    for name, value in sizes.items():
        at_least(name, value, 1)
    if workers != AUTO:
        at_least("workers", workers, 0)
    check_device("device", device)
    above_zero("timeout", timeout, finite=False)


def check_features(what: str, dtype: str) -> None:
    """ConfigError where features of that kind or number type are not made."""
    choice("what", what, FEATURES)
    choice("dtype", dtype, FEATURE_TYPES)


def check_shards(format: str, shard: int) -> None:
    """ConfigError where features are not written in that format, or in files of that length."""
    choice("format", format, FEATURE_FORMATS)
    at_least("shard", shard, 1)


def predict(
    videos: list[str],
    model: str = "runs/finetune",
    top: int = 5,
    clips: int | None = None,
    crops: int | None = None,
    device: str = "auto",
) -> None:
    """Name the most probable classes of videos, or of images for a model of images.

    Args:
        videos: files, folders of extracted frames, or folders in which there are videos.
        model: run folder of a fine-tuning (its best weights), checkpoint or export.
        top: how many classes.
        clips: clips over the length of each video; as in the model's own test if left out.
        crops: crops over the frame; likewise.
        device: auto, cpu, cuda or cuda:N.
    """
    for name, value in {"top": top, "clips": clips, "crops": crops}.items():
        at_least(name, value, 1)
    check_device("device", device)


def prepare(*arguments: str) -> None:
    """Write the manifests of a data set: the arguments are those of its own script."""


def scan(
    manifest: str,
    root: str | None = None,
    out: str = "scanned.csv",
    labels: bool = False,
    damaged: Literal["keep", "drop"] = "keep",
    workers: int = 0,
    decode_timeout: float = 60.0,
    memory: float = 2.0,
    retry: bool = False,
    shard: str | None = None,
    merge: int = 0,
) -> None:
    """Decode every file of a manifest or folder; list the good ones and the bad ones.

    Writes OUT (the manifest of readable files, with frames, fps, height, width, codec, the reader
    that returns the right frames, and a note on damage), OUT-quarantine.csv (path, reason) and
    OUT-scan.jsonl, from which a scan that was stopped continues.

    Args:
        manifest: manifest file, or a folder that is searched.
        root: folder that the manifest's paths start from, by default its own; of a folder, the
            folder itself or one that holds it.
        out: manifest to write.
        labels: of a folder, take its first-level folders as labels.
        damaged: files that decode in part; keep them as far as they decode, or drop them.
        workers: reading processes; 0 takes one for each core.
        decode_timeout: longest time that reading one file may take, in seconds.
        memory: GB that one file may take (on Linux).
        retry: read files again that could not be read the last time.
        shard: I/N, check the I-th of N parts only (I from 1), as in an array of jobs on a cluster;
            its results are noted in OUT-scan-I-of-N.jsonl.
        merge: N, write the lists, as without shards, when all N shards are complete.
    """
    check_shard(shard, merge)
    choice("damaged", damaged, ("keep", "drop"))
    at_least("workers", workers, 0)
    above_zero("decode_timeout", decode_timeout)
    above_zero("memory", memory, finite=False)


def shard_of(shard: str) -> tuple[int, int]:
    """(number from 1, number of shards) of "I/N". Raises ConfigError."""
    at, _, of = shard.partition("/")
    if not (at.isdecimal() and of.isdecimal() and 1 <= int(at) <= int(of)):
        raise ConfigError(f"shard: {shard!r}; give I/N, such as 1/4, with I from 1 to N")
    return int(at), int(of)


def check_shard(shard: str | None, merge: int) -> None:
    if shard is not None:
        shard_of(shard)
        if merge:
            raise ConfigError("merge: a shard writes no lists; leave one of shard and merge out")
    at_least("merge", merge, 0)


def readers() -> None:
    """Which readers of videos there are, in the order in which they are asked, and why not."""


def transcode(
    manifest: str,
    out: str,
    root: str | None = None,
    short_side: int = 320,
    group: int = 12,
    quality: int = 20,
    square_pixels: bool = False,
    labels: bool = False,
    workers: int = 0,
    decode_timeout: float = 600.0,
    memory: float = 4.0,
    shard: str | None = None,
    merge: int = 0,
) -> None:
    """Copy the videos of a manifest or folder into OUT as small H.264 files for fast reading.

    A file appears under its name when it is complete, so a run that was stopped continues. Writes
    OUT/manifest.csv (with frames, size, reader and group) and OUT/failed.csv (path, reason).

    Args:
        manifest: manifest file, or a folder that is searched.
        out: folder to write to; files keep their relative paths, with the suffix .mp4.
        root: folder that the manifest's paths start from, by default its own; of a folder, the
            folder itself or one that holds it.
        short_side: pixels of the shorter side; smaller videos keep their size.
        group: frames from one key frame to the next: fewer are faster to read and larger. With 1,
            the form for training, only the frames of a clip are decoded, and they are stored so
            that decoding is cheap (CAVLC, no deblocking: a tenth larger, .2 to .7 dB less).
        quality: the encoder's constant rate factor: lower is better and larger.
        square_pixels: apply the pixel aspect ratio, so that the copy has the displayed shape; by
            default the stored pixels, as published models see them.
        labels: of a folder, take its first-level folders as labels.
        workers: reading and encoding processes; 0 takes one for each core.
        decode_timeout: longest time that reading and encoding one file may take, in seconds.
        memory: GB that one file may take (on Linux).
        shard: I/N, copy the I-th of N parts only (I from 1), without lists.
        merge: N, write the lists when all N shards are complete; nothing is encoded.
    """
    check_shard(shard, merge)
    at_least("short_side", short_side, 2)
    at_least("group", group, 1)
    if not 0 <= quality <= 51:
        raise ConfigError(f"quality: {quality}; give 0 to 51")
    at_least("workers", workers, 0)
    above_zero("decode_timeout", decode_timeout)
    above_zero("memory", memory, finite=False)
