"""What a run needs of its CPU cores, by the form of the files it reads."""

from __future__ import annotations

import math
from dataclasses import dataclass

from videohpm.config import PlanConfig
from videohpm.config.plan import GPUS
from videohpm.plan.count import flops_of

FRAMES = 16
"""Of the clips that were measured."""


@dataclass(frozen=True)
class Form:
    """What a clip of 16 frames costs one core, ms of processor time (benchmarks/README.md)."""

    what: str
    read: float
    """From the file to RGB frames, once for all clips of a decode."""
    cut: float
    """Crop, resize to 224² and hand over, of each clip."""

    def clips_per_second(self, frames: int, repeats: int = 1) -> float:
        """Of a core that does nothing else; repeats count as clips."""
        return 1000 / ((self.read / repeats + self.cut) * frames / FRAMES)


FORMS = {
    "original": Form("videos as they are", read=77.0, cut=3.0),
    "copy": Form("a copy of key frames alone (data transcode --group 1)", read=9.6, cut=3.6),
}
"""H.264 of about 340x256 at stride 4."""
PICTURE = Form("pictures", read=16 * 1.2, cut=16 * 1.8)
"""JPEG of 500x375 of video frames, which hold less detail than photographs; one frame a clip."""


def clips_wanted(config: PlanConfig) -> float:
    """Clips a second, repeats counted, that all GPUs compute with; 0 where they have no bf16."""
    gpu = GPUS[config.gpu]
    rate = (gpu.bf16 if config.precision == "bf16" else gpu.fp32) * config.utilisation
    return rate * config.gpus / sum(flops_of(config).values())


def cores_needed(config: PlanConfig, wanted: float) -> list[str]:
    """How many cores read ``wanted`` clips a second: as the configuration says, or by form."""
    if config.clips_per_core is not None:
        return [_cores(wanted, config.clips_per_core)]
    frames, repeats = config.model.grid().frames, config.data.repeats
    forms = [PICTURE] if frames == 1 else list(FORMS.values())
    return [f"{_cores(wanted, f.clips_per_second(frames, repeats))} for {f.what}" for f in forms]


def _cores(wanted: float, per_core: float) -> str:
    return f"{math.ceil(wanted / per_core)} cores of {per_core:.3g} clips/s"
