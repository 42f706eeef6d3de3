"""Clips through memory that is used again: what is handed out is never written to again."""

from itertools import islice

import numpy as np
import pytest
import torch

from videohpm.data import (
    ClipDataset,
    DataConfig,
    GlobalBatchSampler,
    Manifest,
    collate,
    make_loader,
    normalise,
)
from videohpm.data.shared_memory import Part, PartMaker, Reused, Slots, slot_count

SAMPLES, BATCH = 40, 8


class Drawn(ClipDataset):
    """Random pixels instead of files; crops and masks are drawn as ever."""

    def read(self, sample, rng):
        row = int(sample.path.removesuffix(".mp4"))
        pixels = np.random.default_rng(row).integers(0, 256, (4, 24, 32, 3), "u1")
        return torch.from_numpy(pixels).permute(0, 3, 1, 2)


def drawn(repeats: int = 1) -> Drawn:
    manifest = Manifest([f"{i}.mp4" for i in range(SAMPLES)])
    return Drawn(manifest, DataConfig(repeats=repeats), frames=4, size=(16, 16), units=4, seed=3)


def literal(steps: int, repeats: int = 1, start: int = 0) -> list:
    data = drawn(repeats)
    sampler = GlobalBatchSampler(SAMPLES, BATCH, steps=steps, start_step=start)
    return [collate([data[key] for key in keys]) for keys in sampler]


def same(one, other) -> bool:
    return all(map(torch.equal, one[:4], other[:4])) and one.bad == other.bad


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("repeats", [1, 4])
def test_batches_that_are_kept_stay_as_they_were(workers, repeats):
    sampler = GlobalBatchSampler(SAMPLES, BATCH, steps=9)
    ours = list(make_loader(drawn(repeats), sampler, workers=workers))
    assert all(map(same, ours, literal(9, repeats)))
    assert len(ours) == 9 and ours[0].clips.shape == (BATCH * repeats, 3, 4, 16, 16)


def test_a_sample_gives_several_clips_side_by_side_each_with_its_own_crop_and_mask():
    (batch,) = make_loader(drawn(4), GlobalBatchSampler(SAMPLES, BATCH, steps=1), workers=1)
    assert batch.index.view(BATCH, 4).eq(batch.index[::4, None]).all()
    by_sample = batch.clips.reshape(BATCH, 4, -1)
    assert all(len(torch.unique(clips, dim=0)) > 1 for clips in by_sample)
    assert len(torch.unique(batch.shuffle_ids.view(4 * BATCH, -1), dim=0)) > BATCH


@pytest.mark.parametrize("world", [1, 2])
def test_the_global_batch_of_repeats_is_the_same_on_any_ranks_and_after_a_resume(world):
    """Each rank's samples with all their repeats; together they are the batch of one rank."""
    whole = literal(4, repeats=2, start=2)
    for step, expected in enumerate(whole[: 2 if world == 2 else 4], start=2):
        found = []
        for rank in range(world):
            sampler = GlobalBatchSampler(
                SAMPLES, BATCH, rank=rank, world=world, start_step=step, steps=step + 1
            )
            found += make_loader(drawn(2), sampler, workers=1 + rank)
        clips, ids = (torch.cat([getattr(b, n) for b in found]) for n in ("clips", "shuffle_ids"))
        assert torch.equal(clips, expected.clips) and torch.equal(ids, expected.shuffle_ids)


def test_an_iteration_that_was_left_does_not_disturb_the_next():
    loader = make_loader(drawn(), GlobalBatchSampler(SAMPLES, BATCH, steps=6), workers=2)
    right = literal(6)
    for taken in (1, 3, 0, 2):
        begun = list(islice(iter(loader), taken))
        assert all(map(same, begun, right))
    assert all(map(same, list(loader), right))


def test_memory_is_used_again_only_when_nothing_needs_it():
    reused = Reused()
    first = reused.empty((4, 5)).fill_(1)
    place, part = first.data_ptr(), first[1:2].permute(1, 0)
    del first
    second = reused.empty((4, 5)).fill_(2)
    assert second.data_ptr() != place and part.eq(1).all()
    del part
    assert reused.empty((20,)).data_ptr() == place
    assert reused.empty((7,)).shape == (7,)


def test_slots_are_as_many_as_can_be_under_way():
    data = drawn()
    loader = make_loader(data, GlobalBatchSampler(SAMPLES, BATCH, steps=5), workers=2)
    slots, most, count = None, 0, slot_count(loader.workers, loader.prefetch)
    for _ in loader:
        slots = loader._kept.dataset.slots
        most = max(most, count - len(slots.free))
        assert len(slots.memory) == count
    assert 0 < most <= count
    assert len(slots.free) == count  # all came back


def test_a_part_in_pinned_memory_is_the_batch_and_frees_its_slot(monkeypatch):
    copied = []
    monkeypatch.setattr(
        torch.Tensor, "pin_memory", lambda tensor: copied.append(tensor) or tensor.clone()
    )
    data, keys = drawn(2), [(0, 3), (0, 1), (1, 3)]
    slots = Slots(2, (3, *data.clips_shape))
    slot = slots.take()
    part = PartMaker(data, slots).__getitems__((slot, keys))
    assert isinstance(part, Part) and len(slots.free) == 1
    batch = part.pin_memory()
    assert len(slots.free) == 2 and len(copied) == 3
    assert same(batch, collate([data[key] for key in keys]))


def test_clips_lie_with_their_channels_last_and_are_normalised_alike():
    (batch,) = make_loader(drawn(), GlobalBatchSampler(SAMPLES, BATCH, steps=1), workers=1)
    assert batch.clips.permute(0, 2, 3, 4, 1).is_contiguous()
    ours = normalise(batch.clips)
    assert ours.is_contiguous()
    assert torch.equal(ours, normalise(batch.clips.contiguous()))
