"""Which frames of a video make a clip, and where test crops lie: arithmetic only.

Every function returns frame positions within 0..length-1 for every ``length`` >= 1, so videos of
one frame and videos shorter than a clip work everywhere: positions then repeat.
"""

import math

import numpy as np


def dense_indices(
    length: int, frames: int, stride: int, rng: np.random.Generator | None = None
) -> np.ndarray:
    """A clip of ``frames`` positions, ``stride`` apart, from a random start: (frames,) int64.

    The start is uniform over 0..length - frames*stride, as VideoMAE draws it; without ``rng`` it is
    the middle of that range. A shorter video is walked from its first frame as far as the stride
    reaches, and the last position reached is repeated (VideoMAE's rule; its test code reaches one
    position that its training code stops short of, and this reaches it):

    >>> dense_indices(20, frames=4, stride=4).tolist()
    [2, 6, 10, 14]
    >>> dense_indices(9, frames=4, stride=4).tolist()
    [0, 4, 8, 8]
    >>> dense_indices(1, frames=4, stride=4).tolist()
    [0, 0, 0, 0]
    """
    _check(length, frames, stride)
    room = max(length - frames * stride, 0)
    start = room // 2 if rng is None else int(rng.integers(room + 1))
    last = (length - 1) // stride if room == 0 else frames
    return start + np.minimum(np.arange(frames), last) * stride


def segment_indices(length: int, frames: int, rng: np.random.Generator | None = None) -> np.ndarray:
    """One position from each of ``frames`` equal parts of the video (TSN): (frames,) int64.

    With ``rng`` uniform within each part of length // frames positions, as VideoMAE trains and
    validates on SSv2; without it the middle of each part, as TSN validates. A video with fewer
    frames than parts is spread evenly, repeating frames (VideoMAE repeats its first frame for all
    of the clip).

    >>> segment_indices(16, frames=4).tolist()
    [2, 6, 10, 14]
    >>> segment_indices(2, frames=4).tolist()
    [0, 0, 1, 1]
    """
    _check(length, frames, 1)
    part = length // frames
    if part == 0:
        return np.arange(frames) * length // frames
    if rng is None:
        return (np.arange(frames) * 2 + 1) * length // (2 * frames)
    return np.arange(frames) * part + rng.integers(part, size=frames)


def dense_views(length: int, frames: int, stride: int, views: int) -> np.ndarray:
    """Test clips of dense sampling, spread over the video: (views, frames) int64.

    The video is thinned to every ``stride``-th frame (the last repeated up to ``frames`` of them)
    and ``views`` windows of ``frames`` are laid over that, first and last at its ends: the
    published Kinetics test.

    >>> dense_views(30, frames=4, stride=4, views=3).tolist()
    [[0, 4, 8, 12], [8, 12, 16, 20], [16, 20, 24, 28]]
    """
    _check(length, frames, stride, views)
    thinned = np.arange(0, length, stride)
    if len(thinned) < frames:
        thinned = np.pad(thinned, (0, frames - len(thinned)), mode="edge")
    # Rounded down after a float step, as published: integer division differs where the step is
    # not exact.
    step = (len(thinned) - frames) / max(views - 1, 1)
    starts = np.array([int(view * step) for view in range(views)])
    if views == 1:
        starts = np.array([(len(thinned) - frames) // 2])
    return thinned[starts[:, None] + np.arange(frames)]


def segment_views(length: int, frames: int, views: int) -> np.ndarray:
    """Test clips of segment sampling: (views, frames) int64.

    Each of ``frames`` equal parts gives ``views`` evenly spaced positions; all of them, sorted, are
    dealt out in turn: the published SSv2 test. One view is the middle of each part instead.

    >>> segment_views(16, frames=4, views=2).tolist()
    [[0, 4, 8, 12], [2, 6, 10, 14]]
    """
    _check(length, frames, 1, views)
    if views == 1:  # the published rule would take the first frame of each part
        return segment_indices(length, frames)[None]
    part = length / frames
    offsets = part * np.arange(views) / views
    positions = (part * np.arange(frames)[:, None] + offsets).astype(np.int64)
    return np.sort(positions, axis=None).reshape(frames, views).T


def crop_offsets(height: int, width: int, size: int, crops: int) -> list[tuple[int, int]]:
    """(top, left) of ``crops`` squares of ``size`` spread along the longer side, centred across.

    For frames whose shorter side was resized to at least ``size``; one crop is the centre.

    >>> crop_offsets(224, 398, size=224, crops=3)
    [(0, 0), (0, 87), (0, 174)]
    """
    if min(height, width) < size or crops < 1:
        raise ValueError(f"no {crops} crops of {size} pixels in frames of {height}x{width}")
    top, left = (height - size) // 2, (width - size) // 2
    if crops == 1:
        return [(top, left)]
    step = (max(height, width) - size) / (crops - 1)
    along = [int(crop * step) for crop in range(crops)]
    return [(top, at) for at in along] if width >= height else [(at, left) for at in along]


def reduced_size(height: int, width: int, min_side: int) -> tuple[int, int] | None:
    """The size to scale frames to while decoding, or None: as they are.

    None where their shorter side is under 1.5 times ``min_side``, for then nothing is saved. At
    720 and 1080 lines reading takes a quarter to a third less, and a fraction of the memory.
    """
    short = min(height, width)
    if 2 * short < 3 * min_side:
        return None
    sides = (math.ceil(side * min_side / short) for side in (height, width))
    height, width = (side + side % 2 for side in sides)
    return height, width


def _check(length: int, frames: int, stride: int, views: int = 1) -> None:
    if min(length, frames, stride, views) < 1:
        raise ValueError(
            f"length {length}, frames {frames}, stride {stride}, views {views}: each must be over 0"
        )
