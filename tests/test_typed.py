"""What the pages tell people to type works: every command and block of Python, in their order.

Each page has a folder of its own, with what it takes for granted. Settings are appended that make
runs tiny; nothing else is changed, so that one command finds what those before it wrote.
"""

import csv
import json
import shlex
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from stub_hub import asked_hub
from typed import PAGES, arguments, typed

from videohpm import pretrain
from videohpm.cli import COMMANDS, main

NOT_RUN = {
    "./run_pretrain.sh": "takes minutes; tests/test_scripts.py runs the script",
    "./run_finetune.sh": "takes minutes; tests/test_scripts.py runs the script",
    "pip install": "needs the network; tests/test_packaging.py builds the package",
    "videohpm demo": "takes minutes; tests/test_demo.py and tests/test_packaging.py run its parts",
    "videohpm explore": "serves until it is stopped; tests/test_explore.py does",
    "python -m videohpm.launch": "needs several GPUs",
    "torchrun": "needs several GPUs",
    "deepspeed": "needs several machines",
    "srun": "needs Slurm",
    "scontrol": "needs Slurm",
    "timm:": "needs weights of the Hub; tests/interop/test_frozen_targets.py makes such",
}
"""What commands have in them that are not run, and why not."""

TRAINING = (
    "--model.image_size 32 --optim.global_batch_size 2 --data.workers 0 --engine.device cpu"
    " --run.epochs"
)
SIZES = (
    "--model.arch vit_tiny --model.dim 64 --model.depth 1 --model.heads 1 --model.patch 8"
    " --model.decoder_dim 64 --model.decoder_depth 1 --model.decoder_heads 1"
)
TINY = {
    "pretrain": f"{TRAINING} null --run.steps 2",
    "finetune": f"{TRAINING} 1 --validation.every_epochs 1",
    "evaluate": "--data.workers 0 --device cpu",
    "probe": "--workers 0 --epochs 1 --device cpu",
    "features": "--workers 0 --device cpu",
    "predict": "--clips 1 --crops 1 --device cpu",
    "data scan": "--workers 1",
    "data transcode": "--workers 1",
    "data bench": "--files 1 --clips 1 --rounds 1",
}
"""What is appended to a command; SIZES too where they do not follow from weights."""

GIVEN = {
    "README.md": {
        **dict.fromkeys(("runs/demo", "runs/plain", "runs/motion"), "demo"),
        "runs/old": "run",
    },
    "docs/arms.md": {f"runs/{name}": "demo" for name in ("teacher", "motion", "noise", "plain")},
}
"""Runs that a page speaks of without telling how to make them, and which of ``made`` they are."""


def run(command: str, folder: Path | str = "") -> None:
    """Type it, tiny. A path from the root is one of the folder."""
    words = [f"{folder}{word}" if word.startswith("/") else word for word in arguments(command)]
    name = " ".join(words[:2]) if " ".join(words[:2]) in COMMANDS else words[0]
    shown = {"--help", "--print_config"} & set(words)
    if not shown:
        words += shlex.split(TINY.get(name, ""))
    if name == "pretrain" and not shown and "--model.init" not in words:
        words += shlex.split(SIZES)
    try:
        code = main(words)
    except SystemExit as end:  # of --help
        code = end.code
    assert not code, f"{command}\n{shlex.join(words)}"


@pytest.fixture(scope="module")
def before(shapes_module, tmp_path_factory) -> Path:
    """A folder with all that some page takes for granted, aside from runs; those in ``made``."""
    folder = tmp_path_factory.mktemp("before")
    shapes_module.prepare(folder / "data/shapes", train=4, validation=22, frames=64, workers=1)
    clips = sorted((folder / "data/shapes/validation").glob("*.mp4"))
    places = [
        *("clip.mp4", "a.mp4", "b.mp4", "my/videos/a.mp4", "my/videos/b.mp4"),
        *(f"my/labelled/{s}/{c}/{c}.mp4" for s in ("train", "validation") for c in ("run", "jump")),
        *(f"ssv2/{number}.mp4" for number in range(4)),
    ]
    for place, clip in zip(places, clips, strict=False):
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(clip, folder / place)
    for split in ("train", "validation"):
        for name in ("cat", "dog"):
            path = folder / f"imagenet/{split}/{name}/1.png"
            path.parent.mkdir(parents=True)
            Image.effect_noise((48, 40), 80).convert("RGB").save(path)
    for name in ("train.csv", "validation.csv", "labelled.csv", "scanned.csv"):
        with open(folder / name, "w", newline="") as file:
            csv.writer(file).writerows([("path", "label"), ("a.mp4", 0), ("b.mp4", 1)])
    (folder / "mine.yaml").write_text("data: {root: my/videos}\n")
    (folder / "ssv2/labels.json").write_text(json.dumps({"Going up": "0", "Going down": "1"}))
    rows = [{"id": str(n), "template": ("Going [up]", "Going [down]")[n % 2]} for n in range(4)]
    for name, part in (("train", rows[:2]), ("validation", rows[2:])):
        (folder / f"ssv2/{name}.json").write_text(json.dumps(part))
    return folder


@pytest.fixture(scope="module")
def made(before, root, tmp_path_factory) -> Path:
    """A tiny run, a classifier made of it, one of images, and their weights in other layouts."""
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(before)
        for command in (
            f"pretrain --config configs/pretrain/demo.yaml --run.dir {folder}/demo",
            f"pretrain --config configs/pretrain/ssv2_base.yaml --data.root data/shapes/train"
            f" --run.dir {folder}/run",
            "pretrain --config configs/pretrain/imagenet1k_base.yaml --data.root imagenet/train"
            f" --run.dir {folder}/images",
            f"finetune --config configs/finetune/demo.yaml --model.init {folder}/run"
            f" --run.dir {folder}/classes",
            f"convert {folder}/run {folder}/videomae --to videomae",
            f"convert {folder}/run {folder}/hf --to huggingface",
            f"convert {folder}/images {folder}/mae --to mae",
        ):
            run(f"videohpm {command}")
    return folder


def quick(block: str) -> str:
    """A block of Python with a smaller model."""
    return block.replace('"vit_base", frames=16, image_size=224', '"vit_tiny", image_size=64')


@pytest.mark.parametrize("name", PAGES)
def test_what_a_page_tells_to_type_works(name, root, before, made, tmp_path, monkeypatch):
    folder = tmp_path / "here"
    shutil.copytree(before, folder)
    for place, layout in {"checkpoint.pth": "videomae", "mae_vit_base.pth": "mae"}.items():
        shutil.copy(next((made / layout).glob("*.pth")), folder / place)
    for place, kind in GIVEN.get(name, {}).items():
        shutil.copytree(made / kind, folder / place)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setattr(pretrain.Pretraining, "_draw", lambda *_: None)  # ``made`` has pictures
    torch.manual_seed(0)
    names = {"clips": torch.randn(2, 3, 16, 64, 64), "progress": 0.5, "epoch": 50,
             "optimizer": SimpleNamespace(step=lambda: None)}  # fmt: skip
    if name == "docs/how-it-works.md":
        readme = typed((root / "README.md").read_text())
        exec(quick(next(text for kind, text in readme if kind == "python")), names)
    with asked_hub(monkeypatch, tmp_path / "cache") as hub:
        for repository in ("MCG-NJU/videomae-base", "org/name"):
            hub.put(repository, made / "hf")
        for kind, text in typed((root / name).read_text()):
            if kind == "python":
                exec(quick(text), names)
            elif not any(part in text for part in NOT_RUN):
                run(text, folder)


def test_what_is_not_run_is_still_told(root):
    commands = [text for name in PAGES for kind, text in typed((root / name).read_text())]
    assert [part for part in NOT_RUN if not any(part in text for text in commands)] == []


def test_no_other_page_tells_to_type_anything(root):
    pages = {str(path.relative_to(root)) for path in (root / "docs").rglob("*.md")} - set(PAGES)
    assert len(pages) > 1
    assert [name for name in pages if typed((root / name).read_text())] == []


def test_a_command_that_does_not_work_is_found(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = "Type `videohpm\nreport runs/none -o r.html`, see `videohpm report`:\n\n```\nls …\n```\n"
    (kind, text), other = typed(page)
    assert (kind, other) == ("shell", ("shell", "ls …")) and arguments(other.text) == []
    with pytest.raises(AssertionError, match="report runs/none"):
        run(text)
