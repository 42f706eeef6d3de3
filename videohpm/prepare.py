"""``videohpm data prepare``: finds and runs the preparation scripts of a checkout."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

from videohpm.errors import UserError

DATASETS = Path(__file__).resolve().parents[1] / "datasets"  # of the checkout


def prepare(*arguments: str) -> int:
    """Run ``datasets/NAME/prepare.py`` with the other arguments: ``prepare ssv2 --root …``.

    The scripts belong to the checkout, not to the installed package.
    """
    names = sorted(file.parent.name for file in DATASETS.glob("*/prepare.py"))
    if not names:
        raise UserError(
            f"prepare: {DATASETS} does not exist; the scripts are part of the checkout, so install "
            "it with pip install -e, or run its datasets/NAME/prepare.py"
        )
    if not arguments or arguments[0] in ("-h", "--help"):
        print(f"usage: videohpm data prepare NAME [options]\n\nNAME: {', '.join(names)}")
        return 0 if arguments else 2
    name, *rest = arguments
    if name not in names:
        raise UserError(f"prepare: no data set {name!r}; there are: {', '.join(names)}")
    spec = importlib.util.spec_from_file_location(f"prepare_{name}", DATASETS / name / "prepare.py")
    script = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = script  # dataclasses look their module up
    spec.loader.exec_module(script)
    return script.main(rest)
