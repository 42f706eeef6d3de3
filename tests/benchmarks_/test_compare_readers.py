"""benchmarks/compare_readers.py: it finds what is wrong, names it, and counts."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from painted import encode
from PIL import Image


@pytest.fixture(scope="module")
def compared(benchmarks_on_path):
    import compare_readers

    return compare_readers


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("media")
    (folder / "deep").mkdir()
    encode(folder / "good.mp4", "libx264", 40)
    encode(folder / "deep/b.avi", "mpeg4", 40, b_frames=2)
    encode(folder / "deep/one.mkv", "ffv1", 1, pix_fmt="bgr0")
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = np.random.default_rng(0).integers(0, 256, (5, 9, 3), np.uint8)
    Image.fromarray(pixels).save(folder / "turned.jpg", exif=exif)
    Image.fromarray(np.arange(40, dtype=np.uint16).reshape(5, 8) * 1600).save(folder / "deep.png")
    (folder / "bad.png").write_bytes(b"no picture")
    (folder / "bad\n.mp4").write_bytes(b"no video")
    (folder / "notes.txt").write_text("left alone")
    return folder


def test_a_folder_is_compared_and_counted(compared, folder, tmp_path, capsys):
    arguments = [str(folder), "--json", str(tmp_path / "c.json"), "--workers", "1"]
    assert compared.main(arguments) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    assert last == "7 files: 5 same, 0 differs, 2 cannot be read"
    assert len(lines) == 2
    assert any(line.startswith(f"{folder}/bad\\n.mp4: cannot be read: ") for line in lines)
    found = json.loads((tmp_path / "c.json").read_text())
    assert found["counts"] == {"same": 5, "cannot be read": 2}
    by_name = {Path(one["path"]).name: one for one in found["files"]}
    assert by_name["good.mp4"]["frames"] == 40 and by_name["turned.jpg"]["kind"] == "image"


def shifted(read, on=lambda indices: True):
    def reads(path, indices, **options):
        shift = int(on(indices))
        return read(path, [max(i - shift, 0) for i in indices], **options)

    return reads


@pytest.mark.parametrize(
    ("on", "pattern"),
    [
        (lambda indices: len(indices) == 1 and indices[0] > 10, "single frames"),
        (lambda indices: np.array_equal(np.diff(indices), [1] * 7), "consecutive"),
        (lambda indices: len(indices) > 1 and min(np.diff(indices)) > 1, "strided"),
        (lambda indices: len(indices) > 1 and min(np.diff(indices)) < 0, "repeated"),
    ],
)
def test_a_wrong_frame_is_found_however_it_is_read(compared, folder, monkeypatch, on, pattern):
    monkeypatch.setattr(compared, "read_frames", shifted(compared.read_frames, on))
    found = compared.compare(str(folder / "good.mp4"))
    assert found["outcome"] == compared.DIFFERS and f", {pattern}: frame " in found["detail"]


def test_what_the_scan_would_write_is_compared_too(compared, folder, monkeypatch):
    scan = compared.scan_check
    monkeypatch.setattr(compared, "scan_check", lambda path: scan(path) | {"frames": 30})
    found = compared.compare(str(folder / "good.mp4"))
    assert "the scan counts 30 frames, 40 decode" in found["detail"]


def test_a_picture_that_is_not_turned_differs(compared, folder, monkeypatch):
    def upside_down(path):
        return compared_image(path)[::-1]

    compared_image = compared.read_image
    monkeypatch.setattr(compared, "read_image", upside_down)
    for name in ("turned.jpg", "deep.png"):
        assert compared.compare(str(folder / name))["outcome"] == compared.DIFFERS


def test_the_line_of_a_file_that_differs_and_the_exit_code(
    compared, folder, tmp_path, monkeypatch, capsys
):
    shutil.copy(folder / "good.mp4", tmp_path / "a.mp4")
    monkeypatch.setattr(compared, "read_frames", shifted(compared.read_frames))
    monkeypatch.setattr(
        compared,
        "run_killable",
        lambda work, items, **_: ((i, work(p)) for i, p in enumerate(items)),
    )
    assert compared.main([str(tmp_path)]) == 1
    line, last = capsys.readouterr().out.splitlines()
    assert line.startswith(f"{tmp_path}/a.mp4: differs: ") and "is off by up to" in line
    assert last == "1 files: 0 same, 1 differs, 0 cannot be read"
