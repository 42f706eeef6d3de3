"""``videohpm data prepare``: finds and runs the preparation scripts of the data sets."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from videohpm.config.places import HOME
from videohpm.errors import UserError

DATASETS = HOME / "datasets"


def prepare(*arguments: str) -> int:
    """Run ``datasets/NAME/prepare.py`` with the other arguments: ``prepare ssv2 --root …``.

    A folder elsewhere that holds a ``prepare.py`` is named by its path.
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
                f"prepare: {DATASETS} does not exist; install videohpm again, or give a folder "
                "with a prepare.py"
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
    if str(file.parent) not in sys.path:
        sys.path.insert(0, str(file.parent))  # as when it is run: it may import what is beside it
    spec.loader.exec_module(module)
    return module
