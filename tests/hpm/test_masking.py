"""Masks: fixed counts, the right units forced, the rest uniform."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from videohpm import hpm
from videohpm.grid import TokenGrid


def literal_hard_mask(scores, shuffle_ids, masked, share):
    """One sample: the hardest first, then whoever the permutation ranks highest."""
    hard = int(share * masked)
    by_score = sorted(range(len(scores)), key=lambda unit: -scores[unit])
    chosen = by_score[:hard]
    for unit in sorted(range(len(scores)), key=lambda unit: -shuffle_ids[unit]):
        if len(chosen) < masked and unit not in chosen:
            chosen.append(unit)
    return sorted(chosen)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 3),
    st.integers(2, 5),
    st.integers(2, 5),
    st.floats(0.2, 0.9),
    st.floats(0, 1),
    st.sampled_from(["tube", "token"]),
    st.integers(0, 2**31),
)
def test_hard_mask_is_the_literal_one(t, h, w, ratio, share, unit, seed):
    grid = TokenGrid(t, h, w)
    generator = torch.Generator().manual_seed(seed)
    units = hpm.unit_count(grid, unit)
    if int(ratio * units) == 0:
        return
    shuffle_ids = hpm.random_shuffle_ids(2, units, generator)
    scores = torch.randn(2, units, generator=generator)
    mask = hpm.hard_mask(scores, grid, ratio, share, shuffle_ids, unit)
    for sample in range(2):
        expected = literal_hard_mask(
            scores[sample].tolist(), shuffle_ids[sample].tolist(), int(ratio * units), share
        )
        got = mask.tubes if unit == "tube" else mask.masked
        assert got[sample].tolist() == expected


@settings(max_examples=20, deadline=None)
@given(st.sampled_from(["tube", "token"]), st.integers(0, 2**31))
def test_share_zero_is_random_masking_bit_for_bit(unit, seed):
    grid = TokenGrid(2, 4, 4)
    generator = torch.Generator().manual_seed(seed)
    units = hpm.unit_count(grid, unit)
    shuffle_ids = hpm.random_shuffle_ids(3, units, generator)
    scores = torch.randn(3, units, generator=generator)
    plain = hpm.random_mask(grid, 0.75, shuffle_ids, unit)
    mined = hpm.hard_mask(scores, grid, 0.75, 0.0, shuffle_ids, unit)
    assert torch.equal(plain.is_masked, mined.is_masked)
    assert torch.equal(plain.masked, mined.masked)


def test_token_scores_choose_tubes_by_their_mean_over_time():
    grid = TokenGrid(3, 2, 2)
    scores = torch.tensor([[9.0, 0, 0, 0, -9, 1, 0, 0, 0, 1, 0, 1]])  # means 0, .67, 0, .33
    mask = hpm.hard_mask(scores, grid, 0.5, 1.0)
    assert mask.tubes.tolist() == [[1, 3]]


def test_counts_are_the_published_ones(shared):
    assert hpm.masked_count(196, 0.9) == 176
    meta = json.loads((shared / "reference" / "meta.json").read_text())
    for epoch, wanted in meta["hpm_image"]["hard_share_at_196_tokens_ratio_0.75"].items():
        done, epochs = map(int, epoch.split("/"))
        share = hpm.hard_ratio((done + 1) / epochs)
        assert share == pytest.approx(wanted["alpha"], abs=1e-12)
        masked = hpm.masked_count(196, 0.75)
        assert masked == wanted["masked"]
        assert hpm.hard_count(masked, share) == wanted["hard"]


def test_momentum_is_the_published_one(shared):
    meta = json.loads((shared / "reference" / "meta.json").read_text())
    for epoch, wanted in meta["hpm_image"]["ema_decay_by_epoch"].items():
        assert hpm.teacher_momentum(int(epoch) / 100) == pytest.approx(wanted, abs=1e-12)


def test_the_random_part_is_uniform():
    grid = TokenGrid(1, 4, 4)
    shuffle_ids = hpm.random_shuffle_ids(4000, 16, torch.Generator().manual_seed(0))
    scores = torch.zeros(4000, 16)
    scores[:, 5] = 1.0
    mask = hpm.hard_mask(scores, grid, 0.5, 0.125, shuffle_ids)  # 1 of 8 is forced: number 5
    share = mask.is_masked.float().mean(0)
    assert share[5] == 1
    others = torch.cat([share[:5], share[6:]])
    assert (others - 7 / 15).abs().max() < 5 * (7 / 15 * 8 / 15 / 4000) ** 0.5


@pytest.mark.parametrize("ratio", [0.01, 1.0])
def test_a_ratio_that_hides_nothing_or_all_is_refused(ratio):
    with pytest.raises(ValueError, match="ratio"):
        hpm.masked_count(16, ratio)


def test_scores_of_the_wrong_count_are_refused():
    with pytest.raises(ValueError, match="scores"):
        hpm.hard_mask(torch.zeros(1, 7), TokenGrid(1, 2, 3), 0.5, 0.5, unit="token")
