"""The end of a run whose losses are no longer finite, with the samples that it met last."""

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

LOSSES = {"loss": "loss", "predictor_loss": "loss of the loss predictor"}
"""What steps are to minimise, by the name of its metric."""
SKIPPED_IN_A_ROW = 20
"""So many steps whose gradient is not finite end a run."""


class RecentLosses:
    """Losses not checked yet, with the samples behind them.

    They are read only when something is logged or saved, so that steps do not wait for the device.
    """

    def __init__(self, manifest: Manifest, config: Any):
        self.manifest, self.config = manifest, config
        self.skipped = 0
        self.kept: list[tuple[int, dict[str, Tensor], list[Tensor]]] = []

    def add(self, step: int, metrics: dict[str, Tensor], batches: list[Batch]) -> None:
        """Remember the losses of a step, of all that it measured, and its batches."""
        losses = {name: metrics[name] for name in LOSSES if name in metrics}
        self.kept.append((step, losses, [batch.index for batch in batches]))

    def count_skipped(self, step: int, applied: bool) -> None:
        """RunError where too many steps in a row did not move the weights (ZeRO 1 to 3)."""
        self.skipped = 0 if applied else self.skipped + 1
        if self.skipped == SKIPPED_IN_A_ROW:
            self.check()
            raise RunError(
                f"step {step}: the gradient was not finite in {SKIPPED_IN_A_ROW} steps in a row, "
                "and the weights did not move; stopped, earlier checkpoints are kept. A lower "
                "optim.base_lr, or engine.precision fp32, may help"
            )

    def check(self) -> None:
        """RunError on every rank, naming the step and its samples, where a loss is not finite."""
        failures = [
            self._failure(step, name, loss, indices)
            for step, losses, indices in self.kept
            for name, loss in losses.items()
            if not torch.isfinite(loss)
        ]
        try:
            collectives.raise_on_all_ranks(failures[0] if failures else None)
        except RunError as error:
            if distributed.rank() == 0:
                folder = Path(self.config.run.dir)
                checkpoint.note_not_finite(folder, as_plain(self.config), str(error))
            raise
        self.kept.clear()

    def _failure(self, step: int, name: str, loss: Tensor, indices: list[Tensor]) -> RunError:
        names = [self.manifest[int(i)].path for index in indices for i in index]
        return RunError(
            f"step {step}: the {LOSSES[name]} is {float(loss)}; stopped, earlier checkpoints are "
            f"kept. Samples of this step: {', '.join(dict.fromkeys(names))}"
        )
