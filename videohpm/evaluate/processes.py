"""The processes of an evaluation: each does its share of the videos, then results are gathered.

Works the same under torchrun and alone. Results travel over gloo, whatever the devices.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any, cast

import torch
import torch.distributed as dist

from videohpm.engine import EngineConfig, distributed

LONGEST_WAIT = timedelta(hours=12)
"""For the slowest rank: one may have all the videos that are slow to read."""


@dataclass
class EvalProcesses:
    """This process among ``world``."""

    rank: int = 0
    world: int = 1
    group: dist.ProcessGroup | None = None

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that writes and prints."""
        return self.rank == 0

    def gather(self, value: Any) -> list[Any]:
        """Every rank's ``value``, in order of rank, on every rank."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        dist.all_gather_object(values, value, group=self.group)
        return values

    def destroy_process_group(self) -> None:
        """Called once all is done: gloo's threads, when still there as the interpreter ends, may
        abort a process whose work was complete."""
        if self.world > 1:
            distributed.destroy_process_group()


def init_eval_processes(device: torch.device) -> EvalProcesses:
    """The processes of one launch; a single one without a launcher."""
    if distributed.launched_world_size() > 1:
        distributed.init_process_group(device, EngineConfig().timeout)
    if distributed.world_size() == 1:
        return EvalProcesses()
    group = cast(dist.ProcessGroup, dist.new_group(backend="gloo", timeout=LONGEST_WAIT))
    return EvalProcesses(distributed.rank(), distributed.world_size(), group)
