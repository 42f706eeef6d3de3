"""Imports point down only: read from the source, so that lazy imports count too."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

# What each room of the package may import from the others, bottom first.
GROUND = {"errors", "stopping", "writing", "grid", "compat", "config"}
METHOD = GROUND | {"models", "hpm"}
OWNERS = METHOD | {"data", "optim", "tracking", "checkpoint", "engine", "interop", "hub"}
TRAINING = OWNERS | {"visualize", "report", "evaluate"}
MAY_IMPORT = {
    "errors": set(),
    "stopping": {"errors"},
    "launch": {"stopping"},
    "writing": set(),
    "compat": set(),
    "grid": {"errors"},
    "config": {"errors", "grid"},
    "prepare": {"errors", "config"},
    "demo": {"errors", "config"},
    "hub": {"errors", "writing", "config"},
    "models": GROUND,
    "hpm": GROUND | {"models"},
    "data": GROUND | {"progress"},
    "optim": GROUND,
    "progress": set(),
    "tracking": GROUND | {"progress"},
    "interop": METHOD | {"checkpoint", "hub"},
    "checkpoint": METHOD | {"optim", "hub"},
    "engine": METHOD | {"optim"},
    "visualize": OWNERS,
    "report": OWNERS | {"visualize"},
    "evaluate": OWNERS | {"visualize", "report"},
    "training": OWNERS,
    "pretrain": TRAINING | {"training", "plan"},
    "finetune": TRAINING | {"training", "plan"},
    "plan": OWNERS,
    "commands": {"config"},
    "cli": TRAINING | {"commands", "pretrain", "finetune", "plan", "prepare", "demo"},
    "__main__": {"cli", "stopping"},
    "__init__": TRAINING,
}

# Doors upward: methods of a model that hand over to what stands above models, when they are called.
DOORS = {("models/pretrained.py", "interop")}

# Packages that only these files may import.
ONLY_IMPORTERS = {
    "deepspeed": ("engine.py", "engine/"),
    "decord": ("data/readers/decord.py",),
    "torchcodec": ("data/readers/torchcodec.py",),
    "av": (
        *("data/container.py", "data/geometry.py", "data/readers/pyav.py", "data/readers/intra.py"),
        *("data/transcode.py", "visualize/files.py"),  # these two write
    ),
    "jsonargparse": ("cli.py",),
    "huggingface_hub": ("hub.py",),
    **dict.fromkeys(("wandb", "trackio", "mlflow"), ("tracking/",)),
    "tensorboard": ("tracking/",),
    "torch.utils.tensorboard": ("tracking/",),
    "transformers": (),  # tests compare with it
    "sklearn": (),  # likewise
    "datasets": (),  # Hugging Face's, or our folder of that name: neither
}

# Rooms that answer --help and wrong input: they import none of HEAVY (grid inside functions only),
# and nothing from other rooms when they are imported themselves.
QUICK = {
    "errors",
    "stopping",
    "launch",
    "writing",
    "compat",
    "grid",
    "config",
    "progress",
    "prepare",
    "demo",
    "commands",
    "cli",
    "__main__",
    "__init__",
}
HEAVY = {"torch", "torchvision", "timm", "deepspeed", "transformers"}

# Packages that are imported inside functions only: slow to import, not everywhere to be had, or
# (decord) unsafe unless torch came first.
LAZY = {"deepspeed", "decord", "torchcodec", "av", "tensorboard", "torch.utils.tensorboard"}
LAZY |= {"huggingface_hub", "wandb", "trackio", "mlflow"}


@dataclass(frozen=True)
class Import:
    """One imported name, e.g. ``videohpm.data.decode.read_frames``."""

    target: str
    line: int
    at_start: bool  # runs when the file is imported


def find_imports(tree: ast.AST, package: str) -> Iterator[Import]:
    """All imports of a file of ``package``; those for type checkers only never run at start."""
    waiting = [(tree, True)]
    while waiting:
        node, at_start = waiting.pop()
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, node.lineno, at_start)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1]
            start = [*(above if node.level else []), *filter(None, [node.module])]
            for alias in node.names:
                yield Import(".".join([*start, alias.name]), node.lineno, at_start)
        elif isinstance(node, ast.Call) and node.args:
            name = ast.unparse(node.func).split(".")[-1]
            target = node.args[0]
            if name in ("import_module", "__import__") and isinstance(target, ast.Constant):
                yield Import(str(target.value), node.lineno, at_start)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            at_start = False
        typing_only = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for child in ast.iter_child_nodes(node):
            waiting.append((child, at_start and not (typing_only and child in node.body)))


def room_of(target: str, package: Path) -> str:
    """The room that ``videohpm.room...`` names; ``__init__`` for names of videohpm itself."""
    name = (target.split(".") + ["__init__"])[1]
    known = (package / name).is_dir() or (package / f"{name}.py").is_file()
    return name if known else "__init__"


def within(target: str, name: str) -> bool:
    return target == name or target.startswith(name + ".")


def violations(package: Path) -> list[str]:
    """What breaks the rules above in a package folder called videohpm."""
    found = []
    for file in sorted(package.rglob("*.py")):
        path = file.relative_to(package)
        room = path.parts[0].removesuffix(".py")
        if room not in MAY_IMPORT:
            found.append(f"{path}: {room} has no row in MAY_IMPORT; say what it may import")
            continue
        dotted = ".".join(["videohpm", *path.parent.parts])
        for each in find_imports(ast.parse(file.read_text(encoding="utf-8")), dotted):
            where = f"{path.as_posix()}:{each.line}"
            if within(each.target, "videohpm"):
                target = room_of(each.target, package)
                if each.at_start and room in QUICK and target not in QUICK:
                    found.append(f"{where}: {room} must answer without importing {target}")
                door = not each.at_start and (path.as_posix(), target) in DOORS
                if target != room and target not in MAY_IMPORT[room] and not door:
                    found.append(f"{where}: {room} must not import {target} ({each.target})")
            for name, importers in ONLY_IMPORTERS.items():
                if within(each.target, name) and not path.as_posix().startswith(importers):
                    found.append(f"{where}: {name} is not to be imported here")
            heavy = any(within(each.target, name) for name in HEAVY)
            if room in QUICK and heavy and (each.at_start or room != "grid"):
                found.append(f"{where}: {room} must answer without {each.target}")
            if each.at_start and any(within(each.target, name) for name in LAZY):
                found.append(f"{where}: import {each.target} inside the function that needs it")
    return found


def test_imports_point_down_only(root):
    assert violations(root / "videohpm") == []


def test_the_rules_themselves_have_no_circle():
    done = set()
    while len(done) < len(MAY_IMPORT):
        ready = {room for room, below in MAY_IMPORT.items() if below <= done} - done
        assert ready, f"each of these imports another: {sorted(MAY_IMPORT.keys() - done)}"
        done |= ready


@pytest.fixture
def package(tmp_path) -> Path:
    """A package without violations, with everything that looks like one and is none."""
    files = {
        "__init__.py": "def get():\n    from videohpm.models import VideoViT\n",
        "errors.py": "",
        "grid.py": "from videohpm.errors import UserError\nfrom . import errors\n",
        "config/__init__.py": "from videohpm.grid import TokenGrid\n",
        "models/__init__.py": "from .vit import VideoViT\nfrom ..grid import TokenGrid\n",
        "hpm/masking.py": "import torch\n",
        "interop/__init__.py": "",
        "models/pretrained.py": "def load():\n    import videohpm.interop.pretrained\n",
        "models/vit.py": "import average\nimport decorder\n'import deepspeed'\n",
        "hpm/__init__.py": "from videohpm import models\n",
        "data/readers/decord.py": "def read():\n    import decord\n",
        "data/container.py": "def read():\n    from av import open\n",
        "engine.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import deepspeed\n",
        "cli.py": "import jsonargparse\nfrom videohpm import errors\n",
    }
    for name, text in files.items():
        file = tmp_path / "videohpm" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return tmp_path / "videohpm"


def test_a_clean_package_passes(package):
    assert violations(package) == []


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("grid.py", "from videohpm.models import VideoViT", "grid must not import models"),
        ("grid.py", "from videohpm import models", "grid must not import models"),
        ("grid.py", "import videohpm.models.vit as vit", "grid must not import models"),
        ("grid.py", "from . import hpm", "grid must not import hpm"),
        ("grid.py", "from .models.vit import VideoViT", "grid must not import models"),
        ("models/vit.py", "from .. import hpm", "models must not import hpm"),
        ("models/vit.py", "from ..hpm import random_mask", "models must not import hpm"),
        ("models/vit.py", "import videohpm", "models must not import __init__"),
        ("hpm/__init__.py", "from videohpm import VideoViT", "hpm must not import __init__"),
        ("models/vit.py", "def f():\n    from videohpm import cli", "models must not import cli"),
        ("models/vit.py", "import importlib as i\ni.import_module('videohpm.cli')", "import cli"),
        ("grid.py", "def f():\n    import deepspeed", "deepspeed is not to be imported here"),
        ("grid.py", "from torch.utils import tensorboard", "torch.utils.tensorboard is not"),
        ("data/readers/decord.py", "import decord", "import decord inside the function"),
        (
            "data/readers/decord.py",
            "try:\n    import decord\nexcept ImportError: pass",
            "inside the func",
        ),
        ("data/decode.py", "import decord", "decord is not to be imported here"),
        ("data/container.py", "class A:\n    from av import open", "inside the function"),
        ("engine.py", "if True:\n    import deepspeed.comm", "inside the function"),
        ("engine.py", "if TYPE_CHECKING: pass\nelse:\n    import deepspeed", "inside the func"),
        ("hpm/losses.py", "import jsonargparse", "jsonargparse is not to be imported here"),
        ("cli.py", "import datasets.shapes.prepare", "datasets is not to be imported here"),
        ("utils.py", "", "utils has no row"),
        ("config/model.py", "from videohpm.models import SIZES", "config must not import models"),
        ("config/data.py", "import torch", "config must answer without torch"),
        ("config/data.py", "def f():\n    from timm.data import Mixup", "without timm.data.Mixup"),
        ("grid.py", "import torch.nn", "grid must answer without torch.nn"),
        ("cli.py", "from videohpm.models import VideoViT", "without importing models"),
        ("models/pretrained.py", "from videohpm import interop", "models must not import interop"),
        ("models/pretrained.py", "def f():\n    import videohpm.cli", "models must not import cli"),
    ],
)
def test_a_planted_violation_is_found(package, file, text, said):
    with (package / file).open("a") as out:
        out.write(text + "\n")
    found = violations(package)
    assert any(each.startswith(file) and said in each for each in found), found
    assert all(each.startswith(file) for each in found), found
