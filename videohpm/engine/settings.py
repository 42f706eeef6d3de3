"""DeepSpeed's settings: derived from ours, with the user's own laid over them."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

from videohpm.config import EngineConfig, OptimConfig
from videohpm.errors import UserError

DEFAULT_STAGE = 1
UNSHARDED_BELOW = 4096
"""Under ZeRO-3 smaller parameters (biases, norms) stay on every rank: a thousandth of the memory,
and most of the gathering."""

BUCKET = 50_000_000
"""Numbers gathered before gradients are sent. DeepSpeed's own 500 million take 2 GB of each GPU (4
under bf16) whatever the model; 200 MB keep any link busy."""

# What we decide, and the field of ours that decides it. A user's file may repeat it, or set "auto".
OWNED = {
    "train_batch_size": "optim.global_batch_size",
    "train_micro_batch_size_per_gpu": "optim.global_batch_size",
    "gradient_accumulation_steps": "engine.grad_accum_steps",
    "gradient_clipping": "engine.grad_clip",
    "zero_optimization.stage": "engine.zero_stage",
    "zero_optimization.offload_optimizer": "engine.offload",
    "torch_autocast.enabled": "engine.precision",
    "torch_autocast.dtype": "engine.precision",
    "bf16.enabled": "engine.precision",
    "fp16.enabled": "engine.precision",
}
# What is not DeepSpeed's to do here, or what it would ignore silently, and our field for it.
FOREIGN = {
    "optimizer": "optim",
    "scheduler": "optim",
    "activation_checkpointing": "engine.checkpoint_activations",
    "bfloat16": "engine.precision",  # an old name of bf16
    "amp": "engine.precision",
    "elasticity": "optim.global_batch_size",
    "data_efficiency": "data",
    "zero_optimization.cpu_offload": "engine.offload",  # an old name of offload_optimizer
}
# Further copies of the shards, or shards of another kind: the teacher's moving average and the
# checkpoints would not reach them. The values are those that change nothing.
OTHER_SHARDS = {
    "zero_hpz_partition_size": 1,
    "mics_shard_size": -1,
    "zero_quantized_nontrainable_weights": False,
}


def deepspeed_settings(
    config: EngineConfig, optim: OptimConfig, world: int, precision: str, on_gpu: bool = False
) -> dict[str, Any]:
    """What ``deepspeed.initialize`` is given. Raises UserError for a file that contradicts us."""
    derived: dict[str, Any] = {
        "train_batch_size": optim.global_batch_size,
        "train_micro_batch_size_per_gpu": optim.global_batch_size // (world * config.accumulation),
        "gradient_accumulation_steps": config.accumulation,
        "gradient_clipping": config.grad_clip,  # always: DeepSpeed's default is not 0
        "zero_optimization": {
            "stage": DEFAULT_STAGE if config.zero_stage is None else config.zero_stage,
            "stage3_param_persistence_threshold": UNSHARDED_BELOW,
            "reduce_bucket_size": BUCKET,
        },
        "torch_autocast": {"enabled": precision == "bf16", "dtype": "bfloat16"},
        "bf16": {"enabled": False},
        "fp16": {"enabled": False},
        "zero_force_ds_cpu_optimizer": False,  # torch's fused AdamW needs no compiler
        "steps_per_print": None,
    }
    if on_gpu:  # gradients are sent while others are computed; by default at stage 3 only
        derived["zero_optimization"]["overlap_comm"] = True
    if config.offload:
        derived["zero_optimization"]["offload_optimizer"] = {"device": "cpu", "pin_memory": True}
    if config.deepspeed_config is None:
        return derived
    merged = _with_file(derived, config, Path(config.deepspeed_config))
    if config.compile and merged["zero_optimization"]["stage"] == 3:
        raise UserError(
            f"engine.deepspeed_config: {config.deepspeed_config} sets zero_optimization.stage = 3, "
            "which does not go with engine.compile; leave one out"
        )
    return merged


def bucket_of(config: EngineConfig) -> int:
    """Numbers that DeepSpeed gathers before gradients are sent, as a user's file may say."""
    if config.deepspeed_config is None:
        return BUCKET
    given = _read(Path(config.deepspeed_config)).get("zero_optimization", {})
    found = given.get("reduce_bucket_size", BUCKET) if isinstance(given, dict) else BUCKET
    return BUCKET if found == "auto" else int(found)


def _read(file: Path) -> dict[str, Any]:
    """A user's file of settings. Raises UserError."""
    try:
        given = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"engine.deepspeed_config: {file} cannot be read ({error})") from error
    if not isinstance(given, dict):
        raise UserError(f"engine.deepspeed_config: {file} must hold a JSON object")
    return given


def _with_file(derived: dict[str, Any], config: EngineConfig, file: Path) -> dict[str, Any]:
    """Our settings with the user's file laid over them."""
    given = _read(file)
    owned = dict(OWNED)
    if config.zero_stage is None and not config.offload:
        del owned["zero_optimization.stage"]  # not set here: the file may
    merged = _merge(derived, given, "", owned, file)
    for key, harmless in OTHER_SHARDS.items():
        if merged["zero_optimization"].get(key, harmless) != harmless:
            raise UserError(
                f"engine.deepspeed_config: {file} sets zero_optimization.{key}, which the teacher "
                "and checkpoints do not support; leave it out"
            )
    if merged["zero_optimization"].get("offload_param", {}).get("device") == "nvme":
        raise UserError(
            f"engine.deepspeed_config: {file} sets zero_optimization.offload_param.device = nvme, "
            "where the teacher cannot follow the weights; give cpu"
        )
    return merged


def for_ema_module(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings of a ZeRO-3 module that is never trained, from those of one that is."""
    settings = copy.deepcopy(settings)
    zero = settings["zero_optimization"]
    zero.pop("offload_optimizer", None)
    zero["stage3_param_persistence_threshold"] = 0
    return settings


def _merge(derived: dict, given: dict, path: str, owned: dict[str, str], file: Path) -> dict:
    merged = dict(derived)
    for key, value in given.items():
        name = f"{path}{key}"
        target = derived.get(key)
        if name in FOREIGN:
            raise UserError(
                f"engine.deepspeed_config: {file} has a section {name}; leave it out and use our "
                f"{FOREIGN[name]}"
            )
        if value == "auto" and key in derived:
            continue
        if name in owned and value != target:
            raise UserError(
                f"engine.deepspeed_config: {file} sets {name} = {json.dumps(value)}, but "
                f"{owned[name]} makes it {json.dumps(target)}; change one of them"
            )
        if isinstance(target, dict):
            if not isinstance(value, dict):  # it would replace all that we decide in there
                raise UserError(
                    f"engine.deepspeed_config: {file} sets {name} = {json.dumps(value)}; it must "
                    "be a JSON object"
                )
            value = _merge(target, value, f"{name}.", owned, file)
        merged[key] = value
    return merged
