"""Clips that have been hard are seen more often: beside literal versions, resumed and on ranks."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from videohpm import hpm
from videohpm.config import MaskConfig, ModelConfig, PretrainConfig
from videohpm.data import GlobalBatchSampler
from videohpm.data.batches import AGAIN, weighted_order
from videohpm.errors import UserError
from videohpm.pretrain import check_read_ahead


def hardness_of(sample: int, step: int) -> float:
    """Of a clip, made up: some are hard, losses fall, and no two are alike."""
    return (1 + sample * 7 % 5 + 0.01 * sample) / (1 + 0.1 * step)


def literal_weights(seen: list[list[int]], samples: int, share: float) -> list[float]:
    """Of an epoch, after steps that saw these samples."""
    running: dict[int, float] = {}
    for step, batch in enumerate(seen):
        values = [hardness_of(sample, step) for sample in batch]
        for sample, value in zip(batch, values, strict=True):
            new = value / (sum(values) / len(values))
            running[sample] = (running[sample] + new) / 2 if sample in running else new
    order = sorted(range(samples), key=lambda sample: running.get(sample, 1.0))
    places = {sample: place for place, sample in enumerate(order)}
    return [1 - share + 2 * share * places[sample] / (samples - 1) for sample in range(samples)]


class Ranks:
    """Ranks of a made-up training, in turns in one process."""

    def __init__(self, samples: int, batch: int, world: int, accumulation: int):
        self.world, self.accumulation, self.batch = world, accumulation, batch
        self.handed: list[list] = []
        self.parts = [
            hpm.ClipSampling(samples, batch, lambda step: 0.4, lambda mine: self._gather(mine))
            for _ in range(world)
        ]

    def _gather(self, mine: list) -> list:
        return self.handed

    def train(self, first: int, last: int, seed: int = 3) -> list[list[int]]:
        """Steps ``first`` up to ``last``; returns the samples of each."""
        part, seen = self.parts[0], []
        sampler = GlobalBatchSampler(
            part.samples, self.batch, seed=seed, start_step=first, steps=last, weights=part.weights
        )
        size = self.batch // (self.world * self.accumulation)
        for step, keys in enumerate(sampler, first):
            batch = [index for _, index in keys]
            seen.append(batch)
            for micro in range(self.accumulation):
                for rank, part in enumerate(self.parts):
                    begin = (micro * self.world + rank) * size
                    some = torch.tensor(batch[begin : begin + size])
                    hard = torch.tensor([[hardness_of(int(i), step)] * 2 for i in some])
                    part.add(some, hard)
            # What every rank hands over, which in truth all do at once.
            self.handed = []
            for part in self.parts:
                steps = [*part._steps, part._seen]
                self.handed.append([[(i.tolist(), h.tolist()) for i, h in s] for s in steps])
            for part in self.parts:
                part.end_step(step + 1)
        return seen


SHAPES = st.sampled_from([(1, 1), (2, 1), (1, 2), (2, 2)])


@settings(max_examples=25, deadline=None)
@given(st.integers(17, 30), SHAPES, st.integers(1, 30))
def test_weights_are_the_literal_ones_however_the_batch_is_divided(samples, shape, steps):
    batch = 4
    ranks = Ranks(samples, batch, *shape)
    seen = ranks.train(0, steps)
    for part in ranks.parts:
        for epoch in (part.known - 1, part.known):
            weights = part.weights(epoch)
            if epoch < 2:
                assert weights is None
                continue
            # What was known when the epoch before it began.
            until = -(-(epoch - 1) * samples // batch)
            expected = literal_weights(seen[:until], samples, 0.4)
            np.testing.assert_allclose(weights, expected, atol=1e-6)
        with pytest.raises(ValueError, match="is not known before"):
            part.weights(part.known + 1)


@given(st.lists(st.floats(0.5, 1.5), min_size=1, max_size=60), st.integers(0, 99))
def test_an_order_holds_each_sample_as_often_as_its_weight_says(weights, seed):
    weights = np.array(weights) * len(weights) / sum(weights)
    order = weighted_order(seed, 2, weights)
    counts = Counter(order.tolist())
    assert len(order) == len(weights)
    for sample, weight in enumerate(weights):
        assert np.floor(weight - 1e-9) <= counts[sample] <= np.ceil(weight + 1e-9)


def test_weights_hold_on_average_and_samples_come_in_any_order():
    weights = np.array([0.5, 0.75, 1.0, 1.25, 1.5])
    orders = [weighted_order(seed, 2, weights) for seed in range(2000)]
    mean = np.mean([np.bincount(order, minlength=5) for order in orders], axis=0)
    np.testing.assert_allclose(mean, weights, atol=0.05)
    firsts = np.bincount([order[0] for order in orders], minlength=5) / 2000
    np.testing.assert_allclose(firsts, weights / 5, atol=0.05)


def test_a_sample_that_comes_again_is_cut_anew():
    weights = np.array([0.5, 0.5, 1.5, 1.5])
    sampler = GlobalBatchSampler(4, 4, steps=30, weights=lambda epoch: weights)
    again = 0
    for epoch, keys in enumerate(sampler):
        assert len(set(keys)) == 4
        for number, index in keys:
            assert number == epoch or (number == epoch + AGAIN and (epoch, index) in keys)
            again += number != epoch
    assert again > 10


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 25), st.integers(1, 12))
def test_a_sampling_that_goes_on_is_the_whole_one(half, rest):
    """From its buffers alone, wherever it was cut."""
    whole = Ranks(18, 4, 1, 1)
    seen = whole.train(0, half + rest)
    first, second = Ranks(18, 4, 1, 1), Ranks(18, 4, 1, 1)
    first.train(0, half)
    kept = first.parts[0]
    first.handed = [[[(i.tolist(), h.tolist()) for i, h in s] for s in kept._steps]]
    kept.add_up()
    second.parts[0].load_state_dict(kept.state_dict())
    second.parts[0].start(half)
    assert second.train(half, half + rest) == seen[half:]


def test_without_a_share_every_epoch_holds_every_sample_once():
    sampling = hpm.ClipSampling(5, 2, lambda step: 0.0)
    sampling.start(20)
    assert sampling.weights(8) is None


def test_masks_are_those_of_no_scores():
    grid = ModelConfig(arch="vit_tiny", frames=4, image_size=32, patch=8).grid()
    ids = hpm.random_shuffle_ids(2, grid.num_tubes)
    config = MaskConfig(ratio=0.5, decode_ratio=0.5)
    masks = [
        hpm.draw_mask(None, torch.zeros(2, 1), ids, grid, replace(config, use=use), 0.5)
        for use in ("sample", "hide")
    ]
    assert torch.equal(masks[0].masked, masks[1].masked)
    assert torch.equal(masks[0].decoded, masks[1].decoded)
    assert PretrainConfig(mask=MaskConfig(use="sample")).scorer == "none"


def test_an_epoch_that_is_shorter_than_what_is_read_ahead_is_refused():
    config = PretrainConfig(mask=MaskConfig(use="sample"))
    config = replace(config, data=replace(config.data, workers=2, prefetch=2))
    config = replace(config, optim=replace(config.optim, global_batch_size=16))
    assert check_read_ahead(config, 16 * 6) == 16
    with pytest.raises(UserError, match=r"mask\.use: sample needs 96 samples.*here are 95"):
        check_read_ahead(config, 95)
