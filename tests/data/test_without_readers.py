"""Without decord, without torchcodec and without both: the demo's clips are read all the same."""

import subprocess
import sys
import textwrap

import pytest

# Packages that no finder finds, as if they were not installed, in this process and its workers.
HIDDEN = """
import importlib.machinery, sys
hidden, find = sys.argv[1].split(","), importlib.machinery.PathFinder.find_spec
importlib.machinery.PathFinder.find_spec = classmethod(
    lambda cls, name, *more: None if name.split(".")[0] in hidden else find(name, *more)
)
"""
READ = """
import hashlib, sys
from videohpm import cli
from videohpm.data import GlobalBatchSampler, make_dataset, make_loader
from videohpm.data.readers import READERS

parser = cli.parser_of("pretrain")
found = parser.parse_args(["--config", sys.argv[2], "--data.root", sys.argv[3]])
config = parser.instantiate(found)
there = [name for name in sys.argv[1].split(",") if READERS[name].available() is None]
grid = config.model.grid()
data = make_dataset(
    config.data, frames=grid.frames, size=(grid.height, grid.width), units=grid.num_tubes
)
for batch in make_loader(data, GlobalBatchSampler(len(data), 4, steps=2)):
    assert not batch.bad, batch.bad
    print(hashlib.sha256(batch.clips.contiguous().numpy()).hexdigest())
loaded = [name for name in sys.argv[1].split(",") if name in sys.modules]
print("there", there, "loaded", loaded)
"""


def paint(path) -> None:
    """H.264 in closed groups, which each of the readers may read."""
    import av
    import numpy as np

    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=25, options={"x264-params": "open-gop=0"})
        stream.height, stream.width, stream.pix_fmt = 64, 80, "yuv420p"
        for i in range(40):
            picture = np.full((64, 80, 3), 6 * i, "u1")
            picture[8 : 8 + i, 30:50] = (250, 30, 90)
            file.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        file.mux(stream.encode(None))


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    for i in range(3):
        paint(folder / f"{i}.mp4")
    return folder


def read(hidden: str, root, videos) -> list[str]:
    script = textwrap.dedent(HIDDEN + READ)
    recipe = root / "configs/pretrain/demo.yaml"
    call = [sys.executable, "-c", script, hidden, str(recipe), str(videos)]
    done = subprocess.run(call, cwd=root, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.fixture(scope="module")
def with_all(root, videos) -> list[str]:
    return read("pyav", root, videos)[:-1]  # the name of no package: all that are here are found


@pytest.mark.parametrize("hidden", ["decord", "torchcodec", "decord,torchcodec"])
def test_the_demos_clips_are_the_same_without(hidden, root, videos, with_all):
    *clips, said = read(hidden, root, videos)
    assert clips == with_all and len(clips) == 2
    assert said == "there [] loaded []"
