"""Crops, flips and normalisation of clips."""

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torchvision.transforms import v2

from videohpm.config import DataConfig
from videohpm.data import training_transform
from videohpm.data.transforms import (
    CentreCrop,
    Compose,
    Flip,
    MultiScaleCrop,
    RandomResizedCrop,
    normalise,
    resize_short_side,
    resize_to_cover,
)

sides = st.integers(1, 90)
sizes = st.tuples(st.integers(2, 40), st.integers(2, 40))


def ramp(height, width, frames=2):
    """A clip whose pixels tell where they are: red is the column, green the row, blue the frame."""
    clip = torch.zeros(frames, 3, height, width, dtype=torch.uint8)
    clip[:, 0] = torch.arange(width) % 256
    clip[:, 1] = torch.arange(height)[:, None] % 256
    clip[:, 2] = torch.arange(frames)[:, None, None]
    return clip


def rng(seed=0):
    return np.random.default_rng(seed)


@given(sides, sides, sizes, st.integers(0, 99))
def test_every_transform_gives_the_size_asked_for(height, width, size, seed):
    clip = ramp(height, width)
    for transform in (MultiScaleCrop(size), RandomResizedCrop(size), CentreCrop(size)):
        cut = transform(clip, rng(seed))
        assert cut.shape == (2, 3, *size) and cut.dtype == torch.uint8
        assert (cut[0, 2] == 0).all() and (cut[1, 2] == 1).all()  # frames stay apart
        assert torch.equal(cut[0, :2], cut[1, :2])  # and are cut alike
        assert torch.equal(cut, transform(clip, rng(seed)))


@given(sides, sides, sizes, st.integers(0, 99))
def test_boxes_lie_inside_the_frame(height, width, size, seed):
    for transform in (MultiScaleCrop(size), RandomResizedCrop(size)):
        top, left, tall, wide = transform.box(height, width, rng(seed))
        assert top >= 0 and left >= 0 and tall >= 1 and wide >= 1
        assert top + tall <= height and left + wide <= width


def test_multi_scale_boxes_are_the_published_ones():
    """All pairs of neighbouring scales at thirteen places, and nothing else."""
    height, width, size = 256, 340, 224
    sides = [size if abs(side - size) < 3 else side for side in (256, 224, 192, 168)]
    expected = set()
    for i, tall in enumerate(sides):
        for j, wide in enumerate(sides):
            if abs(i - j) <= 1:
                down, right = (height - tall) // 4, (width - wide) // 4
                halves = [(x, y) for x in (0, 2, 4) for y in (0, 2, 4)]
                quarters = [(x, y) for x in (1, 3) for y in (1, 3)]
                for x, y in halves + quarters:
                    expected.add((y * down, x * right, tall, wide))
    crop, draw = MultiScaleCrop((size, size)), rng()
    found = {tuple(map(int, crop.box(height, width, draw))) for _ in range(8000)}
    assert found == expected


def test_multi_scale_takes_the_output_side_where_it_is_near():
    crop, draw = MultiScaleCrop((224, 224)), rng()
    assert {crop.box(225, 400, draw)[2] for _ in range(99)} == {224, 196, 168, 148}
    assert max(crop.box(223, 400, draw)[2] for _ in range(99)) == 223  # 224 would not fit


@given(st.integers(20, 90), st.integers(20, 90), st.integers(0, 999))
@example(56, 20, 941)  # ten draws too wide for it
def test_random_resized_boxes_keep_their_bounds(height, width, seed):
    """But for the centre crop where no draw fits, which may be of any area."""
    crop = RandomResizedCrop((16, 16), area=(0.3, 0.6), aspect=(0.5, 2.0))
    _, _, tall, wide = crop.box(height, width, rng(seed))
    nearest = min(max(width / height, 0.5), 2.0)
    centre = min(height, round(width / nearest)), min(width, round(height * nearest))
    share = tall * wide / (height * width)
    assert 0.3 * 0.85 < share < 0.6 * 1.15 or (tall, wide) == centre
    assert 0.5 * 0.85 < wide / tall < 2.0 * 1.15


def test_random_resized_falls_back_to_the_centre():
    crop = RandomResizedCrop((16, 16), area=(1.0, 1.0), aspect=(1.0, 1.0))
    assert crop.box(20, 60, rng()) == (0, 20, 20, 20)


def test_centre_crop_of_the_right_size_only_cuts():
    clip = ramp(32, 50)
    assert torch.equal(CentreCrop((32, 32))(clip), clip[..., 9:41])


@given(sides, sides, sizes)
def test_resize_to_cover_keeps_the_aspect_ratio(height, width, size):
    tall, wide = resize_to_cover(ramp(height, width, 1), size).shape[-2:]
    assert tall >= size[0] and wide >= size[1] and (tall == size[0] or wide == size[1])
    scale = max(size[0] / height, size[1] / width)
    assert abs(tall - height * scale) <= 1 and abs(wide - width * scale) <= 1


def test_resizing_is_antialiased_and_bilinear():
    clip = torch.randint(0, 256, (2, 3, 64, 96), dtype=torch.uint8)
    reference = v2.Resize(16, antialias=True)(clip)
    assert torch.equal(resize_short_side(clip, 16), reference)
    assert torch.equal(resize_to_cover(clip, (16, 16)), reference)
    fine = torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
    fine[..., ::2] = 255  # stripes too fine to survive: grey, not an alias
    assert (CentreCrop((16, 16))(fine)[..., 1:-1].float() - 127.5).abs().max() < 4


def test_without_antialiasing_fine_stripes_are_sampled():
    """Two pixels of a row are weighed, whatever lies between: at half a pixel's distance, alike."""
    fine = torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
    fine[..., 1::4], fine[..., 2::4] = 100, 200  # the two that a quarter of the size reads
    for plain in (
        resize_short_side(fine, 16, antialias=False),
        resize_to_cover(fine, (16, 16), antialias=False),
        CentreCrop((16, 16), antialias=False)(fine),
        MultiScaleCrop((16, 16), (1.0,), antialias=False)(fine, rng()),
        RandomResizedCrop((16, 16), (1.0, 1.0), (1.0, 1.0), antialias=False)(fine, rng()),
    ):
        assert (plain == 150).all()
    smooth = CentreCrop((16, 16))(fine)
    assert (smooth[..., 1:-1].float() - 75).abs().max() < 2


@pytest.mark.parametrize("crop", ["multiscale", "random_resized", "centre"])
def test_the_config_says_whether_crops_are_antialiased(crop):
    clip = torch.randint(0, 256, (2, 3, 64, 96), dtype=torch.uint8)
    found = {}
    for antialias in (True, False):
        config = DataConfig(crop=crop, antialias=antialias)
        found[antialias] = training_transform(config, (16, 16))(clip, rng())
    assert not torch.equal(found[True], found[False])


def test_flip_mirrors_about_half_of_the_clips():
    clip, flip = ramp(4, 6), Flip()
    seen = [torch.equal(flip(clip, rng(seed)), clip.flip(-1)) for seed in range(200)]
    assert 70 < sum(seen) < 130
    assert all(torch.equal(Compose((flip,))(clip, rng(s)), flip(clip, rng(s))) for s in range(9))


def test_chains_share_one_stream():
    clip, crop = ramp(40, 60), MultiScaleCrop((8, 8))
    draw = rng(3)
    assert torch.equal(Compose((crop, Flip()))(clip, rng(3)), Flip()(crop(clip, draw), draw))


@pytest.mark.parametrize("strided", [False, True])
def test_normalise(strided):
    clips = torch.randint(0, 256, (2, 3, 2, 4, 5), dtype=torch.uint8)
    if strided:
        clips = clips.transpose(3, 4)
    before = clips.clone()
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
    out = normalise(clips, mean, std)
    expected = (clips.double() / 255 - torch.tensor(mean).view(3, 1, 1, 1).double()) / (
        torch.tensor(std).view(3, 1, 1, 1).double()
    )
    assert out.dtype == torch.float32 and torch.allclose(out.double(), expected, atol=1e-6)
    assert torch.equal(clips, before)
