"""Whether a checkpoint holds what was written: every file is read and compared."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from videohpm.checkpoint import folders
from videohpm.checkpoint.checksums import TensorReader
from videohpm.compat import RENAMED_STATE, upgrade_names
from videohpm.errors import DamagedError

NUMBERS = ("step", "updates", "skipped")


def write_state(folder: Path, state: Mapping[str, Any]) -> None:
    """Write state.json, with a checksum of its own."""
    values = json.loads(json.dumps(state))
    text = json.dumps(values | {"crc32": _checksum(values)}, indent=2)
    (folder / "state.json").write_text(text + "\n")


def read_state(folder: Path) -> dict[str, Any]:
    """What state.json of a checkpoint holds. Raises DamagedError."""
    try:
        values = json.loads((folder / "state.json").read_text())
        written = values.pop("crc32", None)  # earlier versions have none
        if written not in (None, _checksum(values)):
            raise ValueError("state.json is not what was written")
        state = upgrade_names(values, RENAMED_STATE)
        if not all(type(state[name]) is int for name in NUMBERS):
            raise ValueError(f"state.json: {', '.join(NUMBERS)} must be whole numbers")
        state["ema_modules"] = [str(name) for name in state["ema_modules"]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise DamagedError(f"{folder}: no checkpoint of a run, or damaged ({reason})") from None
    return state


def find_damage(folder: Path) -> str | None:
    """What is wrong with a checkpoint, in a few words; None where it is sound.

    Reads all of it, its files beside each other.
    """
    try:
        state = read_state(folder)
        if not isinstance(json.loads((folder / "config.json").read_text()), dict):
            raise ValueError("config.json: no JSON object")
        names = ("model", "optimizer", *state["ema_modules"])
        with ThreadPoolExecutor(len(names)) as pool:
            list(pool.map(_read, [folder / f"{name}.safetensors" for name in names]))
    except (OSError, ValueError, RecursionError, DamagedError) as error:
        return str(error).replace(f"{folder}/", "").removeprefix(f"{folder}: ")
    return None


def newest_sound(run: Path) -> Path | None:
    """The newest checkpoint of a run that is whole, if there is one."""
    found = reversed(folders.checkpoints(run))
    return next((folder for folder in found if find_damage(folder) is None), None)


def name_another(path: Path) -> str:
    """How a message about damaged weights ends: which checkpoint of their run is sound."""
    sound = newest_sound(path.parents[path.parent.name == "checkpoints"])
    return f"; the newest sound checkpoint is {sound}" if sound and sound != path else ""


def _read(file: Path) -> None:
    reader = TensorReader(file)
    for name in reader.names:
        reader.get(name)


def _checksum(values: Mapping[str, Any]) -> str:
    return f"{zlib.crc32(json.dumps(values, sort_keys=True).encode()):08x}"
