"""What a new idea costs: worked examples as patches, applied to a copy of the package and run.

CONTRIBUTING.md refers to these patches. Where the package changes below them, make them anew.
"""

import filecmp
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from test_layers import violations

PATCHES = Path(__file__).parent
MOST_FILES = {"frame_difference_scorer": 2, "gradient_target": 2}
TINY = [
    "--model.arch", "vit_tiny", "--model.frames", "4", "--model.image_size", "32",
    "--model.patch", "16", "--model.dim", "48", "--model.depth", "1", "--model.heads", "2",
    "--model.decoder_dim", "32", "--model.decoder_depth", "1", "--model.decoder_heads", "2",
    "--mask.ratio", "0.75", "--data.workers", "0", "--data.stride", "2",
    "--optim.global_batch_size", "8", "--engine.device", "cpu", "--engine.precision", "fp32",
    "--run.log_every", "1", "--run.save_every", "0",
]  # fmt: skip


class Patched:
    """A copy of the package with one patch applied; commands and code run with it."""

    def __init__(self, root: Path, folder: Path, name: str):
        self.root, self.folder = root, folder
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(root / "videohpm", folder / "videohpm", ignore=ignore)
        # Not as part of a repository that the folder may lie in.
        alone = os.environ | {"GIT_CEILING_DIRECTORIES": str(folder.parent)}
        command = ["git", "apply", "--verbose", str(PATCHES / f"{name}.patch")]
        done = subprocess.run(command, cwd=folder, env=alone, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    def touched(self) -> list[str]:
        """Files of the package that differ from, or are not in, the one in the checkout."""
        files = [file.relative_to(self.folder) for file in self.folder.rglob("*.py")]
        return [
            str(file)
            for file in files
            if not (self.root / file).is_file()
            or not filecmp.cmp(self.root / file, self.folder / file, shallow=False)
        ]

    def python(self, *arguments: str) -> subprocess.CompletedProcess:
        """Run the interpreter where ``videohpm`` is the patched package."""
        environment = os.environ | {"PYTHONPATH": str(self.folder)}
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=self.folder, env=environment, capture_output=True, text=True,
        )  # fmt: skip

    def code(self, text: str, *arguments: str) -> dict:
        """Run Python code that prints JSON."""
        done = self.python("-c", text, *arguments)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def train(self, shapes: Path, *options: str) -> list[dict]:
        """Pre-train into the folder ``run``; returns its metrics."""
        where = ["--data.root", str(shapes / "train"), "--run.dir", "run"]
        done = self.python("-m", "videohpm", "pretrain", *TINY, *where, *options)
        assert done.returncode == 0, done.stderr
        lines = (self.folder / "run" / "metrics.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]


@pytest.fixture
def patched(root, tmp_path):
    """Makes a :class:`Patched` of the name of a patch."""
    if shutil.which("git") is None:
        pytest.skip("git applies the patches, and is not there")
    return lambda name: Patched(root, tmp_path, name)


@pytest.mark.parametrize("name", MOST_FILES)
def test_a_new_idea_touches_few_files_and_keeps_the_layers(patched, name):
    package = patched(name)
    touched = package.touched()
    assert 0 < len(touched) <= MOST_FILES[name], touched
    assert violations(package.folder / "videohpm") == []


FRAME_DIFFERENCE = """
import json, sys, torch
from videohpm import MaskedAutoencoder, hpm
from videohpm.config import MaskConfig, PretrainConfig
from videohpm.grid import TokenGrid
grid = TokenGrid(3, 2, 4, tubelet=2, patch=4)
scorer = hpm.SCORERS["frame_difference"](type("Student", (), {"grid": grid}), PretrainConfig())
clips = torch.randn(2, 3, grid.frames, grid.height, grid.width)
mask = hpm.draw_mask(scorer, clips, hpm.random_shuffle_ids(2, 8), grid, MaskConfig(ratio=.5), 1.0)
expected = []
for clip in clips:
    change = []
    for row in range(2):
        for column in range(4):
            tube = clip[:, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
            steps = [tube[:, 2 * t : 2 * t + 2] for t in range(3)]
            pairs = [(b - a).square().mean() for a, b in zip(steps, steps[1:])]
            change.append(float(sum(pairs)))
    expected.append(sorted(sorted(range(8), key=lambda tube: -change[tube])[:4]))
print(json.dumps({"chosen": mask.tubes.tolist(), "expected": expected}))
"""


@pytest.mark.slow
def test_frame_differences_hide_what_changes(patched, shapes):
    package = patched("frame_difference_scorer")
    found = package.code(FRAME_DIFFERENCE)
    assert found["chosen"] == found["expected"]
    chosen = "--mask.scorer", "frame_difference", "--hpm.enabled", "false"
    rows = package.train(shapes, "--run.steps", "4", "--hpm.hard_ratio_start", "0.4", *chosen)
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert all(row["loss"] > 0 and row["hard_ratio"] >= 0.4 for row in rows)
    assert rows[0]["predictor_loss"] is None and "momentum" not in rows[0]
    assert list((package.folder / "run" / "pictures").glob("*.png"))
    video = str(sorted((shapes / "validation").glob("*.mp4"))[0])
    drawn = package.python("-m", "videohpm", "visualize", "run", video, "-o", "seen.png")
    assert drawn.returncode == 0, drawn.stderr
    image = "--model.frames", "1", "--model.tubelet", "1"
    where = "--data.root", str(shapes / "train"), "--run.dir", "other"
    refused = package.python("-m", "videohpm", "pretrain", *TINY, *where, *chosen, *image)
    assert refused.returncode == 2 and refused.stderr.startswith("videohpm: mask.scorer")


GRADIENTS = """
import json, math, torch
from videohpm import hpm
from videohpm.config import PretrainConfig
from videohpm.grid import Mask, TokenGrid
grid = TokenGrid(2, 2, 2, tubelet=2, patch=4)
target = hpm.TARGETS["gradients"](grid, PretrainConfig())
clips = torch.randn(2, 3, 4, 8, 8)
mask = Mask.from_units(torch.tensor([[0, 3], [2, 1]]), grid)
found = target(clips, mask)
apart = 0.0
for clip in range(2):
    for place, token in enumerate(mask.masked[clip].tolist()):
        step, row, column = token // 4, token // 2 % 2, token % 2
        sums = [[0.0] * 9 for _ in range(3)]
        for c in range(3):
            for f in range(2):
                image = clips[clip, c, 2 * step + f, 4 * row :, 4 * column :]
                for y in range(3):
                    for x in range(3):
                        here = float(image[y, x])
                        down, right = float(image[y + 1, x]) - here, float(image[y, x + 1]) - here
                        turn = math.atan2(down, right) % math.pi
                        sums[c][min(8, int(turn / math.pi * 9))] += math.hypot(down, right)
        length = math.sqrt(sum(value**2 for channel in sums for value in channel))
        wanted = torch.tensor([value / length for channel in sums for value in channel])
        apart = max(apart, float((found[clip, place] - wanted).abs().max()))
print(json.dumps({"dim": target.dim, "shape": list(found.shape), "apart": apart}))
"""


@pytest.mark.slow
def test_histograms_of_gradients_are_predicted(patched, shapes):
    package = patched("gradient_target")
    found = package.code(GRADIENTS)
    assert found["dim"] == 27 and found["shape"] == [2, 4, 27]
    assert found["apart"] < 1e-4
    learning = "--optim.base_lr", "6e-2", "--optim.warmup_steps", "4"
    rows = package.train(shapes, "--run.steps", "20", "--model.target", "gradients", *learning)
    losses = [row["loss"] for row in rows]
    assert len(losses) == 20 and sum(losses[-5:]) < 0.9 * sum(losses[:5])
    assert all(row["predictor_loss"] > 0 for row in rows)
    assert list((package.folder / "run" / "pictures").glob("*.png"))
    video = str(sorted((shapes / "validation").glob("*.mp4"))[0])
    drawn = package.python("-m", "videohpm", "visualize", "run", video, "-o", "seen.gif")
    assert drawn.returncode == 0, drawn.stderr
