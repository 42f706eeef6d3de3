"""The processes of an evaluation: each does its share of the videos, then results are gathered.

Works the same under torchrun and alone. Results travel over gloo, whatever the devices. One may
have all the videos that are slow to read: the others wait for it as long as it gets on.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch

from videohpm.engine import collectives, distributed


@dataclass
class EvalProcesses:
    """This process among ``world``."""

    rank: int = 0
    world: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that writes and prints."""
        return self.rank == 0

    def gather(self, value: Any) -> list[Any]:
        """Every rank's ``value``, in order of rank, on every rank; waits for those at work.

        Raises RunError where one of them is lost.
        """
        if self.world == 1:
            return [value]
        distributed.wait_for_all()
        return collectives.all_gather(value)

    def working(self) -> AbstractContextManager[None]:
        """Around what takes long, and has a limit of its own, while others wait to gather."""
        return distributed.working()

    def progress(self) -> None:
        """This process gets on: the others go on waiting."""
        distributed.progress()

    def destroy_process_group(self) -> None:
        """Called once all is done: gloo's threads, when still there as the interpreter ends, may
        abort a process whose work was complete."""
        if self.world > 1:
            distributed.destroy_process_group()


def init_eval_processes(device: torch.device, timeout: float) -> EvalProcesses:
    """The processes of one launch; a single one without a launcher.

    Args:
        timeout: seconds one process waits for another that gives no sign of life. In a run that has
            joined its processes, its own counts.
    """
    if distributed.launched_world_size() > 1:
        distributed.init_process_group(device, timeout, "timeout")
    if distributed.world_size() == 1:
        return EvalProcesses()
    return EvalProcesses(distributed.rank(), distributed.world_size())
