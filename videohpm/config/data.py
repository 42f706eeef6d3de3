"""Which samples are read, and how clips are cut from them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args, get_origin, get_type_hints

from videohpm.config.checks import AUTO, Section, auto_or_at_least
from videohpm.config.machine import reading_processes
from videohpm.errors import ConfigError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
Kind = Literal["auto", "video", "image", "frames"]
Sampling = Literal["dense", "segments"]
KINDS, SAMPLINGS = get_args(Kind), get_args(Sampling)
FRAMES = "frames"


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which samples are read, and how clips are cut from them."""

    root: str | None = None
    """Folder of videos or images, searched recursively; also the base of a manifest's paths."""
    manifest: str | None = None
    """File that lists the samples, videos or folders of frames: CSV with a header in any order
    (path[,label][,frames][,reader]; file_name for path), or lines of "path label" or "path frames
    label"."""
    kind: Kind = "auto"
    """Sort of files; auto tells by their suffixes. frames: each folder of pictures is a video."""
    sampling: Sampling = "dense"
    """dense: frames a fixed stride apart from a random start. segments: one random frame from each
    of as many equal parts of the video as the clip has frames (TSN)."""
    stride: int = 4
    """Dense sampling: distance between a clip's frames, in frames of the video (published: 4 on
    Kinetics, 2 on Something-Something)."""
    crop: Literal["multiscale", "random_resized", "centre"] = "multiscale"
    """multiscale: VideoMAE's pre-training crop. random_resized: random area and aspect ratio.
    centre: shorter side resized, then the centre."""
    crop_scales: tuple[float, ...] = (1.0, 0.875, 0.75, 0.66)
    """multiscale: crop sides as shares of the frame's shorter side."""
    crop_area: tuple[float, float] = (0.2, 1.0)
    """random_resized: smallest and largest crop as shares of the frame's area."""
    crop_aspect: tuple[float, float] = (3 / 4, 4 / 3)
    """random_resized: smallest and largest width / height of the crop, before resizing."""
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    """How crops are resized."""
    antialias: bool = True
    """Resize with antialiasing, as PIL does. VideoMAE's fine-tuning and test do without: false to
    compare its published classifiers."""
    downscale_on_decode: bool = True
    """Scale frames down while decoding where they are much larger than any crop needs."""
    flip: bool = False
    """Mirror half of the clips left to right. Leave off where labels say left or right."""
    repeats: int = 1
    """Clips cut from each decoded sample, each with its own crop and mask (repeated
    augmentation)."""
    workers: int | Literal["auto"] = AUTO
    """Reading processes for each rank; auto: as many as it has CPU cores; 0 reads in the training
    process."""
    prefetch: int = 2
    """Micro-batches that the workers of a rank keep ready together, in shared memory."""
    mean: tuple[float, float, float] = IMAGENET_MEAN
    """Channel means of pixels in 0..1, subtracted on the device."""
    std: tuple[float, float, float] = IMAGENET_STD
    """Channel standard deviations of pixels in 0..1, divided by on the device."""
    short_videos: Literal["refuse", "repeat"] = "refuse"
    """Videos with fewer frames than a clip: refuse (as if unreadable), or repeat frames. With
    enough frames for the clip but not for its stride, the last one reached is repeated anyway."""
    max_bad_fraction: float = 0.2
    """Largest share of unreadable files before the run stops; they are replaced until then."""
    max_retries: int = 10
    """Unreadable files in a row, for one item, before the run stops."""
    decode_timeout: float = 120.0
    """Longest time that reading one file may take before another replaces it, in seconds; 0 for
    no limit."""

    def __post_init__(self) -> None:
        check = Section(self, "data")
        check.at_least(1, "stride", "repeats", "max_retries", "prefetch")
        check.at_least(0, "decode_timeout")
        auto_or_at_least(check, 0, "workers")
        for name, known in _CHOICES.items():
            check.choice(name, known)
        if not self.crop_scales or not all(0 < scale <= 1 for scale in self.crop_scales):
            raise ConfigError(
                f"data.crop_scales: {self.crop_scales} must lie in 0..1, at least one"
            )
        low, high = self.crop_area
        if not 0 < low <= high <= 1:
            raise ConfigError(f"data.crop_area: {self.crop_area} must be 0 < low <= high <= 1")
        low, high = self.crop_aspect
        if not 0 < low <= high:
            raise ConfigError(f"data.crop_aspect: {self.crop_aspect} must be 0 < low <= high")
        if len(self.mean) != 3 or not all(map(math.isfinite, self.mean)):
            raise ConfigError(f"data.mean: {self.mean} must be three numbers, for pixels in 0..1")
        if len(self.std) != 3 or not all(0 < value < math.inf for value in self.std):
            raise ConfigError(f"data.std: {self.std} must be three numbers over 0")
        check.fraction("max_bad_fraction")

    @property
    def readers(self) -> int:
        """Reading processes of this rank."""
        return reading_processes(self.workers)


_CHOICES = {
    name: get_args(kind)
    for name, kind in get_type_hints(DataConfig).items()
    if get_origin(kind) is Literal
}
