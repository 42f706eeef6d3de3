"""Looks at a run while it trains: does it learn?"""

from __future__ import annotations

from dataclasses import dataclass

from videohpm.config.checks import Section
from videohpm.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class OnlineProbeConfig:
    """Looks at a run while it trains, which change nothing in it: does it learn?

    Args:
        every: steps between two looks, which are part of a line of the log: rounded up to a
            multiple of run.log_every. 0 for none. Empty: as seldom as costs 2 % of the FLOPs.
        clips: training clips whose features and loss are looked at, the same ones every time; they
            stay in memory.
        manifest: labelled samples (a manifest, or a folder of a folder per class) whose features
            are classified by their neighbours and by a linear probe, half of them by the other
            half; empty for none.
        root: folder that the manifest's paths start from; its own folder if left out.
        samples: of that list at most so many, the same number of each class as far as it has them,
            and of at most a quarter as many classes; they stay in memory.
    """

    every: int | None = None
    clips: int = 32
    manifest: str | None = None
    root: str | None = None
    samples: int = 128

    def __post_init__(self):
        check = Section(self, "probe")
        check.at_least(0, "every")
        check.at_least(2, "clips")
        check.at_least(8, "samples")
        if self.root is not None and self.manifest is None:
            raise ConfigError("probe.root: the base of probe.manifest, which is empty; give both")
