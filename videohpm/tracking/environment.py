"""The versions and devices that a run depends on."""

from __future__ import annotations

import json
import os
import platform
from importlib import metadata
from pathlib import Path

PACKAGES = ("videohpm", "torch", "torchvision", "timm", "numpy", "av", "decord", "deepspeed")


def describe_machine(file: Path, processes: int = 1) -> None:
    """Write the versions and devices that a run depends on as JSON; no host or user names.

    Args:
        processes: of the run, on all machines; the rest is this machine's.
    """
    import torch

    versions: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    environment = {
        "python": platform.python_version(),
        "system": platform.system(),
        "machine": platform.machine(),
        "packages": versions,
        "processes": processes,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "cuda": torch.version.cuda,
        "gpus": gpus,
    }
    file.write_text(json.dumps(environment, indent=2) + "\n")
