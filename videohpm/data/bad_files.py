"""Files that cannot be read: named once each, and the run stops where there are too many."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from videohpm.errors import UserError

if TYPE_CHECKING:
    from videohpm.data.batches import Batch

_log = logging.getLogger(__name__)


class BadFile(NamedTuple):
    """A file that could not be read: its row in the manifest, its path and why."""

    index: int
    path: str
    reason: str


class BadFileTracker:
    """Names each unreadable file once and stops the run where there are too many.

    The fraction is of distinct bad files among distinct files read; while few have been read, among
    a thousand (or the size of the data set, where smaller), so that one bad file in the first batch
    does not stop the run.
    """

    def __init__(self, n_samples: int, max_bad_fraction: float):
        self._seen = np.zeros(n_samples, dtype=bool)
        self._bad = np.zeros(n_samples, dtype=bool)
        self.max_bad_fraction = max_bad_fraction

    @property
    def seen(self) -> int:
        """Distinct files that were read, or that reading was tried of."""
        return int(self._seen.sum())

    @property
    def bad(self) -> int:
        """Distinct files that could not be read."""
        return int(self._bad.sum())

    @property
    def bad_files(self) -> np.ndarray:
        """bool (samples,): whose files could not be read."""
        return self._bad

    def update(self, batch: Batch) -> list[BadFile]:
        """Counts a batch; returns (and logs) the bad files that are new.

        Raises UserError where bad files exceed ``max_bad_fraction``.
        """
        self._seen[batch.index.numpy()] = True
        new = []
        for file in batch.bad:
            self._seen[file.index] = True
            if not self._bad[file.index]:
                self._bad[file.index] = True
                new.append(file)
                _log.warning("replaced an unreadable file: %s: %s", file.path, file.reason)
        base = max(self.seen, min(len(self._seen), 1000)) if new else 0
        if new and self.bad > self.max_bad_fraction * base:
            raise UserError(
                f"data.max_bad_fraction: {self.bad} of {base} files cannot be read, more than "
                f"{self.max_bad_fraction:.2%} (last: {new[-1].path}: {new[-1].reason}); repair or "
                f"remove them, or raise the fraction"
            )
        return new
