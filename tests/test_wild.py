"""A folder of good files and of odd ones of every kind, through every command that reads it.

Each command ends with the exit code that is documented, names what it left out, and prints no
traceback.
"""

import csv
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from damaged import damage
from odd_videos import (
    X264,
    marked_as_key,
    resized,
    rewrite,
    turning,
    with_cover,
    with_matrix,
)
from painted import encode
from PIL import Image

from videohpm.cli import main
from videohpm.evaluate import UNREADABLE

SUFFIXES = (".mp4", ".mkv", ".avi", ".webm", ".ts")
PICTURES = (".png", ".jpg", ".tif", ".gif")
IN_BAND = {"x264-params": X264["x264-params"] + ":repeat-headers=1:bframes=0"}
NO_MATRIX = {"x264-params": X264["x264-params"] + ":colormatrix=YCgCo"}
TINY = ["--model.image_size", "32", "--model.patch", "8", "--model.dim", "24", "--model.depth", "1",
        "--model.heads", "2"]  # fmt: skip
CLIP = ["--model.frames", "4", "--model.tubelet", "2"]
PICTURE = ["--model.frames", "1", "--model.tubelet", "1"]


def make_videos(folder: Path) -> None:
    """Good videos in two classes, odd ones among them."""
    for name in "ab":
        (folder / name).mkdir(parents=True)
        for i in range(3):
            encode(folder / f"{name}/good_{name}{i}.mp4", "libx264", 20, options=X264)
    good = folder / "a/good_a0.mp4"
    # What is read in whole or in part.
    (folder / "a/no_table.mp4").write_bytes(good.read_bytes().replace(b"stss", b"free"))
    rewrite(good, folder / "a/all_keys.mkv", marked_as_key)
    parts = [folder / f"part{i}.mp4" for i in range(2)]
    for part, size in zip(parts, [(48, 96), (96, 48)], strict=True):
        resized(part, "libx264", size, options=IN_BAND)
    rewrite(parts[0], folder / "b/size_changes.mp4", more=parts[1:])
    for part in parts:
        part.unlink()
    with_matrix(encode(folder / "a/mirrored.mp4", "libx264", 20), -1, 0, 0, 1)
    encode(folder / "a/turned.mp4", "libx264", 20, rotation=90)
    encode(folder / "b/interlaced.mp4", "libx264", 20, options={"x264-params": "tff=1:threads=1"})
    encode(folder / "b/asp.avi", "mpeg4", 20, b_frames=2)
    encode(folder / "b/ten_bit.mkv", "libx264", 20, pix_fmt="yuv420p10le")
    rewrite(good, folder / "b/cut.mp4", turning)
    for i, name in enumerate(
        ["cam1:2024.mp4", "two\nlines.mp4", "c\rr.mp4", "\udcff.mp4", "$x$.mp4"]
    ):
        shutil.copy(good, folder / "ab"[i % 2] / name)
    # What is not.
    with_cover(folder / "a/song.mp4")
    encode(folder / "a/no_matrix.mp4", "libx264", 20, options=NO_MATRIX)
    with_matrix(encode(folder / "b/tilted.mp4", "libx264", 5), 0.7, 0.7, -0.7, 0.7)
    for kind in ("empty", "text", "zeros", "truncated_10", "sound", "bomb"):
        damage(good, folder / f"a/{kind}\udcfe.mp4", kind, 0)


LEFT_OUT = {"song.mp4", "no_matrix.mp4", "tilted.mp4"} | {
    f"{kind}\udcfe.mp4" for kind in ("empty", "text", "zeros", "truncated_10", "sound", "bomb")
}


def make_pictures(folder: Path) -> None:
    """Good pictures in two classes, odd ones among them."""
    rng = np.random.default_rng(0)
    for name in "ab":
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(4):
            pixels = rng.integers(0, 256, (40, 50, 3), np.uint8)
            Image.fromarray(pixels).save(folder / f"{name}/picture_{name}{i}.png")
    picture = Image.fromarray(rng.integers(0, 256, (40, 50, 3), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.save(folder / "a/turned.jpg", exif=exif)
    for mode in ("P", "LA", "1"):
        picture.convert(mode).save(folder / f"b/{mode}.png")
    picture.convert("CMYK").save(folder / "b/cmyk.tif")
    Image.fromarray(np.full((1, 1), 40000, np.uint16)).save(folder / "b/deep.png")
    Image.fromarray(np.ones((40, 50), np.float32)).save(folder / "a/floats.tif")
    data = (folder / "a/picture_a0.png").read_bytes()
    (folder / "a/half.png").write_bytes(data[: len(data) // 2])
    (folder / "b/text\n\udcff.jpg").write_bytes(b"no picture")


LEFT_OUT_PICTURES = {"floats.tif", "half.png", "text\n\udcff.jpg"}


@pytest.fixture(scope="module")
def wild(tmp_path_factory) -> Path:
    """One folder of all of it, and of what is neither."""
    folder = tmp_path_factory.mktemp("wild") / "data"
    make_videos(folder)
    make_pictures(folder)
    (folder / "a/notes.txt").write_text("left alone")
    (folder / "b/model").mkdir()
    (folder / "b/model/config.json").write_text("{}")
    return folder


class Commands:
    """Runs commands on one folder in this process."""

    def __init__(self, folder: Path, runs: Path, kind: str, capsys):
        self.folder, self.runs, self.kind, self.capsys = folder, runs, kind, capsys
        suffixes = SUFFIXES if kind == "video" else PICTURES
        self.files = [str(p) for p in sorted(folder.rglob("*"), key=os.fsencode)
                      if p.suffix in suffixes]  # fmt: skip
        self.sizes = [*TINY, *(CLIP if kind == "video" else PICTURE)]
        self.train = ["--data.kind", kind, "--data.root", str(folder), "--data.workers", "0",
                      "--data.max_bad_fraction", "0.9", "--data.stride", "2",
                      "--optim.global_batch_size", "8", "--optim.warmup_epochs", "0",
                      "--run.steps", "6", "--engine.device", "cpu"]  # fmt: skip

    def run(self, *arguments: str) -> tuple[int, str]:
        code = main([str(a) for a in arguments])
        said = self.capsys.readouterr()
        text = said.out + said.err
        assert "Traceback" not in text
        return code, text

    def bad_files(self, run: str) -> set[str]:
        lines = (self.runs / run / "bad_files.jsonl").read_text().splitlines()
        return {os.path.basename(json.loads(line)["path"]) for line in lines}

    def pretrain(self):
        return self.run("pretrain", "--run.dir", self.runs / "pretrain", *self.sizes, *self.train,
                        "--model.decoder_dim", "24", "--model.decoder_depth", "1",
                        "--model.decoder_heads", "2")  # fmt: skip

    def finetune(self):
        return self.run("finetune", "--run.dir", self.runs / "finetune", "--model.init",
                        self.runs / "pretrain", *self.train, "--augment.rand_augment", "",
                        "--validation.root", self.folder, "--test.clips", "1",
                        "--test.crops", "1")  # fmt: skip

    def evaluate(self):
        return self.run("evaluate", "--model", self.runs / "finetune", "--device", "cpu",
                        "--data.root", self.folder, "--data.kind", self.kind,
                        "--data.workers", "0")  # fmt: skip

    def predict(self):
        return self.run("predict", *self.files, "--model", self.runs / "finetune",
                        "--device", "cpu")  # fmt: skip

    def features(self):
        return self.run("features", self.runs / "finetune", self.runs / "features",
                        "--root", self.folder, "--kind", self.kind, "--workers", "0",
                        "--device", "cpu")  # fmt: skip

    def probe(self):
        return self.run("probe", "--model", self.runs / "pretrain", "--train", self.folder,
                        "--validation", self.folder, "--kind", self.kind, "--workers", "0",
                        "--epochs", "1", "--device", "cpu")  # fmt: skip

    def scan(self):
        return self.run("data", "scan", self.folder, "--out", self.runs / "scanned.csv",
                        "--labels", "true", "--workers", "2")  # fmt: skip


def column(file: Path, name: str, chosen=lambda row: True) -> set[str]:
    """Base names of the files in one column of a table."""
    with file.open(newline="", encoding="utf-8", errors="surrogateescape") as text:
        return {os.path.basename(row[name]) for row in csv.DictReader(text) if chosen(row)}


def check_all(commands: Commands, left_out: set[str], short: set[str] = frozenset()) -> None:
    """Every command, in the order in which they need each other; training refuses ``short`` too."""
    readable = {os.path.basename(file) for file in commands.files} - left_out
    code, said = commands.pretrain()
    assert code == 0, said
    assert commands.bad_files("pretrain")
    assert commands.bad_files("pretrain") <= left_out | short
    code, said = commands.finetune()
    assert code == 0, said
    assert commands.bad_files("finetune") <= left_out | short and "could not be read" in said
    code, said = commands.evaluate()
    assert code == UNREADABLE, said
    assert f"{len(readable)} of {len(commands.files)} scored" in said
    out = commands.runs / "finetune/evaluation"
    summary = json.loads((out / "evaluation.json").read_text())
    assert {os.path.basename(one["path"]) for one in summary["unreadable"]} == left_out
    assert all(one["reason"] for one in summary["unreadable"])
    code, said = commands.predict()
    assert code == UNREADABLE and said.count("could not be read") == len(left_out)
    code, said = commands.features()
    assert code == UNREADABLE and f"of {len(readable)} of {len(commands.files)} samples" in said
    index = commands.runs / "features/index.csv"
    assert column(index, "path", lambda row: row["error"]) == left_out
    assert column(index, "path", lambda row: not row["error"]) == readable
    code, said = commands.probe()
    assert code == UNREADABLE, said
    assert f"{len(readable)} of {len(commands.files)} validation samples scored" in said
    for to in ("videohpm", "huggingface", "videomae"):
        code, said = commands.run(
            "convert", commands.runs / "finetune", commands.runs / to, "--to", to
        )
        assert code == 0, said


@pytest.fixture(scope="module")
def cases(shared, tmp_path_factory) -> Path:
    """Files that went wrong elsewhere, all of them, beside good ones."""
    if not (shared / "cases").is_dir():
        pytest.skip("the files of ../shared/cases are not on this machine")
    folder = tmp_path_factory.mktemp("cases") / "data"
    shutil.copytree(shared / "cases", folder / "a")
    (folder / "b").mkdir()
    for i in range(6):
        encode(folder / f"b/good{i}.mp4", "libx264", 20, options=X264)
        Image.fromarray(np.full((40, 50, 3), 40 * i, np.uint8)).save(folder / f"b/picture{i}.png")
    return folder


@pytest.mark.slow
def test_videos(wild, tmp_path, capsys):
    """29 videos, seven commands."""
    check_all(Commands(wild, tmp_path, "video", capsys), LEFT_OUT, {"cut.mp4"})


@pytest.mark.slow
def test_pictures(wild, tmp_path, capsys):
    check_all(Commands(wild, tmp_path, "image", capsys), LEFT_OUT_PICTURES)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "left_out", "short"),
    [
        ("video", {"audio_cover.mp4", "mx8.ts"}, {"sei_rot90.mp4"}),
        ("image", {"f32.tif"}, set()),
    ],
)
def test_cases_from_elsewhere(cases, tmp_path, capsys, kind, left_out, short):
    check_all(Commands(cases, tmp_path, kind, capsys), left_out, short)


def check_scan(folder, runs, capsys, left_out: set[str], partly: set[str]) -> Commands:
    commands = Commands(folder, runs, "video", capsys)
    code, said = commands.scan()
    assert code == 0, said
    everything = [p for p in folder.rglob("*") if p.suffix in SUFFIXES + PICTURES]
    assert f"{len(everything) - len(left_out)} of {len(everything)} readable" in said
    assert column(runs / "scanned-quarantine.csv", "path") == left_out
    assert column(runs / "scanned.csv", "path", lambda row: row["note"]) == partly
    return commands


@pytest.mark.slow
def test_a_scan_of_both_and_what_is_read_by_its_list(wild, tmp_path, capsys):
    left_out = LEFT_OUT | LEFT_OUT_PICTURES
    commands = check_scan(wild, tmp_path, capsys, left_out, {"size_changes.mp4", "cut.mp4"})
    listed = ["--data.manifest", tmp_path / "scanned.csv", "--data.kind", "video"]
    code, said = commands.run(
        *("pretrain", "--run.dir", tmp_path / "p", *commands.sizes, *commands.train, *listed),
        *("--model.decoder_dim", "24", "--model.decoder_depth", "1", "--model.decoder_heads", "2"),
        *("--data.short_videos", "repeat", "--data.root", "/"),
    )
    assert code == 0 and not (tmp_path / "p/bad_files.jsonl").exists(), said


@pytest.mark.slow
def test_a_scan_and_a_copy_of_cases_from_elsewhere(cases, tmp_path, capsys):
    left_out = {"audio_cover.mp4", "mx8.ts", "f32.tif"}
    partly = {"sei_rot90.mp4", "size_change_vp9.webm", "turn.mp4"}
    commands = check_scan(cases, tmp_path, capsys, left_out, partly)
    code, said = commands.run("data", "transcode", cases, tmp_path / "copy", "--workers", "2")
    assert code == 0 and "failed.csv" in said
    failed = column(tmp_path / "copy/failed.csv", "path")
    assert failed == (left_out | partly) - {"f32.tif"}, said


def test_a_folder_of_both_kinds_asks_which(wild, tmp_path, capsys):
    commands = Commands(wild, tmp_path, "auto", capsys)
    code, said = commands.pretrain()
    assert code == 2 and said.count("\n") == 1 and "kind: video or kind: image" in said
