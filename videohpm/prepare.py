"""``videohpm data prepare``: finds and runs the preparation scripts of a checkout."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from videohpm.errors import UserError

DATASETS = Path(__file__).resolve().parents[1] / "datasets"  # of the checkout


def prepare(*arguments: str) -> int:
    """Run ``datasets/NAME/prepare.py`` with the other arguments: ``prepare ssv2 --root …``.

    The scripts belong to the checkout, not to the installed package. A folder elsewhere that holds
    a ``prepare.py`` is named by its path.
    """
    names = sorted(file.parent.name for file in DATASETS.glob("*/prepare.py"))
    name, *rest = arguments or ("",)
    folder = DATASETS / name if name in names else Path(name)
    if name in ("", "-h", "--help") and names:
        print(
            f"usage: videohpm data prepare NAME [options]\n\nNAME: {', '.join(names)}, or a folder"
        )
        return 0 if name else 2
    if not name or not (folder / "prepare.py").is_file():
        if not names:
            raise UserError(
                f"prepare: {DATASETS} does not exist; the scripts are part of the checkout, so "
                "install it with pip install -e, or run its datasets/NAME/prepare.py"
            )
        raise UserError(
            f"prepare: no data set {name!r}; there are: {', '.join(names)}; or give a folder with "
            "a prepare.py"
        )
    return _load(folder / "prepare.py", f"prepare_{folder.name}").main(rest)


def _load(file: Path, name: str) -> ModuleType:
    """The module of a file that is in no package."""
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None  # as for every file that ends in .py
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses find their module there
    spec.loader.exec_module(module)
    return module
