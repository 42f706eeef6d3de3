"""Files that cannot be read: named once each, and the run stops where there are too many."""

from __future__ import annotations

import base64
import json
import logging
import os
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

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
    """Names each unreadable file once and says where there are too many.

    The fraction is of distinct bad files among distinct files read; while few have been read, among
    a thousand (or the size of the data set, where smaller), so that one bad file in the first batch
    does not stop the run.

    Each rank has one. What they find is put together with :meth:`merge`, and kept over a restart
    with :meth:`state` and :meth:`restore`.
    """

    def __init__(self, n_samples: int, max_bad_fraction: float):
        self.seen_flags = np.zeros(n_samples, dtype=bool)
        """bool (samples,): which files were read, or reading was tried of."""
        self.files: dict[int, BadFile] = {}
        """Those that could not be, by row of the manifest, in the order in which they were met."""
        self.unshared: list[BadFile] = []
        """Those that are new since the last :meth:`merge`."""
        self.max_bad_fraction = max_bad_fraction

    @property
    def seen(self) -> int:
        """Distinct files that were read, or that reading was tried of."""
        return int(self.seen_flags.sum())

    @property
    def bad(self) -> int:
        """Distinct files that could not be read."""
        return len(self.files)

    def update(self, batch: Batch) -> list[BadFile]:
        """Counts a batch; returns (and logs) the bad files that are new."""
        self.seen_flags[batch.index.numpy()] = True
        new = self._add(batch.bad)
        for file in new:
            _log.warning("replaced an unreadable file: %s: %s", file.path, file.reason)
        self.unshared += new
        return new

    def merge(self, seen_flags: np.ndarray, files: Iterable[BadFile]) -> list[BadFile]:
        """Counts what other ranks have met, too; returns the bad files that are new here."""
        self.seen_flags |= seen_flags
        self.unshared = []
        return self._add(files)

    def check(self) -> None:
        """Raises UserError where bad files exceed ``max_bad_fraction``."""
        base = max(self.seen, min(len(self.seen_flags), 1000))
        if self.bad > self.max_bad_fraction * base:
            last = list(self.files.values())[-1]
            raise UserError(
                f"data.max_bad_fraction: {self.bad} of {base} files cannot be read, more than "
                f"{self.max_bad_fraction:.2%} (last: {last.path}: {last.reason}); repair or "
                f"remove them, or raise the fraction"
            )

    def state(self) -> dict[str, Any]:
        """All that is counted, as plain values."""
        packed = zlib.compress(np.packbits(self.seen_flags).tobytes())
        bad = [list(file) for file in self.files.values()]
        return {"seen": base64.b64encode(packed).decode(), "bad": bad}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what :meth:`state` returned, for as many samples."""
        bits = np.frombuffer(zlib.decompress(base64.b64decode(state["seen"])), dtype=np.uint8)
        self.seen_flags = np.unpackbits(bits, count=len(self.seen_flags)).astype(bool)
        self.files = {file[0]: BadFile(*file) for file in state["bad"]}

    def _add(self, files: Iterable[BadFile]) -> list[BadFile]:
        new = []
        for file in files:
            self.seen_flags[file.index] = True
            if file.index not in self.files:
                self.files[file.index] = file
                new.append(file)
        return new


def append_bad_files(path: Path, files: Iterable[BadFile]) -> None:
    """Add a line for each file to bad_files.jsonl. One process only."""
    lines = [_line(file) for file in files]
    if lines:
        with path.open("a") as out:
            out.write("".join(lines))


def replace_bad_files(path: Path, files: Iterable[BadFile]) -> None:
    """Make bad_files.jsonl hold these files: a resumed run meets those that came later again."""
    text = "".join(map(_line, files))
    if text or path.exists():
        partial = path.with_name(f".{path.name}.partial")
        partial.write_text(text)
        os.replace(partial, path)


def _line(file: BadFile) -> str:
    return json.dumps({"path": file.path, "reason": file.reason}) + "\n"
