"""The end of a run whose loss is no longer finite, with the samples that it met last."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from videohpm import checkpoint
from videohpm.config import as_plain
from videohpm.data import Batch
from videohpm.data.manifest import Manifest
from videohpm.engine import collectives, distributed
from videohpm.errors import RunError


class RecentLosses:
    """Losses not checked yet, with the samples behind them.

    They are read only when something is logged or saved, so that steps do not wait for the device.
    """

    def __init__(self, manifest: Manifest, config: Any):
        self.manifest, self.config = manifest, config
        self.kept: list[tuple[int, Tensor, list[Tensor]]] = []

    def add(self, step: int, loss: Tensor, batches: list[Batch]) -> None:
        """Remember the loss of a step and its batches."""
        self.kept.append((step, loss, [batch.index for batch in batches]))

    def check(self) -> None:
        """RunError on every rank, naming the step and its samples, where a loss is not finite."""
        failures = [self._failure(*kept) for kept in self.kept if not torch.isfinite(kept[1])]
        try:
            collectives.raise_on_all_ranks(failures[0] if failures else None)
        except RunError as error:
            if distributed.rank() == 0:
                folder = Path(self.config.run.dir)
                checkpoint.note_not_finite(folder, as_plain(self.config), str(error))
            raise
        self.kept.clear()

    def _failure(self, step: int, loss: Tensor, indices: list[Tensor]) -> RunError:
        names = [self.manifest[int(i)].path for index in indices for i in index]
        return RunError(
            f"step {step}: the loss is {float(loss)}; stopped, earlier checkpoints are "
            f"kept. Samples of this step: {', '.join(dict.fromkeys(names))}"
        )
