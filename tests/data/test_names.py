"""Names of files that libraries, lists and terminals take for something else."""

import csv
import os
import shutil

import numpy as np
import pytest
from painted import encode, numbers
from PIL import Image

from videohpm.cli import main
from videohpm.data import read_frames, read_image, read_video_info, verify
from videohpm.data.manifest import find_samples
from videohpm.data.readers import READERS
from videohpm.visualize.files import write

NAMES = ["cam1:2024.mp4", "http:a.mp4", "pipe:0.mp4", "two\nlines.mp4", "c\rr.mp4", "\udcff.mp4",
         "file:x.mp4", "-y.mp4", "%03d.mp4", "u\u2028.mp4", "a b.mp4"]  # fmt: skip


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A video under each name, in the working folder."""
    monkeypatch.chdir(tmp_path)
    good = encode(tmp_path / "good.mp4", "libx264", 20)
    for name in NAMES:
        shutil.copy(good, name)
    return tmp_path


def test_every_entry_takes_a_name_as_a_file(here):
    for name in NAMES:
        assert read_video_info(name).frames == 20
        assert verify(name)[1] is None
        for reader in (None, *READERS):
            assert numbers(read_frames(name, [3, 15], reader=reader)) == [3, 15]
    Image.fromarray(np.full((4, 4, 3), 9, np.uint8)).save("cam1:a.png", format="png")
    assert read_image("cam1:a.png").max() == 9


def test_scan_and_copy_keep_every_name(here, capsys):
    assert main(["data", "scan", ".", "--out", "list.csv", "--workers", "1"]) == 0
    found = find_samples(None, "list.csv")
    listed = [found.name(i) for i in range(len(found))]
    assert sorted(listed) == sorted([*NAMES, "good.mp4"])
    assert not os.path.exists("list-quarantine.csv")
    copied = ["data", "transcode", "list.csv", "copy", "--workers", "1"]
    assert main([*copied, "--short_side", "48"]) == 0
    with open("copy/manifest.csv", newline="", errors="surrogateescape") as file:
        assert len(list(csv.DictReader(file))) == len(listed)


def test_pictures_are_written_under_any_name(here):
    write("cam1:2024.gif.mp4", np.zeros((2, 16, 16, 3), np.uint8))
    assert read_video_info("cam1:2024.gif.mp4").frames == 2
