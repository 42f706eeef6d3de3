"""Frame positions: the published test views, and what holds for every length."""

import doctest
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from videohpm.data import sampling
from videohpm.data.sampling import (
    crop_offsets,
    dense_indices,
    dense_views,
    segment_indices,
    segment_views,
)

lengths = st.integers(1, 400)


@pytest.fixture(scope="module")
def views(shared):
    return json.loads((shared / "reference" / "test_views.json").read_text())


def test_examples():
    assert doctest.testmod(sampling).failed == 0


def test_segment_views_are_the_published_ones(views):
    reference = views["ssv2_test"]
    for length, expected in reference["cases"].items():
        found = segment_views(int(length), reference["segments"], reference["views"])
        assert found.tolist() == expected


def test_dense_views_are_the_published_ones(views):
    reference = views["k400_test"]
    for length, expected in reference["cases"].items():
        arguments = (reference["frames"], reference["stride"], reference["views"])
        assert dense_views(int(length), *arguments).tolist() == expected


def test_crops_are_the_published_ones(views):
    side = views["spatial_3crop"]["short_side"]
    for name, expected in views["spatial_3crop"]["cases"].items():
        height, width = map(int, name.split("x"))
        offsets = crop_offsets(height, width, side, len(expected))
        assert [left if width >= height else top for top, left in offsets] == expected
        assert all(top + side <= height and left + side <= width for top, left in offsets)


def literal_segment_views(length, segments):
    """The published two views, a position at a time."""
    tick = length / segments
    starts = [int(tick * x) for x in range(segments)]
    middles = [int(tick / 2 + tick * x) for x in range(segments)]
    merged = sorted(starts + middles)
    return [merged[0::2], merged[1::2]]


@pytest.mark.parametrize("length", [*range(1, 100), 4321])
def test_one_view_is_the_middle_of_each_part(length):
    """As far from its first frame as from its last, where parts have whole lengths."""
    (found,) = segment_views(length, 16, 1).tolist()
    middles = [int((part + 0.5) * length / 16) for part in range(16)]
    assert found == (middles if length >= 16 else [int(part * length / 16) for part in range(16)])


def literal_dense_views(length, frames, stride, views):
    """The published windows over the thinned video."""
    thinned = list(range(0, length, stride))
    while len(thinned) < frames:
        thinned.append(thinned[-1])
    step = max((len(thinned) - frames) / (views - 1), 0)
    return [thinned[int(view * step) :][:frames] for view in range(views)]


@pytest.mark.parametrize("length", [*range(1, 401), 1000, 4321])
def test_views_at_every_length(length):
    assert segment_views(length, 16, 2).tolist() == literal_segment_views(length, 16)
    assert dense_views(length, 16, 4, 5).tolist() == literal_dense_views(length, 16, 4, 5)


@given(lengths, st.integers(1, 40), st.integers(1, 9), st.integers(1, 6), st.integers(0, 99))
def test_positions_lie_in_the_video_and_never_go_back(length, frames, stride, views, seed):
    rng = np.random.default_rng(seed)
    rows = [
        dense_indices(length, frames, stride, rng),
        dense_indices(length, frames, stride),
        segment_indices(length, frames, rng),
        segment_indices(length, frames),
        *dense_views(length, frames, stride, views),
        *segment_views(length, frames, views),
    ]
    for row in rows:
        assert row.shape == (frames,) and row.dtype == np.int64
        assert (np.diff(row) >= 0).all()
        assert row[0] >= 0 and row[-1] < length


@given(st.integers(1, 20), st.integers(1, 8), st.integers(0, 60))
def test_dense_clips_of_long_videos_are_evenly_spaced(frames, stride, extra):
    length = frames * stride + extra
    starts = set()
    for seed in range(30):
        row = dense_indices(length, frames, stride, np.random.default_rng(seed))
        assert (np.diff(row) == stride).all()
        assert row[0] <= extra
        starts.add(int(row[0]))
    if extra >= 30:
        assert len(starts) > 5


def test_dense_starts_reach_both_ends():
    rng = np.random.default_rng(0)
    starts = {int(dense_indices(20, 4, 4, rng)[0]) for _ in range(200)}
    assert starts == {0, 1, 2, 3, 4}


@given(st.integers(1, 30), st.integers(0, 300), st.integers(0, 99))
def test_segments_take_one_position_from_each_part(frames, extra, seed):
    length = frames + extra
    row = segment_indices(length, frames, np.random.default_rng(seed))
    part = length // frames
    assert (row // part == np.arange(frames)).all()


@given(st.integers(1, 30), st.integers(1, 30))
def test_segments_of_short_videos_show_every_frame(length, missing):
    assert set(segment_indices(length, length + missing).tolist()) == set(range(length))


@given(st.integers(0, 200), st.integers(0, 200), st.integers(1, 7))
def test_crops_span_the_frame(more_height, more_width, crops):
    size = 32
    height, width = size + more_height, size + more_width
    offsets = crop_offsets(height, width, size, crops)
    assert len(offsets) == crops
    tops, lefts = zip(*offsets, strict=True)
    assert all(0 <= t <= height - size for t in tops) and all(0 <= x <= width - size for x in lefts)
    if crops > 1:
        along, room = (lefts, width - size) if width >= height else (tops, height - size)
        assert along[0] == 0 and along[-1] == room


@pytest.mark.parametrize(
    "call",
    [
        lambda: dense_indices(0, 16, 4),
        lambda: segment_indices(5, 0),
        lambda: dense_views(5, 16, 0, 2),
        lambda: segment_views(5, 16, 0),
        lambda: crop_offsets(100, 300, 112, 3),
    ],
)
def test_impossible_requests(call):
    with pytest.raises(ValueError):
        call()
