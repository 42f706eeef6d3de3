"""How test clips are cut: which frames, which crops, and how pixels are normalised."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

import numpy as np
from torch import Tensor

from videohpm.config import DataConfig
from videohpm.config.dataset_info import DatasetInfo
from videohpm.data.sampling import crop_offsets, dense_views, segment_views
from videohpm.data.transforms import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    CentreCrop,
    resize_short_side,
    resize_to_cover,
)
from videohpm.errors import UserError
from videohpm.grid import TokenGrid


@dataclass(frozen=True, kw_only=True)
class EvalProtocol:
    """A test: (clips x crops) views of each video, in that order."""

    frames: int
    size: tuple[int, int]
    """Height and width of a view."""
    clips: int = 1
    crops: int = 1
    sampling: str = "dense"
    stride: int = 4
    resize: int | None = None
    interpolation: str = "bilinear"
    antialias: bool = True
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD

    def __post_init__(self):
        if self.crops > 1 and self.size[0] != self.size[1]:
            raise UserError("test.crops: more than one needs square views; set test.crops 1")
        if self.resize is not None and self.resize < max(self.size):
            raise UserError(
                f"test.resize: {self.resize} is less than the model's {max(self.size)} pixels"
            )

    @classmethod
    def as_trained(cls, data: DataConfig, grid: TokenGrid) -> EvalProtocol:
        """One view, its frames as far apart and its pixels as they are in training."""
        return cls(
            frames=grid.frames,
            size=(grid.height, grid.width),
            sampling=data.sampling,
            stride=data.stride,
            interpolation=data.interpolation,
            antialias=data.antialias,
            mean=tuple(data.mean),
            std=tuple(data.std),
        )

    @property
    def views(self) -> int:
        """Views of one video."""
        return self.clips * self.crops

    def changed(self, dataset: DatasetInfo | None, given: dict) -> EvalProtocol:
        """With the views of a data set, and over them what a user gave."""
        return replace(self, **(dataset.views if dataset is not None else {}) | given)

    def indices(self, length: int) -> np.ndarray:
        """Frame numbers of the clips of a video of ``length`` frames: (clips, frames)."""
        if self.sampling == "dense":
            return dense_views(length, self.frames, self.stride, self.clips)
        return segment_views(length, self.frames, self.clips)

    def cut(self, frames: Tensor) -> list[Tensor]:
        """The crops of frames uint8 (T, 3, H, W), each (T, 3, h, w)."""
        (height, width), how = self.size, (self.interpolation, self.antialias)
        if self.resize is not None:
            frames = resize_short_side(frames, self.resize, *how)
        if height != width:
            return [CentreCrop(self.size, *how)(frames)]
        if self.resize is None:
            frames = resize_to_cover(frames, self.size, *how)
        offsets = crop_offsets(frames.shape[-2], frames.shape[-1], height, self.crops)
        return [frames[..., top : top + height, left : left + width] for top, left in offsets]

    def plain(self) -> dict:
        """As JSON holds it."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}
