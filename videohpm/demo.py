"""``videohpm demo``: a tiny model from nothing, to see that all works; no clone is needed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from videohpm.config import options
from videohpm.config.places import HOME
from videohpm.errors import UserError


def demo(out: str = "demo", steps: int | None = None, finetune: bool = False) -> int:
    """Make small videos, pre-train a tiny model on them and, if asked, fine-tune it.

    Args:
        out: folder for the videos and the runs.
        steps: length of the pre-training; the recipe's if left out.
        finetune: go on to a classifier of shape and motion.

    Returns the exit code of what failed, or 0. Started again it goes on.
    """
    options.demo(out, steps, finetune)
    folder = Path(out)
    if folder.is_file():
        raise UserError(f"out: {out} is a file; give a folder")
    data, run, classifier = folder / "shapes", folder / "pretrain", folder / "finetune"
    videohpm = [sys.executable, "-m", "videohpm"]
    prepare = [sys.executable, HOME / "datasets/shapes/prepare.py", "--out", data]
    pretrain = [
        *(*videohpm, "pretrain", "--config", HOME / "configs/pretrain/demo.yaml"),
        *("--data.root", data / "train", "--run.dir", run),
        *([] if steps is None else ["--run.steps", steps]),
    ]
    tune = [
        *(*videohpm, "finetune", "--config", HOME / "configs/finetune/demo.yaml"),
        *("--model.init", run, "--data.manifest", data / "train.csv"),
        *("--validation.manifest", data / "validation.csv", "--run.dir", classifier),
    ]
    for command in (prepare, pretrain, *([tune] if finetune else [])):
        code = subprocess.run([str(part) for part in command], stdin=subprocess.DEVNULL).returncode
        if code:
            return code
    clip = data / "validation/00003.mp4"
    print(
        f"\nThe run is in {run}: metrics.jsonl, pictures/, tensorboard/. Next:\n"
        f"  videohpm report {run} -o report.html\n"
        f"  videohpm visualize {run} {clip} -o seen.png"
        + ("" if finetune else f"\n  videohpm demo --out {out} --finetune true")
    )
    return 0
