"""What a run is asked to do otherwise than it did before it was interrupted."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from videohpm.compat import upgrade_config

FREE = re.compile(
    r"dataset|test_weights|(validation|test|engine|probe)\..*|run\.(?!seed$).*"
    r"|model\.(init|init_parts|weights)"
    r"|data\.(root|manifest|workers|prefetch|downscale_on_decode|max_\w+|decode_timeout)"
)
"""Fields that say where, how long and how fast, or what is looked at: not what a step learns."""
SHOWN = 5


def changed_settings(before: Any, now: Mapping[str, Any]) -> list[str]:
    """Fields that change what steps learn, each with its value before and now.

    Args:
        before: a configuration as a checkpoint holds it, perhaps of an earlier version, or of none.
        now: as :func:`videohpm.config.as_plain` gives it. A field that one of them lacks is none.
    """
    if not isinstance(before, Mapping):
        return []
    old, new = _fields(upgrade_config(before)), _fields(now)
    return [
        f"{name} {_text(old[name])}, now {_text(new[name])}"
        for name in new
        if name in old and old[name] != new[name] and not FREE.fullmatch(name)
    ]


def told_changes(changes: list[str]) -> str:
    """The changes as part of a sentence; the first few where there are many."""
    more = f" and {len(changes) - SHOWN} more" if len(changes) > SHOWN else ""
    return "; ".join(changes[:SHOWN]) + more


def _fields(config: Mapping[str, Any]) -> dict[str, Any]:
    found = {}
    for section, fields in config.items():
        if isinstance(fields, Mapping):
            found |= {f"{section}.{name}": value for name, value in fields.items()}
        else:
            found[section] = fields
    return found


def _text(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return str(value)
