"""Items of a data set: clips of videos, or images as clips of one frame.

Every random choice of an item comes from (seed, epoch, index): the same item whatever the worker,
the rank or the order in which items are asked for.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from videohpm.config import DataConfig
from videohpm.data.bad_files import BadFile
from videohpm.data.decode import DecodeError, read_frames, read_video_info
from videohpm.data.images import read_image
from videohpm.data.manifest import Manifest, Sample, find_samples
from videohpm.data.sampling import dense_indices, segment_indices
from videohpm.data.timeout import call_with_timeout
from videohpm.data.transforms import (
    CentreCrop,
    Compose,
    Flip,
    ImageSize,
    MultiScaleCrop,
    RandomResizedCrop,
)
from videohpm.data.worker_state import WorkerState
from videohpm.errors import UserError

# A worker ends itself after this many times ``decode_timeout``: while a decoder holds Python's lock
# no other thread can run and notice the timeout.
GRACE = 2.0
Transform = Callable[[Tensor, np.random.Generator], Tensor]


def training_transform(config: DataConfig, size: ImageSize) -> Transform:
    """The crop, and the flip, that ``config`` asks for."""
    resize = config.interpolation, config.antialias
    if config.crop == "multiscale":
        crop = MultiScaleCrop(size, tuple(config.crop_scales), *resize)
    elif config.crop == "random_resized":
        (least, most), (narrow, wide) = config.crop_area, config.crop_aspect
        crop = RandomResizedCrop(size, (least, most), (narrow, wide), *resize)
    else:
        crop = CentreCrop(size, *resize)
    return Compose((crop, Flip())) if config.flip else crop


def needed_side(config: DataConfig, size: ImageSize) -> int | None:
    """Shorter side that frames need so that no crop is enlarged; None: leave frames as they are."""
    if not config.downscale_on_decode:
        return None
    scale = 1.0
    if config.crop == "multiscale":
        scale = min(config.crop_scales)
    elif config.crop == "random_resized":
        narrowest = min(config.crop_aspect[0], 1 / config.crop_aspect[1], 1)
        scale = math.sqrt(config.crop_area[0] * narrowest)
    return math.ceil(max(size) / scale)


def count_frames(sample: Sample) -> int:
    """Frames of a video: the manifest's count where it has one, else the file's own."""
    return sample.frames or read_video_info(sample.path).frames


def load_clip(sample: Sample, indices: np.ndarray, min_side: int | None = None) -> Tensor:
    """Frames ``indices`` of a video as uint8 (T, 3, H, W). Raises DecodeError; replaces nothing.

    ``min_side`` lets large frames come scaled down, as in ``read_frames``.
    """
    frames = read_frames(
        *(sample.path, indices.tolist()),
        reader=sample.reader,
        size=sample.size,
        min_side=min_side,
    )
    # A view: channels last is also how torch resizes bytes fastest.
    return torch.from_numpy(frames).permute(0, 3, 1, 2)


def load_image(sample: Sample) -> Tensor:
    """An image file as uint8 (1, 3, H, W), as ``read_image`` has it. Raises DecodeError."""
    pixels = read_image(sample.path)
    return torch.from_numpy(pixels)[None].permute(0, 3, 1, 2)


def bounded_read(
    worker_state: WorkerState,
    row: int,
    seconds: float,
    read: Callable[..., Any],
    sample: Sample,
    *more: Any,
) -> Any:
    """``read(sample, *more)``, unless the file is blacklisted, hangs, or takes too much memory.

    All of these are a DecodeError. ``row`` is the file's in the manifest of ``worker_state``.
    """
    reason = worker_state.is_blacklisted(row)
    if reason is not None:
        raise DecodeError(sample.path, reason)
    try:
        with worker_state.watched(row, seconds and GRACE * seconds):
            return call_with_timeout(seconds, read, sample, *more)
    except TimeoutError as error:
        # Never read again: each try would leave another thread behind.
        worker_state.mark_hung(row)
        raise DecodeError(sample.path, str(error)) from None
    except MemoryError:
        raise DecodeError(sample.path, "reading it takes more memory than there is") from None


class ClipDataset(Dataset):
    """Items by key (epoch, index), for training: a file that cannot be read is replaced.

    An item is a dict: ``clips`` uint8 (R, 3, T, H, W) for R repeats; ``shuffle_ids`` int64
    (R, units), a random permutation for each clip, the random part of its mask; ``label`` (-1:
    none); ``index``, the manifest row that was read; ``bad``, the files that could not be.

    ``size`` is (height, width) of the clips, ``units`` how many units a mask chooses from (tubes or
    tokens; 0 for none). ``transform`` replaces the crop and flip of ``config``: called with a clip
    uint8 (T, 3, H, W) and the item's generator, once for each repeat, it returns the clip resized.
    """

    def __init__(
        self,
        manifest: Manifest,
        config: DataConfig,
        *,
        frames: int,
        size: ImageSize,
        units: int = 0,
        seed: int = 0,
        transform: Transform | None = None,
    ):
        if len(manifest) == 0:
            raise UserError("data.root: no samples to train on")
        self.manifest, self.config = manifest, config
        self.frames, self.units, self.seed = frames, units, seed
        self.size: ImageSize = (size[0], size[1])
        self.transform = transform or training_transform(config, self.size)
        # What another transform needs of the frames is not known here.
        self.min_side = None if transform else needed_side(config, self.size)
        self.worker_state = WorkerState(len(manifest))

    def __len__(self) -> int:
        return len(self.manifest)

    @property
    def clips_shape(self) -> tuple[int, ...]:
        """Of an item's clips as they lie in memory: (R, T, H, W, 3)."""
        return self.config.repeats, self.frames, *self.size, 3

    @property
    def item_bytes(self) -> int:
        """Bytes of the clips and shuffle ids of an item."""
        return math.prod(self.clips_shape) + 8 * self.config.repeats * self.units

    def read(self, sample: Sample, rng: np.random.Generator) -> Tensor:
        """Frames of one sample, uint8 (T, 3, H, W), not cropped. Raises DecodeError."""
        raise NotImplementedError

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        epoch, index = key
        bad: list[BadFile] = []
        for attempt in range(self.config.max_retries):
            rng = np.random.default_rng([self.seed, epoch, index, attempt])
            row = int(index if attempt == 0 else rng.integers(len(self.manifest)))
            sample = self.manifest[row]
            try:
                seconds = self.config.decode_timeout
                frames = bounded_read(self.worker_state, row, seconds, self.read, sample, rng)
            except DecodeError as error:
                bad.append(BadFile(row, sample.path, error.reason))
                continue
            repeats = range(self.config.repeats)
            clips = [self.transform(frames, rng).permute(0, 2, 3, 1) for _ in repeats]
            # A view of a single clip: collating copies it once, to where it stays.
            stacked = torch.stack(clips) if len(clips) > 1 else clips[0][None]
            return {
                "clips": stacked.permute(0, 4, 1, 2, 3),
                "shuffle_ids": self._shuffle_ids(epoch, index),
                "label": -1 if sample.label is None else sample.label,
                "index": row,
                "bad": bad,
            }
        raise UserError(
            f"{bad[-1].path}: {bad[-1].reason}; {len(bad)} files in a row could not be read"
        )

    def _shuffle_ids(self, epoch: int, index: int) -> Tensor:
        # A random stream of its own: another crop or a replaced file must not change the mask.
        rng = np.random.default_rng([self.seed, epoch, index, self.config.max_retries, 1])
        rows = [rng.permutation(self.units) for _ in range(self.config.repeats)]
        return torch.from_numpy(np.stack(rows).astype(np.int64))


class VideoDataset(ClipDataset):
    """Clips of ``frames`` frames, sampled as ``config.sampling`` says."""

    def read(self, sample: Sample, rng: np.random.Generator) -> Tensor:
        length = count_frames(sample)
        if length < self.frames and self.config.short_videos == "refuse":
            raise DecodeError(
                sample.path,
                f"{length} of the {self.frames} frames of a clip (data.short_videos repeat "
                "repeats them)",
            )
        if self.config.sampling == "dense":
            indices = dense_indices(length, self.frames, self.config.stride, rng)
        else:
            indices = segment_indices(length, self.frames, rng)
        return load_clip(sample, indices, self.min_side)


class ImageDataset(ClipDataset):
    """Clips of one frame: an image, or a random frame of a video."""

    def read(self, sample: Sample, rng: np.random.Generator) -> Tensor:
        if self.manifest.kind == "image":
            return load_image(sample)
        indices = rng.integers(count_frames(sample), size=1)
        return load_clip(sample, indices, self.min_side)


def make_dataset(
    config: DataConfig,
    *,
    frames: int,
    size: ImageSize,
    units: int = 0,
    seed: int = 0,
    labels: bool = False,
    classes: list[str] | None = None,
    transform: Transform | None = None,
) -> ClipDataset:
    """The data set that ``config`` names: of images where the clip has one frame."""
    manifest = find_samples(
        config.root, config.manifest, labels=labels, kind=config.kind, classes=classes
    )
    shape = {"frames": frames, "size": size, "units": units}
    return dataset_of(manifest, config, **shape, seed=seed, transform=transform)


def dataset_of(manifest: Manifest, config: DataConfig, *, frames: int, **more: Any) -> ClipDataset:
    """Clips, or images, of ``manifest``: the arguments are those of :class:`ClipDataset`."""
    if manifest.kind == "image" and frames > 1:
        raise UserError(
            f"data.root: images, but the model takes clips of {frames} frames; set model.frames 1 "
            "and model.tubelet 1, or data.kind frames where each folder holds the frames of a video"
        )
    kind = ImageDataset if frames == 1 else VideoDataset
    return kind(manifest, config, frames=frames, **more)
