"""The stream of global batches: the same for every division of the work."""

import json
import logging
from itertools import islice

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from painted import encode

from videohpm.data import (
    BadFile,
    BadFileTracker,
    Batch,
    DataConfig,
    GlobalBatchSampler,
    collate,
    make_dataset,
    make_loader,
)
from videohpm.errors import UserError

divisions = st.sampled_from([(1, 1), (2, 1), (1, 2), (4, 1), (2, 2), (1, 4), (3, 2), (6, 1)])


def stream(n, batch, steps, *, world=1, accumulation=1, **arguments):
    """Global batches as (rank, micro-batch) pieces in order."""
    shape = {"world": world, "grad_accum_steps": accumulation}
    ranks = [
        list(GlobalBatchSampler(n, batch, rank=rank, steps=steps, **shape, **arguments))
        for rank in range(world)
    ]
    count = len(ranks[0]) // accumulation
    return [
        [
            key
            for a in range(accumulation)
            for rank in ranks
            for key in rank[step * accumulation + a]
        ]
        for step in range(count)
    ]


@given(st.integers(1, 50), st.integers(1, 4), st.integers(0, 9), divisions)
def test_ranks_and_micro_batches_make_up_the_global_batch(n, factor, seed, division):
    world, accumulation = division
    batch = 12 * factor
    whole = stream(n, batch, 4, seed=seed)
    assert stream(n, batch, 4, seed=seed, world=world, accumulation=accumulation) == whole
    assert all(len(step) == batch for step in whole)


@given(st.integers(1, 50), st.integers(1, 40), st.integers(0, 9))
def test_each_epoch_holds_every_sample_once(n, batch, seed):
    keys = [key for step in stream(n, batch, 2 + 3 * n // batch, seed=seed) for key in step]
    for epoch in range(3):
        seen = [index for number, index in keys[: 3 * n] if number == epoch]
        assert sorted(seen) == list(range(n))
    assert [epoch for epoch, _ in keys] == [p // n for p in range(len(keys))]


@given(st.integers(1, 30), st.integers(0, 12), divisions)
def test_a_resumed_stream_is_the_rest_of_the_stream(n, start, division):
    world, accumulation = division
    shape = {"world": world, "accumulation": accumulation}
    assert stream(n, 12, 12, start_step=start, **shape) == stream(n, 12, 12)[start:]


def test_epochs_and_seeds_shuffle_differently():
    first, second = stream(100, 100, 2)
    assert [i for _, i in first] != [i for _, i in second] != sorted(i for _, i in second)
    assert stream(100, 100, 1, seed=1) != [first]


def test_length_and_end():
    sampler = GlobalBatchSampler(9, 4, grad_accum_steps=2, start_step=3, steps=8)
    assert len(sampler) == len(list(sampler)) == 10 and sampler.micro_batch == 2
    assert len(list(islice(GlobalBatchSampler(9, 4), 30))) == 30
    assert len(GlobalBatchSampler(9, 4, start_step=9, steps=8)) == 0


@pytest.mark.parametrize(
    "arguments",
    [
        {"n_samples": 0},
        {"global_batch": 0},
        {"global_batch": 9, "world": 2},
        {"global_batch": 4, "world": 2, "grad_accum_steps": 4},
        {"rank": 2, "world": 2},
    ],
)
def test_impossible_divisions(arguments):
    with pytest.raises(ValueError, match=r"^(n_samples|global_batch|rank): |^(data|run)"):
        GlobalBatchSampler(**({"n_samples": 8, "global_batch": 4} | arguments))


# --- batches -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    for place in range(5):
        options = {"x264-params": "keyint=12:threads=1"}
        encode(folder / f"{place}.mp4", "libx264", 12 + place, options=options)
    (folder / "5_bad.mp4").write_text("not a video")
    return folder


def batches(folder, *, workers=0, steps=3, repeats=1, start_step=0, **shape):
    config = DataConfig(root=str(folder), stride=2, repeats=repeats, prefetch=2)
    data = make_dataset(config, frames=4, size=(32, 32), units=6, seed=3)
    ranks = []
    for rank in range(shape.get("world", 1)):
        sampler = GlobalBatchSampler(
            *(len(data), 4), rank=rank, seed=3, steps=steps, start_step=start_step, **shape
        )
        ranks.append(list(make_loader(data, sampler, workers=workers)))
    return ranks


def joined(ranks, accumulation=1):
    """Micro-batches of all ranks put together to global batches."""
    for step in range(len(ranks[0]) // accumulation):
        pieces = [rank[step * accumulation + a] for a in range(accumulation) for rank in ranks]
        fields = [torch.cat([piece[f] for piece in pieces]) for f in range(4)]
        yield Batch(*fields, [bad for piece in pieces for bad in piece.bad])


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a[:4], b[:4], strict=True)) and a.bad == b.bad


def test_batches_are_the_same_however_the_work_is_divided(folder):
    (whole,) = batches(folder)
    assert len(whole) == 3 and whole[0].clips.shape == (4, 3, 4, 32, 32)
    for workers, world, accumulation in ((2, 1, 1), (0, 2, 1), (0, 1, 4), (2, 2, 2)):
        ranks = batches(folder, workers=workers, world=world, grad_accum_steps=accumulation)
        found = list(joined(ranks, accumulation))
        assert len(found) == 3 and all(map(same, found, whole))
    # Two epochs of six files: the bad one twice, and again where it was drawn to replace itself.
    bad = [file.index for batch in whole for file in batch.bad]
    assert len(bad) >= 2 and set(bad) == {5}


def test_a_resumed_loader_goes_on_with_the_same_batches(folder):
    (whole,), (rest,) = batches(folder), batches(folder, start_step=1)
    assert len(rest) == 2 and all(map(same, rest, whole[1:]))


def test_repeats_lie_side_by_side(folder):
    ((batch, *_),) = batches(folder, repeats=3)
    assert len(batch.clips) == len(batch.shuffle_ids) == len(batch.labels) == 12
    assert (batch.index.view(4, 3) == batch.index.view(4, 3)[:, :1]).all()
    assert not torch.equal(batch.shuffle_ids[0], batch.shuffle_ids[1])


def test_names_come_back_from_the_index(folder):
    data = make_dataset(DataConfig(root=str(folder)), frames=4, size=(32, 32))
    batch = collate([data[0, 2], data[0, 0]])
    assert [data.manifest.name(i) for i in batch.index.tolist()] == ["2.mp4", "0.mp4"]
    assert batch.to("cpu").index is batch.index


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_in_a_worker_arrives_as_one_line(tmp_path, workers):
    (tmp_path / "bad.mp4").write_text("not a video")
    with pytest.raises(UserError, match="files in a row could not be read") as caught:
        batches(tmp_path, workers=workers)
    assert "\n" not in str(caught.value) and str(caught.value).startswith(str(tmp_path))


# --- bad files -----------------------------------------------------------------------------------


def made(index, bad=()):
    files = [BadFile(i, f"{i}.mp4", "broken") for i in bad]
    index = torch.tensor(index)
    return Batch(torch.empty(0), torch.empty(0), -torch.ones_like(index), index, files)


def test_the_ledger_counts_distinct_files_and_names_each_once(caplog):
    ledger = BadFileTracker(100, 0.05)
    with caplog.at_level(logging.WARNING):
        assert [file.index for file in ledger.update(made([1, 2, 3], [7, 7]))] == [7]
        assert ledger.update(made([3, 4], [7])) == []
    assert (ledger.seen, ledger.bad) == (5, 1)
    assert caplog.text.count("7.mp4") == 1 and "broken" in caplog.text


def test_the_ledger_stops_at_the_share():
    ledger = BadFileTracker(100, 0.02)
    ledger.update(made([0], [1, 2]))  # 2 of 100
    ledger.check()
    ledger.update(made([0], [9]))
    with pytest.raises(UserError, match=r"max_bad_fraction: 3 of 100 .*9\.mp4") as caught:
        ledger.check()
    assert "\n" not in str(caught.value)


@settings(max_examples=30)
@given(st.integers(1, 40), st.floats(0, 1), st.data())
def test_the_ledger_never_stops_below_the_share(n, share, data):
    bad = data.draw(st.sets(st.integers(0, n - 1)))
    ledger = BadFileTracker(n, share)
    for index in range(n):
        ledger.update(made([index], [index] if index in bad else []))
        try:
            ledger.check()
        except UserError:
            assert len(bad) > share * n
            return
    assert len(bad) <= share * n
    assert (ledger.seen, ledger.bad) == (n, len(bad))


def test_one_bad_file_of_many_stops_nothing():
    ledger = BadFileTracker(240_000, 0.01)
    ledger.update(made([0], [1]))
    ledger.check()


def test_no_bad_file_allowed():
    ledger = BadFileTracker(10, 0.0)
    ledger.update(made([0], [1]))
    with pytest.raises(UserError):
        ledger.check()


def test_what_ranks_have_met_is_put_together_and_kept_over_a_restart():
    one, two = BadFileTracker(2000, 0.1), BadFileTracker(2000, 0.1)
    one.update(made([1, 2], [7]))
    two.update(made([2, 3], [7, 8]))
    found, seen = one.unshared + two.unshared, one.seen_flags | two.seen_flags
    assert [file.index for file in one.merge(seen, found)] == [8]
    assert two.merge(seen, found) == []
    assert (one.seen, one.bad) == (two.seen, two.bad) == (5, 2)
    later = BadFileTracker(2000, 0.003)
    later.restore(json.loads(json.dumps(one.state())))
    assert (later.seen, later.bad) == (5, 2)
    assert [file.index for file in later.update(made([4], [8, 9]))] == [9]
    later.check()
    later.max_bad_fraction = 0.002
    with pytest.raises(UserError, match="3 of 1000"):
        later.check()
