"""Batches made in parts: by all workers, in the shared memory that there is."""

import logging
import os
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import get_worker_info

from videohpm.data import (
    ClipDataset,
    DataConfig,
    GlobalBatchSampler,
    Manifest,
    collate,
    join_batches,
    loader,
    make_loader,
    shared_memory,
)
from videohpm.data.loader import part_count
from videohpm.data.shared_memory import shared_prefetch
from videohpm.errors import ConfigError, UserError

WORKERS = 3


class Made(ClipDataset):
    """Clips without files, each labelled by the worker that made it."""

    def __getitem__(self, key):
        epoch, index = key
        generator = torch.Generator().manual_seed(1000 * epoch + int(index))
        worker = get_worker_info()
        return {
            "clips": torch.randint(256, (1, 3, 2, 8, 8), generator=generator, dtype=torch.uint8),
            "shuffle_ids": torch.randperm(self.units, generator=generator)[None],
            "label": -1 if worker is None else worker.id,
            "index": int(index),
            "bad": [],
        }


def made(**config) -> Made:
    manifest = Manifest([f"{i}.mp4" for i in range(50)], kind="video")
    return Made(manifest, DataConfig(**config), frames=2, size=(8, 8), units=6)


def test_all_workers_make_parts_of_the_first_batch():
    data = made()
    batches = make_loader(data, GlobalBatchSampler(50, 36, steps=3), workers=WORKERS)
    first = next(iter(batches))
    assert set(first.labels.tolist()) == set(range(WORKERS))


@pytest.mark.parametrize(("batch", "workers"), [(36, 3), (7, 2), (5, 4), (16, 1)])
def test_parts_make_the_same_batch(batch, workers):
    ours = list(make_loader(made(), GlobalBatchSampler(50, batch, steps=3), workers=workers))
    literal = [collate([made()[key] for key in keys])
               for keys in GlobalBatchSampler(50, batch, steps=3)]  # fmt: skip
    assert len(ours) == 3
    for one, other in zip(ours, literal, strict=True):
        for name in ("clips", "shuffle_ids", "index"):
            assert torch.equal(getattr(one, name), getattr(other, name))


def test_parts_are_joined_in_order_with_their_bad_files():
    data = made()
    parts = [collate([data[0, i] for i in rows]) for rows in ((0, 1), (2, 3))]
    parts = [part._replace(bad=[name]) for part, name in zip(parts, "ab", strict=True)]
    joined, whole = join_batches(parts), collate([data[0, i] for i in range(4)])
    assert all(map(torch.equal, joined[:4], whole[:4]))
    assert joined.bad == ["a", "b"]


@given(st.integers(1, 600), st.integers(1, 40))
def test_parts_are_equal_and_small(batch, workers):
    parts = part_count(batch, workers)
    assert batch % parts == 0
    assert 1 <= batch // parts <= loader.PART
    assert part_count(batch, 0) == 1


@given(st.integers(1, 600), st.integers(1, 40), st.integers(1, 4))
def test_workers_keep_few_batches_ready_whatever_their_number(batch, workers, prefetch):
    ours = make_loader(
        made(prefetch=prefetch), GlobalBatchSampler(50, batch, steps=1), workers=workers
    )
    ready = ours.prefetch * workers / ours.parts
    # As many as configured, and less than a part more for each worker.
    assert prefetch <= ready < prefetch + workers / ours.parts + 1e-9


@pytest.fixture
def memory(monkeypatch, tmp_path):
    """memory(bytes): so much shared memory is free."""
    monkeypatch.setattr(shared_memory, "SHARED", tmp_path)

    def memory(free):
        monkeypatch.setattr(
            shared_memory.shutil, "disk_usage", lambda path: SimpleNamespace(free=free)
        )

    return memory


def test_too_little_shared_memory_is_told_before_anything_is_read(memory):
    memory(64e6)  # what Docker gives
    with pytest.raises(UserError, match=r"data\.workers: 4 .*0\.19 GB.*0\.06 GB.*--shm-size"):
        shared_prefetch(16, 4, int(19.3e6), 2)


def test_little_shared_memory_is_used_as_far_as_it_goes(memory, caplog):
    memory(1e9)
    with caplog.at_level(logging.WARNING):
        assert shared_prefetch(16, 4, int(19.3e6), 2) == 5
    assert "data.prefetch" in caplog.text
    caplog.clear()
    memory(64e9)
    assert shared_prefetch(16, 4, int(19.3e6), 2) == 16
    assert not caplog.text


def test_a_batch_takes_what_the_data_set_says():
    data = made(repeats=2)
    batch = collate([data[0, i] for i in range(4)])
    clip, ids = batch.clips[0].nbytes, batch.shuffle_ids[0].nbytes
    assert data.item_bytes == 2 * (clip + ids)


def test_workers_are_the_cores_of_a_rank_unless_they_are_given(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(16)), raising=False)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert DataConfig().readers == 8
    assert DataConfig(workers=3).readers == 3
    for wrong in ("many", -1):
        with pytest.raises(ConfigError, match=r"data\.workers: "):
            DataConfig(workers=wrong)
