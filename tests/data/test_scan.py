"""Killable workers, and scans over folders of good and damaged files."""

import csv
import json
import os
import tracemalloc

import pytest
from damaged import KINDS, damage
from misbehaving import misbehave
from painted import copy_packets, encode
from PIL import Image

from videohpm import cli
from videohpm.data import find_samples, sample_files
from videohpm.data import scan as scanning
from videohpm.data.killable_pool import Failed, run_killable
from videohpm.data.scan import every_nth, list_names
from videohpm.errors import RunError


def test_a_bad_item_costs_only_itself():
    items = [1, "die", 2, "hang", 3, "leave", "grow", 4, "raise", "hang in native code", 5]
    found = dict(run_killable(misbehave, items, jobs=2, seconds=1.5, memory=1))
    assert sorted(found) == list(range(len(items)))
    assert [found[i] for i in range(len(items)) if isinstance(items[i], int)] == [2, 4, 6, 8, 10]
    told = {"hang": "within 1.5 s", "die": "SIGSEGV", "leave": "exit code 3", "grow": "1 GB",
            "raise": "KeyError", "hang in native code": "within 1.5 s"}  # fmt: skip
    for item, words in told.items():
        failed = found[items.index(item)]
        assert isinstance(failed, Failed) and words in failed.reason and "\n" not in failed.reason


def test_no_items_need_no_workers():
    assert list(run_killable(misbehave, [], jobs=4, seconds=1, memory=1)) == []


def test_a_worker_that_is_killed_from_outside_costs_nothing(tmp_path, caplog):
    items = [1, ("killed", str(tmp_path / "a"), 2), 2, ("killed", str(tmp_path / "b"), 1), 3]
    found = dict(run_killable(misbehave, items, jobs=3, seconds=60, memory=1))
    assert found == {0: 2, 1: 3, 2: 4, 3: 2, 4: 6}
    assert "killed from outside" in caplog.text and caplog.text.count("going on with 1") == 2


def test_workers_that_are_killed_again_and_again_end_the_command(tmp_path):
    items = [("killed", str(tmp_path / "a"), 1000), 1]
    with pytest.raises(RunError, match="each of the last 10 .* fewer --workers"):
        list(run_killable(misbehave, items, jobs=1, seconds=60, memory=1))


def test_workers_end_when_nobody_listens_any_more():
    results = run_killable(misbehave, range(10), jobs=2, seconds=60, memory=1)
    next(results)
    results.close()


# --- scans ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """One small H.264 file."""
    folder = tmp_path_factory.mktemp("good")
    options = {"x264-params": "keyint=12:min-keyint=12:scenecut=0:threads=1"}
    path = encode(folder / "late.mp4", "libx264", 24, options=options)
    # Its index in front, so that truncated copies decode in part.
    return copy_packets(path, folder / "good.mp4", options={"movflags": "faststart"})


def read_table(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def run(*arguments):
    assert cli.main(["data", "scan", *map(str, arguments)]) == 0


def test_scan_of_good_and_damaged_files(good, tmp_path):
    folder = tmp_path / "videos"
    folder.mkdir()
    for i in range(6):
        (folder / f"good{i}.mp4").write_bytes(good.read_bytes())
    for kind in KINDS:
        damage(good, folder / f"{kind}.mp4", kind, seed=0)
    run(folder, "--out", folder / "scanned.csv", "--workers", 1)
    rows = {row["path"]: row for row in read_table(folder / "scanned.csv")}
    bad = {os.path.basename(row["path"]): row["reason"] for row in
           read_table(folder / "scanned-quarantine.csv")}  # fmt: skip
    assert {f"{kind}.mp4" for kind in ("empty", "text", "zeros", "sound", "bomb")} <= bad.keys()
    assert all(bad.values()) and not rows.keys() & bad.keys()
    assert len(rows) + len(bad) == 6 + len(KINDS)
    for i in range(6):
        row = rows[f"good{i}.mp4"]
        assert [row[name] for name in ("frames", "height", "width", "codec", "note")] == [
            "24", "48", "96", "h264", ""
        ]  # fmt: skip
    row = rows["truncated_90.mp4"]
    assert 0 < int(row["frames"]) < 24 and row["reader"] == "pyav" and row["note"]
    assert rows["one_frame.mp4"]["frames"] == "1"
    found = find_samples(folder / "scanned.csv")
    assert found[0].frames and found[0].size == (48, 96) and found[0].reader
    run(folder / "scanned.csv", "--out", folder / "strict.csv", "--damaged", "drop", "--workers", 1)
    strict = {row["path"] for row in read_table(folder / "strict.csv")}
    assert strict == {path for path, row in rows.items() if not row["note"]}


def test_a_scan_goes_on_where_it_was_stopped(good, tmp_path, monkeypatch):
    for name in ("a", "b", "c"):
        (tmp_path / f"{name}.mp4").write_bytes(good.read_bytes())
    (tmp_path / "list.csv").write_text("path,label,colour\na.mp4,1,red\nb.mp4,0,blue\nc.mp4,1,\n")
    out = tmp_path / "scanned.csv"
    run(tmp_path / "list.csv", "--out", out, "--workers", 1)
    first = out.read_bytes()
    assert [(row["label"], row["colour"]) for row in read_table(out)] == [
        ("1", "red"), ("0", "blue"), ("1", "")
    ]  # fmt: skip
    assert not (tmp_path / "scanned-quarantine.csv").exists()

    read = []
    journal = tmp_path / "scanned-scan.jsonl"
    lines = journal.read_text().splitlines()
    journal.write_text("\n".join([*lines[:2], lines[2][:30]]))  # stopped while writing the third
    os.utime(tmp_path / "a.mp4", ns=(5, 5))  # and the first has changed since

    def counted(function, items, **limits):
        read.extend(os.path.basename(path) for path in items)
        return run_killable(function, items, **limits)

    monkeypatch.setattr(scanning, "run_killable", counted)
    out.unlink()
    run(tmp_path / "list.csv", "--out", out, "--workers", 1)
    assert read == ["a.mp4", "c.mp4"] and out.read_bytes() == first
    read.clear()
    run(tmp_path / "list.csv", "--out", out, "--workers", 1)
    assert read == [] and out.read_bytes() == first


def test_only_failures_are_read_again(good, tmp_path):
    journal = scanning.Journal(tmp_path / "j.jsonl", retry=True)
    path = str(tmp_path / "a.mp4")
    answer = {"path": path, "size": None, "changed": None, "reason": None}
    assert journal.is_current(answer, path)
    assert not journal.is_current(answer | {"reason": "no frame decodes"}, path)
    assert scanning.Journal(tmp_path / "j.jsonl", retry=False).is_current(
        answer | {"reason": "no frame decodes"}, path
    )


def test_images_and_class_folders(tmp_path):
    for name in ("walk/a.png", "run/b.jpg"):
        (tmp_path / name).parent.mkdir()
        Image.new("RGB", (30, 20)).save(tmp_path / name)
    (tmp_path / "run/bad.jpg").write_bytes(b"no image")
    out = tmp_path / "out" / "scanned.csv"
    run(tmp_path, "--out", out, "--labels", "true", "--workers", 1)
    rows = read_table(out)
    assert [(row["label"], row["height"], row["width"]) for row in rows] == [
        ("run", "20", "30"), ("walk", "20", "30")
    ]  # fmt: skip
    found = find_samples(out, labels=True)  # the paths lead back from the other folder
    assert [sample.label for sample in found] == [0, 1] and os.path.exists(found[0].path)


def test_a_faster_reader_is_checked_against_pyav(good, tmp_path, monkeypatch):
    from videohpm.data.decode import read_frames

    fast = scanning.check(str(good))["reader"]

    def shifted(path, indices, reader):
        return read_frames(path, [i + (reader != "pyav") for i in indices])

    monkeypatch.setattr(scanning, "read_frames", shifted)
    if fast != "pyav":
        found = scanning.check(str(good))
        assert found["reader"] == "pyav" and fast in found["note"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["nowhere.csv"], "nowhere.csv does not exist"),
        ([".", "--decode_timeout", "0"], "decode_timeout: 0"),
        ([".", "--damaged", "mend"], "damaged"),
        (["."], "no videos or images"),
        (
            ["list.csv"],
            "root: of the 1 files of list.csv none is there (first: ./a.mp4); give --root",
        ),
        (["list.csv", "--root", "other"], "none is there (first: other/a.mp4)"),
        (["list.csv", "--shard", "2/3"], "none is there (first: ./a.mp4)"),
        (["list.csv", "--merge", "3"], "none is there (first: ./a.mp4)"),
        (["v", "--out", "list.csv/x.csv"], "out: list.csv is not a folder"),
        (["v", "--out", "list.csv/y/x.csv"], "out: list.csv is not a folder"),
        (["v", "--out", "list.csv/x.csv", "--shard", "1/2"], "out: list.csv is not a folder"),
        (["v", "--out", "v"], "out: v is a folder; name a file, as v/scanned.csv"),
        (["v", "--out", "v", "--shard", "1/2"], "out: v is a folder"),
        (["v", "--out", "v", "--merge", "2"], "out: v is a folder"),
        (["v", "--root", "nowhere"], "root: nowhere is not a folder"),
        (["v", "--root", "v/w"], "root: v does not lie in v/w; name a folder that holds it"),
        (["v", "--root", "v/w", "--labels", "true"], "root: v does not lie in v/w"),
        (["v", "--root", "v/w", "--shard", "1/2"], "root: v does not lie in v/w"),
    ],
)
def test_mistakes(tmp_path, monkeypatch, capsys, arguments, told):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "list.csv").write_text("path\na.mp4\n")
    if arguments[0] == "v":
        (tmp_path / "v/w").mkdir(parents=True)
        (tmp_path / "v/w/a.mp4").write_bytes(b"no video")
    monkeypatch.setattr(scanning, "run_killable", None)  # told before anything is read
    assert cli.main(["data", "scan", *arguments]) == 2
    said = capsys.readouterr().err
    assert told in said and said.count("\n") == 1


@pytest.mark.parametrize("labels", ["false", "true"])
def test_the_paths_of_a_folder_start_from_a_root_that_holds_it(tmp_path, labels):
    for name in ("data/videos/walk/a.png", "data/videos/run/b.png"):
        (tmp_path / name).parent.mkdir(parents=True)
        Image.new("RGB", (30, 20)).save(tmp_path / name)
    folder, out = tmp_path / "data/videos", tmp_path / "lists/scanned.csv"
    given = [folder, "--out", out, "--labels", labels, "--workers", 1]
    run(*given, "--root", tmp_path / "data")
    whole = out.read_bytes()
    assert [row["path"] for row in read_table(out)] == ["videos/run/b.png", "videos/walk/a.png"]
    found = find_samples(tmp_path / "data", out)
    assert all(os.path.exists(sample.path) for sample in found)
    for part in ("1/2", "2/2"):
        run(*given, "--root", tmp_path / "data", "--shard", part)
    run(*given, "--root", tmp_path / "data", "--merge", 2)
    assert out.read_bytes() == whole
    run(*given, "--root", folder)
    assert [row["path"] for row in read_table(out)] == ["run/b.png", "walk/a.png"]


def test_what_is_written_is_plain_json(good, tmp_path):
    (tmp_path / "a.mp4").write_bytes(good.read_bytes())
    run(tmp_path, "--out", tmp_path / "s.csv", "--workers", 1)
    (line,) = (tmp_path / "s-scan.jsonl").read_text().splitlines()
    assert json.loads(line)["frames"] == 24


def test_shards_of_a_scan_make_the_lists_of_a_whole_one(tmp_path, capsys):
    """40 files, one listed twice and two that are bad, in four shards: byte for byte."""
    folder = tmp_path / "files"
    folder.mkdir()
    for number in range(40):
        Image.new("RGB", (20 + number, 30)).save(folder / f"{number:02}.png")
    for number in (3, 17):
        (folder / f"{number:02}.png").write_bytes(b"no picture")
    listed = folder / "list.csv"
    rows = "".join(f"{number:02}.png,{number % 3}\n" for number in (*range(40), 5))
    listed.write_text("path,label\n" + rows)
    whole, parts = tmp_path / "whole/list.csv", tmp_path / "parts/list.csv"
    assert cli.main(["data", "scan", str(listed), "--out", str(whole)]) == 0
    given = ["data", "scan", str(listed), "--out", str(parts)]
    for shard in ("1/4", "4/4", "2/4"):
        assert cli.main([*given, "--shard", shard]) == 0
    assert cli.main([*given, "--merge", "4"]) == 2 and not parts.exists()
    assert "list-scan-3-of-4.jsonl lacks 10 of 10 files" in capsys.readouterr().err
    assert cli.main([*given, "--shard", "3/4"]) == 0
    assert cli.main([*given, "--merge", "4"]) == 0
    for name in ("list.csv", "list-quarantine.csv"):
        assert (parts.parent / name).read_bytes() == (whole.parent / name).read_bytes()
    (folder / "07.png").write_bytes(b"another file by now")
    assert cli.main([*given, "--merge", "4"]) == 2


def test_a_shard_lists_a_folder_once_and_holds_its_own_files_only(tmp_path, monkeypatch):
    walks = []

    def walk(root):
        walks.append(root)
        yield from (f"class{i // 1000:04}/video-{i:08}-of-a-long-name.mp4" for i in range(60_000))

    monkeypatch.setattr(sample_files, "walk", walk)
    tracemalloc.start()
    try:
        names, base = list_names(tmp_path, None)
        part, total = every_nth(names, 3, 60)
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (len(part), total, len(walks), base) == (1000, 60_000, 1, str(tmp_path))
    assert part == list(walk(None))[2::60]
    assert peak < 500_000  # all the names take more than six million bytes


@pytest.mark.parametrize("shard", ["0/4", "5/4", "1", "a/b", "1/0", "-1/4"])
def test_shards_that_are_none(tmp_path, shard, capsys):
    assert cli.main(["data", "scan", str(tmp_path), f"--shard={shard}"]) == 2
    assert "shard" in capsys.readouterr().err
