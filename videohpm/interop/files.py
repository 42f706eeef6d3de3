"""Foreign files, read without trusting them: nothing is unpickled that is not plain data."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from videohpm.compat import RENAMED_MODEL_ARGUMENTS, upgrade_names
from videohpm.config.architecture import Architecture, encoder_of
from videohpm.errors import UserError
from videohpm.interop.pickles import load_pickled, one_line
from videohpm.models import MAEConfig

ENTRIES = ("model", "module", "state_dict", "model_state", "model_state_dict")
"""Where published files keep the weights, in the order they are tried."""
EMA_ENTRIES = ("ema_state_dict", "model_ema")
WRAPPERS = ("module.", "_orig_mod.")
"""Left in names by DistributedDataParallel and torch.compile."""
HINTS: dict[str, tuple[type, ...]] = {
    "frames": (int,),
    "image_size": (int, tuple),
    "heads": (int,),
    "position": (str,),
    "decoder_heads": (int,),
    "target": (str,),
    "predictor_unit": (str,),
}
"""What videohpm writes beside the weights of other layouts, which do not show it, and its types."""
PROCESSORS = ("preprocessor_config.json", "video_preprocessor_config.json")
JSON_LIMIT = 8 << 20


@dataclass
class Source:
    """The tensors of a file or folder, and what else it holds beside them."""

    path: str
    tensors: dict[str, Tensor]
    config: dict = field(default_factory=dict)
    """config.json beside the weights."""
    processor: dict = field(default_factory=dict)
    """How frames become the model's input: preprocessor_config.json beside the weights."""
    args: dict = field(default_factory=dict)
    """The training arguments that the file carries."""
    ema: dict[str, Tensor] | None = None
    """The moving average that the file carries beside the weights."""
    entry: str = ""
    """The key of the file under which the weights were found; empty: none."""
    hint: dict = field(default_factory=dict)
    """What videohpm wrote beside the weights, see HINTS."""
    stripped: list[str] = field(default_factory=list)
    """Prefixes taken off every name."""


def read_source(path: str | Path) -> Source:
    """Read a checkpoint file or a folder with one.

    Raises UserError, one line, for what is missing, damaged, hostile or not a checkpoint.
    """
    path = Path(path)
    if path.is_dir():
        return _read_folder(path)
    if not path.is_file():
        raise UserError(f"{path}: there is no such file or folder")
    if _is_safetensors(path):
        return _finish(Source(str(path), read_safetensors(path)), path.parent)
    tree = load_pickled(path)
    return _finish(_choose(path, tree), None)


def _choose(path: Path, tree: object) -> Source:
    """Find the weights among what a training file keeps beside them."""
    if not isinstance(tree, Mapping):
        raise UserError(f"{path}: holds a {type(tree).__name__}, not a dictionary of weights")
    args = tree.get("args")
    source = Source(str(path), {}, args=dict(vars(args)) if hasattr(args, "__dict__") else {})
    source.args = _plain_values(source.args)
    if isinstance(tree.get("videohpm"), Mapping):
        found = _plain_values(upgrade_names(tree["videohpm"], RENAMED_MODEL_ARGUMENTS))
        source.hint = {n: found[n] for n, kinds in HINTS.items() if isinstance(found.get(n), kinds)}
    for entry in EMA_ENTRIES:
        if source.ema is None and _is_weights(tree.get(entry)):
            source.ema = _check_tensors(path, tree[entry])
    for entry in ENTRIES:
        if _is_weights(tree.get(entry)):
            source.entry, source.tensors = entry, _check_tensors(path, tree[entry])
            return source
    if _is_weights(tree):
        source.tensors = _check_tensors(path, tree)
        return source
    if source.ema is not None:
        source.tensors = source.ema
        return source
    keys = ", ".join(map(str, list(tree)[:6]))
    raise UserError(f"{path}: no weights in it; it holds {keys or 'nothing'}")


def is_plain(value: object) -> bool:
    """A string, a bool or a positive whole number (or two): the only values that are trusted."""
    if isinstance(value, list) and len(value) == 2:
        return all(type(v) is int and v > 0 for v in value)
    return isinstance(value, (str, bool)) or (type(value) is int and value > 0)


def _plain_values(values: Mapping) -> dict:
    """The values that are trusted, pairs as tuples."""
    plain = {name: value for name, value in values.items() if is_plain(value)}
    return {n: tuple(v) if isinstance(v, list) else v for n, v in plain.items()}


def hints(config: Architecture) -> dict:
    """What tensors do not show of a model, to be written beside them: those of HINTS."""
    encoder = encoder_of(config)
    found = {
        "frames": encoder.frames,
        "image_size": list(size) if isinstance(size := encoder.image_size, tuple) else size,
        "heads": encoder.heads,
        "position": encoder.position,
    }
    if isinstance(config, MAEConfig):
        found |= {"decoder_heads": config.decoder.heads, "target": config.target}
        if config.predictor is not None:
            found["predictor_unit"] = config.predictor.unit
    return found


def _is_weights(tree: object) -> bool:
    return (
        isinstance(tree, Mapping)
        and len(tree) > 0
        and all(isinstance(key, str) for key in tree)
        and all(isinstance(value, Tensor) for value in tree.values())
    )


def _check_tensors(path: Path, tensors: Mapping) -> dict[str, Tensor]:
    """Plain dense tensors only, and none that claims to be larger than what the file stores."""
    for name, tensor in tensors.items():
        plain = tensor.layout == torch.strided and tensor.device.type == "cpu"
        if not plain or tensor.is_quantized:
            raise UserError(f"{path}: {name} is not a plain dense tensor")
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise UserError(
                f"{path}: refused: {name} claims {tuple(tensor.shape)} values and stores "
                f"{tensor.untyped_storage().nbytes()} bytes"
            )
    return {str(name): tensor.detach() for name, tensor in tensors.items()}


def _read_folder(folder: Path) -> Source:
    for name in ("model.safetensors", "pytorch_model.bin"):
        index = folder / f"{name}.index.json"
        if (folder / name).is_file():
            return _finish(_read_one(folder / name), folder)
        if index.is_file():
            named = read_json(index).get("weight_map")
            if not isinstance(named, dict) or not all(isinstance(n, str) for n in named.values()):
                raise UserError(f"{index}: weight_map is not a table from tensors to files")
            shards = sorted(set(named.values()))
            merged = Source(str(folder), {})
            for shard in shards:
                if Path(shard).name != shard:
                    raise UserError(f"{index}: names a file outside the folder ({shard})")
                merged.tensors |= _read_one(folder / shard).tensors
            return _finish(merged, folder)
    weights = [f for f in sorted(folder.iterdir()) if f.suffix in (".pth", ".pt", ".safetensors")]
    if len(weights) == 1:
        return _finish(_read_one(weights[0]), folder)
    raise UserError(
        f"{folder}: no model.safetensors or pytorch_model.bin in it; name the file to convert"
    )


def _read_one(path: Path) -> Source:
    if not path.is_file():
        raise UserError(f"{path}: there is no such file")
    if _is_safetensors(path):
        return Source(str(path), read_safetensors(path))
    return _choose(path, load_pickled(path))


def _is_safetensors(path: Path) -> bool:
    with open(path, "rb") as file:
        return path.suffix == ".safetensors" or file.read(9)[8:9] == b"{"


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file. UserError when it is damaged."""
    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{path}: damaged or cut short ({one_line(error)})") from None


def _finish(source: Source, folder: Path | None) -> Source:
    if folder is not None and (folder / "config.json").is_file():
        source.config = read_json(folder / "config.json")
        for name in PROCESSORS:
            if (folder / name).is_file():
                source.processor = read_json(folder / name)
                break
    source.tensors, source.stripped = strip_wrappers(source.path, source.tensors)
    if source.ema is not None:
        source.ema, _ = strip_wrappers(source.path, source.ema)
    return source


def strip_wrappers(path: str, tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Take off what wrappers prepend; torch.compile's mark may also stand inside a name."""
    stripped, clean = set(), {}
    for name, tensor in tensors.items():
        short = name
        while short.startswith(WRAPPERS):
            wrapper, _, short = short.partition(".")
            stripped.add(f"{wrapper}.")
        if "._orig_mod." in short:
            short = short.replace("._orig_mod.", ".")
            stripped.add("_orig_mod.")
        if short in clean:
            raise UserError(f"{path}: {name} and another tensor have the same name without prefix")
        clean[short] = tensor
    return clean, sorted(stripped)


def strip_prefix(source: Source, *prefixes: str) -> None:
    """Take ``encoder.`` or ``backbone.`` off a source that holds an encoder alone."""
    for prefix in prefixes:
        bare = {name.removeprefix(prefix): tensor for name, tensor in source.tensors.items()}
        if f"{prefix}patch_embed.proj.weight" in source.tensors and len(bare) == len(
            source.tensors
        ):
            source.tensors = bare
            source.stripped.append(prefix)


def read_json(path: Path) -> dict:
    """A JSON object. Raises UserError when it is none, or is too large."""
    try:
        if path.stat().st_size > JSON_LIMIT:
            raise ValueError("too large")
        value = json.loads(path.read_text())
        if not isinstance(value, dict):
            raise ValueError("not an object")
        return value
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read as JSON ({one_line(error)})") from None
