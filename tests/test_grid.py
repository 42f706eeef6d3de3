"""Geometry against literal loops and planted patterns."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from videohpm.grid import Mask, TokenGrid

grids = st.builds(
    TokenGrid,
    t=st.integers(1, 4),
    h=st.integers(1, 4),
    w=st.integers(1, 4),
    tubelet=st.integers(1, 2),
    patch=st.integers(1, 3),
)


def literal_patchify(clip, grid):
    """One clip (C, T, H, W), token by token, value by value."""
    tokens = []
    for step in range(grid.t):
        for row in range(grid.h):
            for column in range(grid.w):
                token = []
                for frame in range(grid.tubelet):
                    for y in range(grid.patch):
                        for x in range(grid.patch):
                            for channel in range(clip.shape[0]):
                                token.append(
                                    clip[
                                        channel,
                                        step * grid.tubelet + frame,
                                        row * grid.patch + y,
                                        column * grid.patch + x,
                                    ].item()
                                )
                tokens.append(token)
    return torch.tensor(tokens)


@settings(max_examples=25, deadline=None)
@given(grids)
def test_patchify_is_the_literal_loop_and_unpatchify_its_inverse(grid):
    clips = torch.arange(2 * 3 * grid.frames * grid.height * grid.width).float()
    clips = clips.view(2, 3, grid.frames, grid.height, grid.width)
    tokens = grid.patchify(clips)
    assert torch.equal(tokens, torch.stack([literal_patchify(clip, grid) for clip in clips]))
    assert torch.equal(grid.unpatchify(tokens), clips)


@settings(max_examples=25, deadline=None)
@given(grids, st.data())
def test_only_the_named_tokens_are_cut_out(grid, data):
    clips = torch.randn(2, 3, grid.frames, grid.height, grid.width)
    index = torch.tensor(
        data.draw(
            st.lists(
                st.lists(st.integers(0, grid.num_tokens - 1), min_size=3, max_size=3),
                min_size=2,
                max_size=2,
            )
        )
    )
    every = grid.patchify(clips)
    expected = torch.stack([every[sample][index[sample]] for sample in range(2)])
    assert torch.equal(grid.patchify(clips, index), expected)


@settings(max_examples=40, deadline=None)
@given(grids, st.data())
def test_a_mask_says_the_same_in_all_its_forms(grid, data):
    unit = data.draw(st.sampled_from(["tube", "token"]))
    size = grid.num_tubes if unit == "tube" else grid.num_tokens
    count = data.draw(st.integers(0, size))
    units = torch.stack([torch.randperm(size)[:count] for _ in range(3)])
    mask = Mask.from_units(units, grid, unit)
    for sample in range(3):
        hidden = set()
        for number in units[sample].tolist():
            hidden |= (
                {step * grid.num_tubes + number for step in range(grid.t)}
                if unit == "tube"
                else {number}
            )
        assert mask.masked[sample].tolist() == sorted(hidden)
        assert mask.visible[sample].tolist() == sorted(set(range(grid.num_tokens)) - hidden)
        assert mask.is_masked[sample].nonzero().flatten().tolist() == sorted(hidden)
    again = Mask.from_bool(mask.is_masked, grid)
    assert torch.equal(again.masked, mask.masked)
    assert torch.equal(again.visible, mask.visible)
    if unit == "tube":
        assert torch.equal(again.tubes, units.sort(1).values)


def test_a_mask_with_unequal_counts_is_refused():
    with pytest.raises(ValueError, match="same number"):
        Mask.from_bool(torch.tensor([[True, False], [True, True]]), TokenGrid(1, 1, 2))


@pytest.mark.parametrize(
    ("size", "field"), [((15, 32, 32), "frames"), ((16, 30, 32), "image_size"), ((0, 32, 32), "f")]
)
def test_a_clip_that_cannot_be_tiled_names_the_field(size, field):
    with pytest.raises(ValueError, match=field):
        TokenGrid.of_clip(*size)


def test_a_clip_of_another_size_is_refused():
    with pytest.raises(ValueError, match="4x32x32"):
        TokenGrid(2, 2, 2).patchify(torch.zeros(1, 3, 4, 32, 48))
