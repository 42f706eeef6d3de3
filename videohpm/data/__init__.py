"""Reading videos and images into batches of clips."""

from videohpm.config import DataConfig
from videohpm.data.bad_files import (
    BadFile,
    BadFileTracker,
    append_bad_files,
    replace_bad_files,
)
from videohpm.data.batches import Batch, GlobalBatchSampler, collate, join_batches
from videohpm.data.clips import (
    ClipDataset,
    ImageDataset,
    VideoDataset,
    count_frames,
    load_clip,
    load_image,
    make_dataset,
    training_transform,
)
from videohpm.data.decode import DecodeError, VideoInfo, read_frames, read_video_info, verify
from videohpm.data.images import read_image
from videohpm.data.loader import batches_ahead, make_loader
from videohpm.data.manifest import Manifest, Sample, find_samples
from videohpm.data.transforms import normalise

__all__ = [
    "BadFile",
    "BadFileTracker",
    "Batch",
    "ClipDataset",
    "DataConfig",
    "DecodeError",
    "GlobalBatchSampler",
    "ImageDataset",
    "Manifest",
    "Sample",
    "VideoDataset",
    "VideoInfo",
    "append_bad_files",
    "batches_ahead",
    "collate",
    "join_batches",
    "count_frames",
    "find_samples",
    "load_clip",
    "load_image",
    "make_dataset",
    "make_loader",
    "normalise",
    "read_video_info",
    "read_frames",
    "read_image",
    "replace_bad_files",
    "training_transform",
    "verify",
]
