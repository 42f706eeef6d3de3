"""DeepSpeed's settings: derived from ours, with the user's own laid over them."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

from videohpm.engine.config import EngineConfig
from videohpm.errors import UserError
from videohpm.optim import OptimConfig

DEFAULT_STAGE = 1
WHOLE_BELOW = 4096
"""Under ZeRO-3 smaller parameters (biases, norms) stay whole on every rank: a thousandth of the
memory, and most of the gathering."""

BUCKET = 50_000_000
"""Numbers gathered before gradients are sent. DeepSpeed's own 500 million take 2 GB of each GPU (4
under bf16) whatever the model; 200 MB keep any link busy."""

# What we decide, and the field of ours that decides it. A user's file may repeat it, or say "auto".
OWNED = {
    "train_batch_size": "optim.batch",
    "train_micro_batch_size_per_gpu": "optim.batch",
    "gradient_accumulation_steps": "engine.accumulation",
    "gradient_clipping": "engine.clip",
    "zero_optimization.stage": "engine.zero_stage",
    "zero_optimization.offload_optimizer": "engine.offload",
    "torch_autocast.enabled": "engine.precision",
    "torch_autocast.dtype": "engine.precision",
    "bf16.enabled": "engine.precision",
    "fp16.enabled": "engine.precision",
}
# What is not DeepSpeed's to do here.
FOREIGN = {
    "optimizer": "optim",
    "scheduler": "optim",
    "activation_checkpointing": "engine.checkpoint_activations",
}


def deepspeed_settings(
    config: EngineConfig, optim: OptimConfig, world: int, precision: str
) -> dict[str, Any]:
    """What ``deepspeed.initialize`` is given. Raises UserError for a file that contradicts us."""
    derived: dict[str, Any] = {
        "train_batch_size": optim.batch,
        "train_micro_batch_size_per_gpu": optim.batch // (world * config.accumulation),
        "gradient_accumulation_steps": config.accumulation,
        "gradient_clipping": config.clip,  # always: DeepSpeed's default is not 0
        "zero_optimization": {
            "stage": DEFAULT_STAGE if config.zero_stage is None else config.zero_stage,
            "stage3_param_persistence_threshold": WHOLE_BELOW,
            "reduce_bucket_size": BUCKET,
        },
        "torch_autocast": {"enabled": precision == "bf16", "dtype": "bfloat16"},
        "bf16": {"enabled": False},
        "fp16": {"enabled": False},
        "zero_force_ds_cpu_optimizer": False,  # torch's fused AdamW needs no compiler
        "steps_per_print": None,
    }
    if config.offload:
        derived["zero_optimization"]["offload_optimizer"] = {"device": "cpu", "pin_memory": True}
    if config.deepspeed_config is None:
        return derived
    file = Path(config.deepspeed_config)
    try:
        theirs = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"engine.deepspeed_config: {file} cannot be read ({error})") from error
    if not isinstance(theirs, dict):
        raise UserError(f"engine.deepspeed_config: {file} must hold a JSON object")
    owned = dict(OWNED)
    if config.zero_stage is None and not config.offload:
        del owned["zero_optimization.stage"]  # nothing said here: the file may
    for key, section in FOREIGN.items():
        if key in theirs:
            raise UserError(
                f"engine.deepspeed_config: {file} has a section {key}; leave it out and use our "
                f"{section}"
            )
    return _merge(derived, theirs, "", owned, file)


def for_follower(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings of a ZeRO-3 module that is never trained, from those of one that is."""
    settings = copy.deepcopy(settings)
    zero = settings["zero_optimization"]
    zero.pop("offload_optimizer", None)
    zero["stage3_param_persistence_threshold"] = 0
    return settings


def _merge(ours: dict, theirs: dict, path: str, owned: dict[str, str], file: Path) -> dict:
    merged = dict(ours)
    for key, value in theirs.items():
        name = f"{path}{key}"
        mine = ours.get(key)
        if value == "auto" and key in ours:
            continue
        if name in owned and value != mine:
            raise UserError(
                f"engine.deepspeed_config: {file} says {name} = {json.dumps(value)}, but "
                f"{owned[name]} makes it {json.dumps(mine)}; change one of them"
            )
        if isinstance(value, dict) and isinstance(mine, dict):
            value = _merge(mine, value, f"{name}.", owned, file)
        merged[key] = value
    return merged
