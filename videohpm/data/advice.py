"""What helps where the GPUs wait for data: for a list, and once in a run that waits."""

from __future__ import annotations

import os

from videohpm.config import DataConfig
from videohpm.config.machine import cores_per_rank
from videohpm.data.clips import ClipDataset
from videohpm.data.manifest import Manifest

COPY, REPEAT = "videohpm data transcode", "--data.repeats"
"""Marks of two pieces of advice, to which a measured gain can be added."""
MUCH = 0.1
"""Share of the time spent waiting for data from which a run says so."""


def copy_helps(manifest: Manifest) -> bool:
    """Whether most of the samples are files of videos that are not key frames alone."""
    files = manifest.kind == "video" and len(manifest) and not os.path.isdir(manifest[0].path)
    return bool(files) and manifest.share("intra") < 0.5


def advice(manifest: Manifest, config: DataConfig) -> list[str]:
    """What makes reading ``manifest`` cheaper or gives it more cores, the most useful first."""
    cores, lines = cores_per_rank(), []
    if copy_helps(manifest):
        lines.append(
            f"copy the videos as key frames alone ({COPY} LIST OUT --short_side "
            "256 --group 1): only the frames of a clip are then read"
        )
        if manifest.share(None) > 0.5:
            lines.append(
                "list them with videohpm data scan: it says how each is read, which is otherwise "
                "found out at every clip"
            )
    if config.repeats == 1:
        lines.append(f"cut several clips from each decode ({REPEAT} 2 or 4, fewer epochs)")
    if config.readers < cores:
        lines.append(f"read with all {cores} cores of a rank (--data.workers auto)")
    return lines


class WaitingAdvice:
    """Says once that a run waits for its data, and what helps."""

    def __init__(self, data: ClipDataset):
        self.data, self.laps, self.told = data, 0, False

    def after(self, data_wait: float) -> str | None:
        """Called with the share of each lap that was spent waiting; a line, or None.

        The first lap does not count: it waits for the first batch.
        """
        self.laps += 1
        if self.told or self.laps == 1 or data_wait <= MUCH:
            return None
        self.told = True
        helps = advice(self.data.manifest, self.data.config)
        return (
            f"waiting for data took {data_wait:.0%} of the time since the last log line. What "
            f"helps: {'; '.join([*helps, 'or more cores'])}. videohpm data bench says what "
            "reading costs and how many cores the run needs"
        )
