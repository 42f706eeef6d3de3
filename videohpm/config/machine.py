"""What the launcher and the system say of the processes of a run, and of their cores."""

from __future__ import annotations

import os

from videohpm.config.checks import AUTO
from videohpm.errors import ConfigError


def launched_world_size() -> int:
    """How many processes the launcher started, as the environment says; 1 without one.

    Raises ConfigError where that is no number.
    """
    text = os.environ.get("WORLD_SIZE", "1")
    if not text.isdigit() or int(text) < 1:
        raise ConfigError(f"WORLD_SIZE: {text!r}; give the number of processes, 1 or more")
    return int(text)


def local_world_size() -> int:
    """How many processes of the run are on this machine."""
    names = "LOCAL_WORLD_SIZE", "LOCAL_SIZE", "SLURM_NTASKS_PER_NODE"
    found = next((os.environ[name] for name in names if os.environ.get(name, "").isdigit()), None)
    return min(int(found or launched_world_size()), launched_world_size())


def reading_processes(workers: int | str) -> int:
    """As many as a configuration asks for; auto: one for each core of this process."""
    return cores_per_rank() if workers == AUTO else int(workers)


def cores_per_rank() -> int:
    """The CPU cores of each process of this machine.

    torchrun, the ``deepspeed`` launcher and ours let their processes share what they have; Slurm
    gives each its own.
    """
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not on every system
        cores = os.cpu_count() or 1
    sharing = os.environ.get("LOCAL_WORLD_SIZE") or os.environ.get("LOCAL_SIZE") or "1"
    return max(1, cores // int(sharing))
