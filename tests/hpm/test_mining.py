"""How much of a ranking is a map of positions: beside literal loops over clips and pairs."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from videohpm import hpm
from videohpm.grid import TokenGrid
from videohpm.hpm.mining import PositionStatistics, choice_overlap, position_share


def rows(batch, units, shown, seed):
    """Hardness of some units of each clip, and which they are."""
    generator = torch.Generator().manual_seed(seed)
    positions = torch.rand(batch, units, generator=generator).argsort(1)[:, :shown]
    return torch.randn(batch, shown, generator=generator), positions


def literal_ranks(hardness, positions):
    """(position, rank from 0 to 1, place among the clip's units from 0) of every shown unit."""
    for values, places in zip(hardness.tolist(), positions.tolist(), strict=True):
        for value, place in zip(values, places, strict=True):
            below = sum(other < value for other in values)
            yield place, below / (len(values) - 1), below


def literal_share(hardness, positions):
    groups = {}
    for place, rank, _ in literal_ranks(hardness, positions):
        groups.setdefault(place, []).append(rank)
    ranks = [rank for group in groups.values() for rank in group]
    mean = sum(ranks) / len(ranks)
    everything = sum((rank - mean) ** 2 for rank in ranks)
    within = sum((r - sum(g) / len(g)) ** 2 for g in groups.values() for r in g)
    noise = within / (len(ranks) - len(groups))
    return (everything - within - (len(groups) - 1) * noise) / everything


def literal_overlap(hardness, positions, hard):
    sets = [
        ({p for p, _, r in clip if r >= len(clip) - hard}, {p for p, _, _ in clip})
        for clip in (
            list(literal_ranks(hardness[i : i + 1], positions[i : i + 1]))
            for i in range(len(hardness))
        )
    ]
    units = sorted(set().union(*(shown for _, shown in sets)))
    both, one = [], []
    for unit in units:
        clips = [unit in chosen for chosen, shown in sets if unit in shown]
        if len(clips) < 2:
            continue
        pairs = list(itertools.permutations(clips, 2))
        both.append(sum(a and b for a, b in pairs) / len(pairs))
        one.append(sum(clips) / len(clips))
    both, one = sum(both) / len(both), sum(one) / len(one)
    return (both - one**2) / (one - one**2)


def measured(batches, units, hard_fraction=0.25):
    statistics = PositionStatistics(units, hard_fraction)
    for hardness, positions in batches:
        statistics.update(hardness, positions)
    return statistics.sums


@settings(max_examples=40, deadline=None)
@given(st.integers(6, 9), st.integers(5, 9), st.integers(0, 2**31))
def test_both_numbers_are_those_of_literal_loops(batch, units, seed):
    for shown in (units, units - 1):
        hardness, positions = rows(batch, units, shown, seed)
        sums = measured([(hardness, positions)], units)
        share, overlap = float(position_share(sums)), float(choice_overlap(sums))
        hard = max(1, int(0.25 * shown))
        assert share == pytest.approx(literal_share(hardness, positions), abs=1e-9)
        assert overlap == pytest.approx(literal_overlap(hardness, positions, hard), abs=1e-9)


def test_the_same_map_in_every_clip_is_all_position():
    hardness = torch.arange(16.0).flip(0).expand(10, -1)
    sums = measured([(hardness, None)], 16)
    assert float(position_share(sums)) == pytest.approx(1)
    assert float(choice_overlap(sums)) == pytest.approx(1)


def test_rankings_without_a_map_have_no_position_share_however_few_the_clips():
    generator = torch.Generator().manual_seed(0)
    shares, overlaps = [], []
    for _ in range(200):
        sums = measured([(torch.randn(4, 20, generator=generator), None)], 20)
        shares.append(float(position_share(sums)))
        overlaps.append(float(choice_overlap(sums)))
    # Without the correction the share of four clips would be a quarter.
    assert abs(sum(shares) / 200) < 0.02 and abs(sum(overlaps) / 200) < 0.02


def test_the_position_share_is_the_mean_rank_correlation_of_two_clips():
    generator = torch.Generator().manual_seed(0)
    quantiles = (torch.arange(200) + 0.5) / 200
    fixed = math.sqrt(2) * torch.erfinv(2 * quantiles - 1)  # a standard normal map
    hardness = fixed + torch.randn(400, 200, generator=generator)
    # Two clips correlate by one half, and Spearman's of two normal variables is this:
    expected = 6 / math.pi * math.asin(0.5 / 2)
    found = float(position_share(measured([(hardness, None)], 200)))
    assert found == pytest.approx(expected, abs=0.01)


def test_batches_and_processes_add_up():
    hardness, positions = rows(12, 9, 6, seed=3)
    whole = measured([(hardness, positions)], 9)
    parts = [measured([(hardness[i::3], positions[i::3])], 9) for i in range(3)]
    torch.testing.assert_close(sum(parts), whole)
    one_by_one = measured([(hardness[i : i + 1], positions[i : i + 1]) for i in range(12)], 9)
    torch.testing.assert_close(one_by_one, whole)


def test_nothing_seen_is_nothing_known():
    statistics = PositionStatistics(9, 0.25)
    assert math.isnan(position_share(statistics.sums)) and math.isnan(
        choice_overlap(statistics.sums)
    )
    statistics.update(torch.randn(4, 9))
    statistics.reset()
    assert not statistics.sums.any()


def literal_beyond(scores, losses, positions):
    """Pearson's correlation of ranks less the mean rank of their position."""
    x, y = ({}, {})
    for table, values in ((x, scores), (y, losses)):
        for place, rank, _ in literal_ranks(values, positions):
            table.setdefault(place, []).append(rank)
    a, b = (
        [rank - sum(group) / len(group) for place in sorted(x) for group in [table[place]]
         for rank in group]
        for table in (x, y)
    )  # fmt: skip
    product = sum(v * w for v, w in zip(a, b, strict=True))
    return product / math.sqrt(sum(v * v for v in a) * sum(w * w for w in b))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from(["tube", "token"]))
def test_the_metrics_of_a_step_are_those_of_literal_loops(seed, unit):
    generator, grid = torch.Generator().manual_seed(seed), TokenGrid(2, 3, 4)
    units = hpm.unit_count(grid, unit)
    scores = torch.randn(9, units, generator=generator)
    shuffle_ids = hpm.random_shuffle_ids(9, units, generator)
    mask = hpm.hard_mask(scores, grid, 0.75, 0.3, shuffle_ids, unit)
    hidden = mask.tubes if unit == "tube" else mask.masked
    losses = scores.gather(1, hidden) + torch.randn(hidden.shape, generator=generator)
    mining = hpm.MiningStatistics(units)
    for i in range(0, 9, 3):  # micro-batches
        part = hpm.Mask(
            *(v[i : i + 3] for v in (mask.is_masked, mask.visible, mask.masked)),
            tubes=None if mask.tubes is None else mask.tubes[i : i + 3],
            scores=mask.scores[i : i + 3],
        )
        mining.update(part, losses[i : i + 3])
    found = hpm.mining_metrics(mining.sums())
    everywhere = torch.arange(units).expand(9, -1)
    assert found["position_share"] == pytest.approx(literal_share(scores, everywhere), abs=1e-9)
    assert found["true_position_share"] == pytest.approx(literal_share(losses, hidden), abs=1e-9)
    hard = max(1, int(0.25 * units))
    overlap = literal_overlap(scores, everywhere, hard)
    assert found["choice_overlap"] == pytest.approx(overlap, abs=1e-9)
    asked = scores.gather(1, hidden)
    expected = literal_beyond(asked, losses, hidden)
    assert found["beyond_position"] == pytest.approx(expected, abs=1e-9)


def test_without_scores_only_the_truth_is_known():
    grid, generator = TokenGrid(2, 3, 4), torch.Generator().manual_seed(0)
    mask = hpm.random_mask(grid, 0.75, hpm.random_shuffle_ids(8, 12, generator))
    mining = hpm.MiningStatistics(12)
    mining.update(mask, torch.randn(8, 9, generator=generator))
    found = hpm.mining_metrics(mining.sums())
    assert found["position_share"] is found["choice_overlap"] is found["beyond_position"] is None
    assert found["true_position_share"] is not None
