"""A new reader is two files of the package: CONTRIBUTING.md shows the patch; here it is applied."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PATCH = Path(__file__).with_name("pillow_reader.patch")
PROGRAM = """
from pathlib import Path

import numpy as np
from PIL import Image

import videohpm
from videohpm.data import find_samples, read_frames, read_video_info
from videohpm.data.container import decoded
from videohpm.data.readers import pillow

assert Path(videohpm.__file__).is_relative_to(Path.cwd()), videohpm.__file__
rng = np.random.default_rng(0)
still = np.kron(rng.integers(0, 255, (6, 8, 3)), np.ones((8, 8, 1))).astype(np.uint8)
pictures = []
for number in range(9):  # a square that moves: the file then stores parts of frames
    picture = still.copy()
    picture[8:24, 5 * number : 5 * number + 16] = 255 - 20 * number
    pictures.append(Image.fromarray(picture))
pictures[0].save("moving.gif", save_all=True, append_images=pictures[1:], duration=[40, 90, 60] * 3)
frames = [frame.to_ndarray(format="rgb24") for frame in decoded("moving.gif")]
assert len(frames) == 9 and (frames[0] != frames[8]).any()

reads, read = [], pillow.read
pillow.read = lambda *arguments: reads.append(arguments) or read(*arguments)
assert read_video_info("moving.gif").reader == "pillow"
for wanted in ([0], [8], [7, 2, 2, 5]):
    found = read_frames("moving.gif", wanted)
    assert all(np.array_equal(f, frames[i]) for f, i in zip(found, wanted)), wanted
assert len(reads) == 3
Path("list.csv").write_text("path,reader\\nmoving.gif,pillow\\n")
assert find_samples(None, "list.csv")[0].reader == "pillow"
"""


def changed_files(patch: Path) -> list[str]:
    lines = patch.read_text().splitlines()
    return [line.removeprefix("+++ b/") for line in lines if line.startswith("+++ ")]


def test_a_reader_is_two_files(root, tmp_path):
    if shutil.which("git") is None:
        pytest.skip("git is not on this machine: it applies the patch")
    assert len(changed_files(PATCH)) == 2
    assert all(name.startswith("videohpm/data/readers/") for name in changed_files(PATCH))
    shutil.copytree(root / "videohpm", tmp_path / "videohpm")
    subprocess.run(["git", "apply", str(PATCH)], cwd=tmp_path, check=True)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_the_guide_names_what_the_patch_changes(root):
    guide = (root / "CONTRIBUTING.md").read_text()
    for name in (*changed_files(PATCH), "tests/extension/pillow_reader.patch"):
        assert name in guide
