"""Transcoded copies: the same frames in the same order, fast to read, whole or not there."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from painted import encode, numbers

from videohpm import cli
from videohpm.data import find_samples, read_frames, read_video_info
from videohpm.data import transcode as transcoding
from videohpm.data.killable_pool import run_killable


def run(*arguments):
    assert cli.main(["data", "transcode", *map(str, arguments), "--workers", "1"]) == 0


def table(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Files whose random access is slow or wrong in some reader."""
    folder = tmp_path_factory.mktemp("videos")
    quiet = {"x265-params": "log-level=none:keyint=30"}
    open_groups = {"x264-params": "open-gop=1:bframes=3:threads=1"}
    encode(folder / "hevc.mp4", "libx265", 30, options=quiet)
    encode(folder / "open.mkv", "libx264", 30, options=open_groups)
    encode(folder / "b.avi", "mpeg4", 30, b_frames=2)
    encode(folder / "ten_bit.mp4", "libx264", 30, pix_fmt="yuv420p10le")
    ticks = [3 * i + 7 * i % 3 for i in range(30)]
    encode(folder / "uneven.mp4", "libx264", 30, ticks=ticks)
    (folder / "deep").mkdir()
    encode(folder / "deep/full_range.avi", "mjpeg", 30, pix_fmt="yuvj420p")
    encode(folder / "deep/turned.mp4", "libx264", 30, rotation=90)
    (folder / "bad.mp4").write_text("not a video")
    return folder


@pytest.fixture(scope="module")
def copies(videos, tmp_path_factory):
    out = tmp_path_factory.mktemp("copies")
    run(videos, out, "--quality", 10)
    return out


def test_copies_hold_the_same_frames(videos, copies):
    found = {row["path"]: row for row in table(copies / "manifest.csv")}
    assert len(found) == 7
    for name in found:
        source = next(p for p in videos.rglob("*") if str(p.relative_to(videos))[:-4] == name[:-4])
        copy, indices = copies / name, [0, 13, 29]
        assert found[name]["frames"] == "30" == str(read_video_info(source).frames)
        right, read = read_frames(source, indices), read_frames(copy, indices)
        assert right.shape == read.shape
        assert np.abs(right.astype(int).mean((1, 2)) - read.mean((1, 2))).max() < 4, name
        if "turned" not in name:
            assert numbers(read) == indices


def test_copies_are_fast_to_read_and_keep_their_times(videos, copies):
    import av

    for path in copies.rglob("*.mp4"):
        with av.open(str(path)) as file:
            packets = [packet for packet in file.demux(video=0) if packet.size]
        assert [p.is_keyframe for p in packets] == [i % 12 == 0 for i in range(30)]
        assert [p.pts for p in packets] == sorted(p.pts for p in packets)
        assert read_video_info(path).reader in ("torchcodec", "decord", "pyav")
    for name in ("uneven.mp4", "hevc.mp4"):
        times = []
        for folder in (videos, copies):
            with av.open(str(folder / name)) as file:
                times.append([frame.time for frame in file.decode(video=0)])
        assert np.allclose(np.diff(times[0]), np.diff(times[1]), atol=1e-3)


FAST_TO_DECODE = {"cabac=0", "deblock=0:0:0"}


def encoded_with(path) -> set[str]:
    """The encoder's settings, which it notes in the stream."""
    return set(Path(path).read_bytes().partition(b"options: ")[2][:900].decode("latin1").split())


def test_copies_of_longer_groups_keep_the_stronger_compression(copies):
    for path in copies.rglob("*.mp4"):
        assert {"cabac=1", "deblock=1:0:0"} <= encoded_with(path)


def test_copies_of_key_frames_alone(videos, tmp_path):
    import av

    run(videos, tmp_path / "out", "--group", 1, "--quality", 10)
    rows = table(tmp_path / "out/manifest.csv")
    assert len(rows) == 7 and {(row["reader"], row["group"]) for row in rows} == {("intra", "1")}
    samples = find_samples(tmp_path / "out/manifest.csv")
    for sample in samples:
        with av.open(sample.path) as file:
            assert all(packet.is_keyframe for packet in file.demux(video=0) if packet.size)
        assert encoded_with(sample.path) >= FAST_TO_DECODE
        by_name = next(p for p in videos.rglob("*") if p.stem == Path(sample.path).stem)
        read = read_frames(sample.path, [29, 0, 13], reader=sample.reader, size=sample.size)
        right = read_frames(by_name, [29, 0, 13])
        assert np.abs(right.astype(int).mean((1, 2)) - read.mean((1, 2))).max() < 4, by_name
        for i in range(30):
            one = read_frames(sample.path, [i], reader="intra", size=sample.size)
            assert np.array_equal(one, read_frames(sample.path, [i], reader="pyav"))
    run(tmp_path / "out/manifest.csv", tmp_path / "again", "--quality", 10)
    assert list(table(tmp_path / "again/manifest.csv")[0]).count("group") == 1


def test_what_cannot_be_read_is_listed_and_nothing_half_done_is_left(copies):
    (failed,) = table(copies / "failed.csv")
    assert failed["path"].endswith("bad.mp4") and failed["reason"]
    assert not list(copies.rglob("*.partial"))
    assert find_samples(copies / "manifest.csv")[0].frames == 30


def test_a_run_that_was_stopped_goes_on(videos, tmp_path, monkeypatch):
    manifest, out = tmp_path / "list.csv", tmp_path / "out"
    manifest.write_text("path,label,frames\nopen.mkv,walk,9\nb.avi,run,9\n")
    done = []

    def counted(function, items, **limits):
        done.extend(source.split("/")[-1] for source, _ in items)
        return run_killable(function, items, **limits)

    monkeypatch.setattr(transcoding, "run_killable", counted)
    small = ["--root", videos, "--short_side", 32]
    run(manifest, out, *small)
    rows = [(row["path"], row["label"], row["frames"]) for row in table(out / "manifest.csv")]
    assert rows == [("open.mp4", "walk", "30"), ("b.mp4", "run", "30")]
    info = read_video_info(out / "b.mp4")
    assert (info.height, info.width) == (32, 64)
    (out / "b.mp4").rename(transcoding.partial_of(out / "b.mp4"))  # as if stopped there
    run(manifest, out, *small)
    assert done == ["open.mkv", "b.avi", "b.avi"] and not list(out.glob(".*.partial"))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--short_side", "1"], "short_side"),
        (["--quality", "99"], "quality"),
        (["--group", "many"], "group"),
        (["--group", "0"], "group"),
    ],
)
def test_mistakes(videos, tmp_path, capsys, options, told):
    out = str(tmp_path / "out")
    assert cli.main(["data", "transcode", str(videos), out, *options]) == 2
    assert told in capsys.readouterr().err


@pytest.mark.parametrize("shard", [[], ["--shard", "1/2"]])
def test_folders_that_are_none(videos, tmp_path, capsys, shard):
    (tmp_path / "file").write_text("")
    for out in ("file", "file/deeper"):
        assert cli.main(["data", "transcode", str(videos), str(tmp_path / out), *shard]) == 2
        said = capsys.readouterr().err
        assert "out: " in said and "file is not a folder" in said and said.count("\n") == 1
    for root, told in (("nowhere", "is not a folder"), (".", "does not lie in")):
        given = [str(videos), str(tmp_path / "out"), "--root", str(tmp_path / root)]
        assert cli.main(["data", "transcode", *given, *shard]) == 2
        said = capsys.readouterr().err
        assert "root: " in said and told in said and said.count("\n") == 1


def test_copies_of_a_folder_keep_the_path_from_the_root(videos, tmp_path):
    run(videos / "deep", tmp_path / "out", "--root", videos)
    assert [row["path"] for row in table(tmp_path / "out/manifest.csv")] == [
        "deep/full_range.mp4", "deep/turned.mp4"
    ]  # fmt: skip


def test_folders_that_must_not_be_mixed(videos, tmp_path, capsys):
    out = tmp_path / "out"
    out.mkdir()
    (out / "diary.txt").write_text("mine")
    assert cli.main(["data", "transcode", str(videos), str(out)]) == 2
    assert "empty folder" in capsys.readouterr().err
    (out / "diary.txt").unlink()
    (out / "transcode.json").write_text(json.dumps({"short_side": 64}))
    assert cli.main(["data", "transcode", str(videos), str(out)]) == 2
    assert "other settings" in capsys.readouterr().err
    (tmp_path / "l.csv").write_text("path\nopen.mkv\nopen.avi\n")
    again = ["data", "transcode", str(tmp_path / "l.csv"), "--root", str(videos)]
    assert cli.main([*again[:3], str(tmp_path / "new"), *again[3:]]) == 2
    assert "would both be open.mp4" in capsys.readouterr().err


def test_shards_make_the_copy_and_the_lists_of_a_whole_one(tmp_path, capsys):
    """40 files, two of them bad, in four shards: the lists are the same byte for byte."""
    source = tmp_path / "source"
    one = encode(tmp_path / "one.mp4", "libx264", 4)
    source.mkdir()
    for number in range(40):
        bad = number in (5, 30)
        (source / f"{number:02}.mp4").write_bytes(b"bad" if bad else one.read_bytes())
    run(source, tmp_path / "whole")
    parts = tmp_path / "parts"
    for shard in ("2/4", "1/4", "4/4"):
        run(source, parts, "--shard", shard)
    given = ["data", "transcode", str(source), str(parts), "--merge", "4"]
    assert cli.main(given) == 2 and not (parts / "manifest.csv").exists()
    assert "shard 3/4 lacks 10 videos" in capsys.readouterr().err
    run(source, parts, "--shard", "3/4")
    assert cli.main(given) == 0
    for name in ("manifest.csv", "failed.csv", "transcode.json"):
        assert (parts / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert len(table(parts / "manifest.csv")) == 38
    (parts / "01.mp4").unlink()
    assert cli.main(given) == 2
