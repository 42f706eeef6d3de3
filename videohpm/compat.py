"""Names that earlier versions used: their files still load, their keys are refused by name.

A config or command line with an old key is refused with the new one; checkpoints, exports and run
folders that an earlier version wrote are translated while they are read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

RENAMED_FIELDS = {
    "optim.batch": "optim.global_batch_size",
    "optim.lr": "optim.base_lr",
    "optim.final_lr": "optim.min_lr",
    "engine.clip": "engine.grad_clip",
    "engine.accumulation": "engine.grad_accum_steps",
    "hpm.predictor": "hpm.predictor_unit",
    "hpm.teacher_steps": "hpm.teacher_samples_per_tube",
    "hpm.teacher_read": "hpm.score_readout",
    "hpm.hard_share_start": "hpm.hard_ratio_start",
    "hpm.hard_share_end": "hpm.hard_ratio_end",
    "model.size": "model.arch",
    "augment.erase": "augment.random_erasing",
    "data.short": "data.short_videos",
    "data.tries": "data.max_retries",
    "data.sample_seconds": "data.decode_timeout",
    "data.max_bad_share": "data.max_bad_fraction",
    "data.reduce": "data.downscale_on_decode",
    "hard_share": "hard_ratio",
    "jobs": "workers",
    "seconds": "decode_timeout",
}
"""Fields of the configuration and options of commands: old → new."""

RENAMED_METRICS = {"hard_share": "hard_ratio", "relative_loss": "predictor_loss"}
RENAMED_MODEL_ARGUMENTS = {"size": "arch", "predictor": "predictor_unit"}
RENAMED_STATE = {"followers": "ema_modules"}


def upgrade_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """A run's configuration, as config.yaml and state.json hold it, in today's names.

    Args:
        config: sections of fields; values outside a section are passed through.
    """
    return {
        section: {
            RENAMED_FIELDS.get(f"{section}.{name}", f"{section}.{name}").partition(".")[2]: value
            for name, value in fields.items()
        }
        if isinstance(fields, Mapping)
        else fields
        for section, fields in config.items()
    }


def upgrade_names(values: Mapping[str, Any], renamed: Mapping[str, str]) -> dict[str, Any]:
    """``values`` with the keys of ``renamed`` replaced by their new names."""
    return {renamed.get(name, name): value for name, value in values.items()}
