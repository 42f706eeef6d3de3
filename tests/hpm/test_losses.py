"""Each equation beside a literal double loop."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from videohpm import hpm
from videohpm.grid import Mask, TokenGrid
from videohpm.hpm import losses as module


def literal_relative(scores, losses):
    total, pairs = 0.0, 0
    for row_s, row_l in zip(scores.tolist(), losses.tolist(), strict=True):
        for i in range(len(row_s)):
            for j in range(len(row_s)):
                if row_l[i] > row_l[j]:
                    total += math.log1p(math.exp(-(row_s[i] - row_s[j])))
                    pairs += 1
    return total / pairs if pairs else 0.0


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 3), st.integers(1, 9), st.integers(1, 5), st.integers(0, 2**31))
def test_relative_loss_is_the_literal_double_loop(batch, count, levels, seed):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(batch, count, generator=generator)
    losses = torch.randint(levels, (batch, count), generator=generator).float()  # with ties
    expected = literal_relative(scores, losses)
    assert hpm.relative_loss(scores, losses).item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("elements", [1, 40, 1 << 22])
def test_relative_loss_has_the_gradient_of_its_equation_however_it_is_cut(elements, monkeypatch):
    monkeypatch.setattr(module._PairwiseRank, "ELEMENTS_AT_ONCE", elements)
    generator = torch.Generator().manual_seed(1)
    losses = torch.randint(4, (3, 7), generator=generator).float()
    scores = torch.randn(3, 7, generator=generator, requires_grad=True)
    hpm.relative_loss(scores, losses).backward()
    plain = scores.detach().clone().requires_grad_()
    margin = plain[:, :, None] - plain[:, None, :]
    harder = losses[:, :, None] > losses[:, None, :]
    (-torch.nn.functional.logsigmoid(margin)[harder].mean()).backward()
    torch.testing.assert_close(scores.grad, plain.grad, atol=1e-6, rtol=1e-5)


def test_relative_loss_keeps_gradients_from_the_targets_and_stays_fp32():
    scores = torch.randn(2, 5, dtype=torch.bfloat16, requires_grad=True)
    losses = torch.rand(2, 5, requires_grad=True)
    loss = hpm.relative_loss(scores, losses)
    loss.backward()
    assert loss.dtype == torch.float32
    assert losses.grad is None
    assert scores.grad.dtype == torch.bfloat16


def test_without_a_pair_there_is_no_loss_and_no_gradient():
    scores = torch.randn(2, 3, requires_grad=True)
    loss = hpm.relative_loss(scores, torch.ones(2, 3))
    loss.backward()
    assert loss.item() == 0
    assert scores.grad.abs().sum() == 0


def test_huge_margins_stay_finite():
    scores = torch.tensor([[1e4, -1e4]], requires_grad=True)
    loss = hpm.relative_loss(scores, torch.tensor([[0.0, 1.0]]))
    loss.backward()
    assert loss.item() == pytest.approx(2e4)
    assert scores.grad.tolist() == [[1.0, -1.0]]


def test_absolute_loss_is_the_literal_one():
    scores, losses = torch.randn(3, 6), torch.rand(3, 6)
    total = 0.0
    for row_s, row_l in zip(scores.tolist(), losses.tolist(), strict=True):
        mean = sum(row_l) / 6
        variance = sum((x - mean) ** 2 for x in row_l) / 5
        for s, x in zip(row_s, row_l, strict=True):
            total += (s - (x - mean) / math.sqrt(variance + 1e-6)) ** 2
    assert hpm.absolute_loss(scores, losses).item() == pytest.approx(total / 18, rel=1e-5)


def literal_target(clip, grid, token, target, mean, std):
    """The values of one token, (tubelet, patch, patch, channel) flattened."""
    step, row, column = (
        token // grid.num_tubes,
        token // grid.w % grid.h,
        token % grid.w,
    )
    p, s = grid.patch, grid.tubelet
    cube = clip[
        :, step * s : (step + 1) * s, row * p : (row + 1) * p, column * p : (column + 1) * p
    ]
    if target == "per_channel":
        channels = []
        for c in range(3):
            values = cube[c] * std[c] + mean[c]
            channels.append((values - values.mean()) / (values.std(unbiased=True) + 1e-6))
        cube = torch.stack(channels)
    if target == "joint":
        cube = (cube - cube.mean()) / (cube.var(unbiased=True) + 1e-6).sqrt()
    return cube.permute(1, 2, 3, 0).flatten()


@pytest.mark.parametrize("target", ["raw", "per_channel", "joint"])
def test_loss_of_each_token_is_the_literal_one(target):
    grid = TokenGrid(2, 2, 3, patch=4)
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.1)
    clips = torch.randn(2, 3, 4, 8, 12)
    mask = Mask.from_units(torch.tensor([[0, 4], [2, 3]]), grid)
    predicted = torch.randn(2, 4, grid.patch_dim)
    got = hpm.reconstruction_loss(predicted, clips, mask, grid, target, std)
    for sample in range(2):
        for place, token in enumerate(mask.masked[sample].tolist()):
            wanted = literal_target(clips[sample], grid, token, target, mean, std)
            expected = (predicted[sample, place] - wanted).square().mean()
            torch.testing.assert_close(got[sample, place], expected, atol=1e-5, rtol=1e-5)
    tubes = hpm.loss_per_tube(got, mask)
    for sample in range(2):
        for place, tube in enumerate(mask.tubes[sample].tolist()):
            tokens = [tube, tube + grid.num_tubes]
            of_tube = [got[sample, mask.masked[sample].tolist().index(n)] for n in tokens]
            torch.testing.assert_close(tubes[sample, place], sum(of_tube) / 2)


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 12), st.integers(0, 2**31))
def test_rank_correlation_is_spearmans(count, seed):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randperm(count, generator=generator).float()[None]
    losses = torch.randperm(count, generator=generator).float()[None]
    squares = sum((a - b) ** 2 for a, b in zip(scores[0].tolist(), losses[0].tolist(), strict=True))
    expected = 1 - 6 * squares / (count * (count**2 - 1))
    assert hpm.rank_correlation(scores, losses).item() == pytest.approx(expected, abs=1e-5)
