"""What stands beside weights: which model they are, and how the run that made them went."""

from __future__ import annotations

import json
from os import PathLike
from pathlib import Path
from typing import Any

import yaml

from videohpm.checkpoint.folders import find_weights
from videohpm.compat import RENAMED_MODEL_ARGUMENTS, upgrade_config, upgrade_names
from videohpm.config import DataConfig, FinetuneConfig, PretrainConfig, as_plain, from_plain
from videohpm.config.architecture import Architecture, ViTConfig, classifier_config, mae_config
from videohpm.errors import UserError
from videohpm.models.build import CONFIGS

MOST_JSON = 8 << 20
"""Bytes of config.json that are read."""
FORMAT, VERSION = "videohpm", 2
"""Version 1 had a model's arguments in one flat table, and activation checkpointing among them."""
OWN = ("format", "version", "kind", "model", "teacher")
"""Entries of config.json that describe the model; the others belong to it."""
CUT = ("sampling", "stride", "interpolation", "antialias")
"""Of a run's section data: how the clips of a test are cut as well."""
PLACES = ("run.dir", "run.resume", "data.root", "data.manifest", "validation.root")
PLACES += ("validation.manifest",)
"""Fields that name places on one machine: no part of a recipe."""


def read_metadata(path: str | PathLike[str]) -> tuple[Path, dict]:
    """The folder of weights meant by ``path``, and what its config.json holds.

    Raises UserError where that is not what this version of videohpm, or an earlier one, wrote.
    """
    folder = find_weights(path)
    try:
        with (folder / "config.json").open("rb") as file:
            text = file.read(MOST_JSON + 1)
        if len(text) > MOST_JSON:
            raise ValueError("too large")
        metadata = json.loads(text)
        kind, version = metadata["kind"], metadata["version"]
        known = metadata["format"] == FORMAT and kind in CONFIGS and metadata["model"]
    except KeyError as error:
        raise UserError(
            f"{folder}/config.json: {error} is missing: no model in the layout of videohpm; others "
            "are read by videohpm convert, and by from_pretrained of the model's class"
        ) from None
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise UserError(f"{folder}/config.json: cannot be read ({error})") from error
    if not known or type(version) is not int or not 1 <= version <= VERSION:
        raise UserError(
            f"{folder}/config.json: {kind} in version {version} of the format is not known to this "
            "version of videohpm"
        )
    return folder, metadata


def read_config(metadata: dict) -> Architecture:
    """The configuration of the model that config.json describes.

    Raises ValueError, naming the field, where it describes none.
    """
    kind, model = metadata["kind"], metadata["model"]
    if metadata["version"] > 1:
        return from_plain(CONFIGS[kind], model)
    if not isinstance(model, dict):
        raise ValueError(f"model: {model!r} is not a mapping of fields")
    model = upgrade_names(model, RENAMED_MODEL_ARGUMENTS)
    model.pop("checkpoint", None)
    if kind == "MaskedAutoencoder":
        return mae_config(**model)
    if kind == "VideoClassifier":
        return classifier_config(**model)
    return from_plain(ViTConfig, model)


def read_described(folder: Path) -> dict:
    """What config.json of a folder of weights holds, and what the run around it says besides.

    Where config.json does not say how clips were cut (``protocol``) and normalised (``mean``,
    ``std``), what the configuration in a checkpoint's state.json says; and ``data``, ``recipe`` and
    ``metrics`` of the run. Raises UserError where config.json or state.json is damaged.
    """
    _, metadata = read_metadata(folder)
    metadata |= _run_of(folder)
    file = folder / "state.json"
    if metadata.get("protocol") or not file.is_file():
        return metadata
    try:
        config = upgrade_config(json.loads(file.read_text())["config"])
        if "data" not in config:
            return metadata
        data = from_plain(DataConfig, config["data"], strict=False)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{file}: damaged ({error!r})") from None
    pixels = {"mean": list(data.mean), "std": list(data.std)}
    return pixels | metadata | {"protocol": {name: getattr(data, name) for name in CUT}}


def _run_of(folder: Path) -> dict[str, Any]:
    """``data``, ``recipe`` and ``metrics`` of the run that wrote a checkpoint, or best weights.

    Plain values without places of this machine; what is not known, or cannot be read, is left out.
    """
    state = _json(folder / "state.json")
    run = folder.parent.parent if state else folder.parent
    if not (run / "config.yaml").is_file():
        return {}
    sections = state.get("config") or _yaml(run / "config.yaml")
    if not isinstance(sections, dict) or not isinstance(sections.get("data"), dict):
        return {}
    found: dict[str, Any] = {}
    data = sections["data"]
    names = [sections.get("dataset"), data.get("manifest") or data.get("root")]
    names = [Path(name).name for name in names if isinstance(name, str) and name]
    samples = state.get("samples") or _json(_newest_state(run)).get("samples")
    if names:
        count = f" ({samples} samples)" if isinstance(samples, int) else ""
        found["data"] = ", ".join(dict.fromkeys(names)) + count
    found["recipe"] = _recipe(sections, state)
    metrics = _metrics(run, folder, state.get("step"))
    return found | ({"metrics": metrics} if metrics else {})


def _recipe(sections: dict, state: dict) -> dict:
    """What a run's configuration says that is not the default, and how long it went."""
    kind = FinetuneConfig if "test_weights" in sections else PretrainConfig
    recipe: dict[str, Any] = {"command": "finetune" if kind is FinetuneConfig else "pretrain"}
    usual = as_plain(kind())
    for section, values in sections.items():
        if not isinstance(values, dict):
            if values != usual.get(section) and section != "dataset":
                recipe[section] = values
            continue
        own = usual.get(section)
        own = own if isinstance(own, dict) else {}
        changed = {
            name: value
            for name, value in values.items()
            if value != own.get(name) and f"{section}.{name}" not in PLACES
        }
        if isinstance(changed.get("init"), str):
            changed["init"] = Path(changed["init"]).name
        if isinstance(changed.get("target_encoder"), str):
            changed["target_encoder"] = Path(changed["target_encoder"]).name
        if changed:
            recipe[section] = changed
    if isinstance(sections.get("dataset"), str):
        recipe["dataset"] = Path(sections["dataset"]).name
    known = {"steps_done": state.get("step"), "versions": state.get("versions")}
    return recipe | {name: value for name, value in known.items() if value}


def _metrics(run: Path, folder: Path, step: int | None) -> dict[str, float]:
    """Of a test of these weights, else what was logged last up to ``step``."""
    tested = _json(run / "evaluation.json")
    if Path(str(tested.get("model", ""))).name == folder.name:
        return {n: v for n, v in tested.items() if type(v) in (int, float) and n != "best_step"}
    if step is None:
        return {}
    last: dict = {}
    try:
        for line in (run / "metrics.jsonl").read_text(errors="replace").splitlines():
            row = json.loads(line)
            if isinstance(row, dict) and row.get("step", step + 1) <= step:
                last = row
    except (OSError, ValueError, TypeError, RecursionError):
        pass
    kept = ("step", "loss", "predictor_loss", "rank_correlation", "teacher_rank_correlation")
    kept += ("top1", "top5")
    return {name: last[name] for name in kept if type(last.get(name)) in (int, float)}


def _newest_state(run: Path) -> Path:
    states = sorted((run / "checkpoints").glob("step_*/state.json"))
    return states[-1] if states else run / "state.json"


def _json(file: Path) -> dict:
    try:
        value = json.loads(file.read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _yaml(file: Path) -> Any:
    try:
        return yaml.safe_load(file.read_text())
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return {}
