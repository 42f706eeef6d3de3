"""Augmentation of clips: against literal versions, and one draw for all frames."""

import pickle
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.data import Mixup

from videohpm.data.transforms import CentreCrop, RandomResizedCrop
from videohpm.finetune.augment import (
    AugmentConfig,
    Erase,
    RandAugment,
    augmented,
    mix,
    pair_order,
    temporary_seed,
)

SIZE = 24


def generator(seed=0):
    return np.random.default_rng(seed)


def still(frames=5, size=SIZE, seed=0):
    """A clip whose frames are all the same picture."""
    picture = generator(seed).integers(0, 256, (1, 3, size, size), dtype=np.uint8)
    return torch.from_numpy(picture).expand(frames, -1, -1, -1).contiguous()


def moving(frames=5, seed=0):
    clip = generator(seed).integers(0, 256, (frames, 3, SIZE, SIZE), dtype=np.uint8)
    return torch.from_numpy(clip)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6))
def test_rand_augment_treats_all_frames_alike(seed):
    out = RandAugment("rand-m7-n4-mstd0.5-inc1")(still(seed=seed), generator(seed))
    assert out.dtype == torch.uint8 and out.shape == (5, 3, SIZE, SIZE)
    assert bool((out == out[:1]).all())


def test_rand_augment_of_a_frame_does_not_depend_on_the_others():
    augment, clip = RandAugment("rand-m7-n4-mstd0.5-inc1"), moving()
    for seed in range(20):
        whole = augment(clip, generator(seed))
        for i in (0, 4):
            alone = augment(clip[i : i + 1], generator(seed))
            assert torch.equal(whole[i], alone[0])


def test_rand_augment_differs_between_samples_and_does_something():
    augment, clip = RandAugment("rand-m7-n4-mstd0.5-inc1"), still()
    outs = [augment(clip, generator(seed)) for seed in range(12)]
    assert sum(not torch.equal(out, clip) for out in outs) >= 8
    assert len({out.numpy().tobytes() for out in outs}) >= 8


def test_geometry_moves_all_frames_by_the_same_amount():
    """A bright column, at another row in every frame: after shifts it is in one column again."""
    clip = torch.zeros(4, 3, SIZE, SIZE, dtype=torch.uint8)
    for frame in range(4):
        clip[frame, :, 4 * frame : 4 * frame + 3, 11] = 255
    # Of all operations only shifts keep one column one column elsewhere.
    shifts = RandAugment("rand-m9-n1-mstd0.5-inc1", mean=(0, 0, 0))
    moved = 0
    for seed in range(60):
        out = shifts(clip, generator(seed)).float().mean(1)
        columns = [frame.sum(0).argmax().item() for frame in out if frame.max() > 100]
        upright = all((frame.sum(0) > 100).sum() == 1 for frame in out)
        if upright and len(columns) == 4:
            assert len(set(columns)) == 1
            moved += columns[0] != 11
    assert moved >= 1


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6))
def test_erasing_is_one_box_of_noise_on_all_frames(seed):
    clip = moving(seed=seed)
    out = Erase(1.0)(clip, generator(seed))
    changed = (out != clip).any(1)  # (T, H, W)
    places = changed.any(0)
    if not places.any():  # ten boxes too large for the frame
        return
    rows, columns = places.any(1).nonzero().flatten(), places.any(0).nonzero().flatten()
    top, bottom = int(rows.min()), int(rows.max()) + 1
    left, right = int(columns.min()), int(columns.max()) + 1
    box = out[:, :, top:bottom, left:right]
    assert bool((box == box[:1]).all()), "the same noise on every frame"
    literal = clip.clone()
    for frame in range(len(clip)):
        for y in range(top, bottom):
            for x in range(left, right):
                literal[frame, :, y, x] = out[0, :, y, x]
    assert torch.equal(out, literal)
    assert 0.01 < (bottom - top) * (right - left) / SIZE**2 < 0.45


def test_erasing_noise_may_be_new_in_each_frame():
    clip, boxes = moving(), 0
    for seed in range(10):
        same, new = (Erase(1.0, per_frame=which)(clip, generator(seed)) for which in (False, True))
        box = (same != clip).any(1).any(0)
        if not box.any():
            continue
        boxes += 1
        for frame in range(len(clip)):
            changed = (new[frame] != clip[frame]).any(0)
            assert not (changed & ~box).any(), "one box, and the same one"
            assert changed.sum() > 0.9 * box.sum()
        inside = new[..., box].float()
        assert not torch.equal(inside[0], inside[1])
        # Independent: what two frames share is no more than chance.
        pair = torch.stack([inside[0].flatten(), inside[1].flatten()])
        assert abs(torch.corrcoef(pair)[0, 1]) < 4 / pair.shape[1] ** 0.5
    assert boxes >= 8


def test_rand_augment_may_come_before_the_crop():
    """On whole frames, bicubic, with grey 128 where nothing is left."""
    config = AugmentConfig(random_erasing=0.0, rand_augment_input="frame")
    frames = torch.from_numpy(generator(1).integers(0, 256, (3, 3, 40, 60), dtype=np.uint8))
    crop = RandomResizedCrop((SIZE, SIZE))
    chain = augmented(crop, config, (0.5,) * 3, (0.2,) * 3, "bilinear")
    whole = RandAugment(config.rand_augment, (128 / 255,) * 3, "bicubic")
    assert whole._settings(SIZE)["img_mean"] == (128, 128, 128)
    differs = 0
    for seed in range(8):
        rng = generator(seed)
        wanted = crop(whole(frames, rng), rng)
        assert torch.equal(chain(frames, generator(seed)), wanted)
        after = augmented(crop, AugmentConfig(random_erasing=0.0), (0.5,) * 3, (0.2,) * 3)
        differs += not torch.equal(after(frames, generator(seed)), wanted)
    assert differs >= 6


def test_posterizing_to_no_bits_is_black():
    """As PIL did it before version 13, which refuses it: the strongest draws of a policy ask so."""
    augment, picture = RandAugment("rand-m10-n1-inc1"), still(frames=1)
    outs = [augment(picture, generator(seed)) for seed in range(100)]
    assert any((out == 0).all() for out in outs)
    weaker = RandAugment("rand-m9-mstd0.5-inc1")
    assert all(weaker(picture, generator(seed)).shape == picture.shape for seed in range(300))


def test_erasing_noise_is_standard_normal_where_pixels_are_normalised():
    values = []
    for seed in range(60):
        clip = torch.zeros(1, 3, SIZE, SIZE, dtype=torch.uint8)
        out = Erase(1.0, (0.5,) * 3, (0.1,) * 3)(clip, generator(seed))
        values.append(out[out > 0].float())
    values = torch.cat(values) / 255
    assert values.mean().item() == pytest.approx(0.5, abs=0.01)
    assert values.std().item() == pytest.approx(0.1, abs=0.01)


def test_erasing_happens_as_often_as_asked():
    clip = moving()
    share = np.mean([not torch.equal(Erase(0.25)(clip, generator(s)), clip) for s in range(400)])
    assert 0.17 < share < 0.33


def test_global_generators_are_left_as_they_were():
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    before = random.random(), np.random.rand(), torch.rand(1).item()
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    chain = augmented(
        CentreCrop((SIZE, SIZE)), AugmentConfig(random_erasing=1.0), (0.5,) * 3, (0.2,) * 3
    )
    chain(moving(), generator())
    mix(torch.rand(4, 3, 2, 8, 8), torch.arange(4), AugmentConfig(), **mixing(step=1))
    torch.manual_seed(1)  # the clips above were drawn from it
    assert (random.random(), np.random.rand(), torch.rand(1).item()) == before


def test_transforms_go_to_spawned_workers():
    chain = augmented(CentreCrop((SIZE, SIZE)), AugmentConfig(), (0.5,) * 3, (0.2,) * 3)
    copy = pickle.loads(pickle.dumps(chain))
    assert torch.equal(chain(moving(), generator(3)), copy(moving(), generator(3)))


def mixing(**changes):
    return {"classes": 5, "smoothing": 0.1, "repeats": 1, "seed": 0, "step": 0} | changes


def batch(count=8, frames=3, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, frames, 10, 12, generator=g), torch.arange(count) % 5


def partner_of(i, repeats):
    sample, repeat = divmod(i, repeats)
    return (sample ^ 1) * repeats + repeat


@pytest.mark.parametrize("repeats", [1, 2])
@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_mixing_against_a_literal_version(kind, repeats):
    config = AugmentConfig(mixup=0.8 * (kind == "mixup"), cutmix=1.0 * (kind == "cutmix"))
    mixed_steps = 0
    for step in range(12):
        clips, labels = batch()
        # A target's first and second weight are read off the mixed targets without smoothing.
        out, soft = mix(clips, labels, config, **mixing(smoothing=0.0, step=step, repeats=repeats))
        _, smooth = mix(clips, labels, config, **mixing(step=step, repeats=repeats))
        order = pair_order(len(clips), repeats).tolist()
        for place, i in enumerate(order):
            j = partner_of(i, repeats)
            share = soft[place, labels[i]].item() if labels[i] != labels[j] else None
            if share is None:
                continue
            if kind == "mixup":
                literal = torch.empty_like(clips[i])
                for frame in range(clips.shape[2]):
                    for channel in range(3):
                        a, b = clips[i, channel, frame], clips[j, channel, frame]
                        literal[channel, frame] = share * a + (1 - share) * b
            else:
                other = (out[place] != clips[i]).all(0)  # (T, H, W)
                assert bool((other == other[:1]).all()), "the same box in every frame"
                literal = torch.where(other, clips[j], clips[i])
                assert share == pytest.approx(1 - other[0].float().mean().item(), abs=1e-6)
                rows, columns = other[0].any(1).sum(), other[0].any(0).sum()
                assert other[0].sum() == rows * columns, "one box"
            torch.testing.assert_close(out[place], literal)
            wanted = torch.full((5,), 0.1 / 5)
            wanted[labels[i]] += 0.9 * share
            wanted[labels[j]] += 0.9 * (1 - share)
            torch.testing.assert_close(smooth[place], wanted)
            mixed_steps += 0.01 < share < 0.99
    assert mixed_steps > 20


def test_mixing_does_not_depend_on_how_the_global_batch_is_divided():
    clips, labels = batch(16)
    for step in range(6):
        rows = {}
        for size in (16, 8, 4, 2):
            found = []
            for start in range(0, 16, size):
                piece = slice(start, start + size)
                out, soft = mix(clips[piece], labels[piece], AugmentConfig(), **mixing(step=step))
                order = pair_order(size, 1).argsort()
                found.append((out[order], soft[order]))
            rows[size] = [torch.cat(part) for part in zip(*found, strict=True)]
        for size in (8, 4, 2):
            assert all(torch.equal(a, b) for a, b in zip(rows[16], rows[size], strict=True))


def test_without_mixing_clips_stay_and_targets_are_smoothed():
    clips, labels = batch(3)
    out, soft = mix(clips, labels, AugmentConfig(mixup=0, cutmix=0), **mixing())
    assert out is clips
    assert torch.allclose(soft.sum(1), torch.ones(3)) and torch.equal(soft.argmax(1), labels)
    assert soft.max().item() == pytest.approx(0.9 + 0.02)


def test_an_odd_batch_cannot_be_paired():
    with pytest.raises(ValueError, match="no even number"):
        pair_order(3, 1)
    with pytest.raises(ValueError, match="no even number"):
        pair_order(6, 2)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("rand_augment", "ran-m7"),
        ("rand_augment", "rand-zz9"),
        ("rand_augment_input", "clip"),
        ("random_erasing", 1.5),
        ("erasing_noise", "pixel"),
        ("mixup", -1.0),
    ],
)
def test_what_cannot_be_is_refused_by_name(field, value):
    with pytest.raises(ValueError, match=f"augment.{field}"):
        AugmentConfig(**{field: value})


@pytest.mark.parametrize("which", [{"cutmix": 0.0}, {"mixup": 0.0}, {}])
def test_mixing_a_clip_is_timms_mixing_of_each_of_its_frames(which):
    """timm takes pictures: given the frames one by one and the same draw, it makes the same."""
    config, mixed = AugmentConfig(**which), 0
    for step in range(8):
        clips, labels = batch(6, frames=4, seed=step)
        out, soft = mix(clips, labels, config, **mixing(step=step))
        order = pair_order(6, 1)
        seed = int(np.random.SeedSequence([0, step, 2]).generate_state(1)[0])
        for frame in range(4):
            mixer = Mixup(config.mixup, config.cutmix, label_smoothing=0.1, num_classes=5)
            with temporary_seed(seed):
                pictures, targets = mixer(clips[order][:, :, frame].clone(), labels[order])
            torch.testing.assert_close(out[:, :, frame], pictures)
            torch.testing.assert_close(soft, targets)
        mixed += not torch.equal(out, clips[order])
    assert mixed >= 6
