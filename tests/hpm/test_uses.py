"""What scores are used for, beside literal versions."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from videohpm import hpm
from videohpm.config import MaskConfig, ModelConfig, PretrainConfig
from videohpm.config.mask import CHOICES, USES
from videohpm.grid import Mask, TokenGrid
from videohpm.models import MaskedAutoencoder

GRID = TokenGrid(3, 3, 4, tubelet=2, patch=4)
CLIPS = torch.zeros(2, 1)


def drawn(config: MaskConfig, alpha: float, seed: int, grid: TokenGrid = GRID, **options):
    """The mask, the scores that it was drawn by, and what is random of it, as lists."""
    generator = torch.Generator().manual_seed(seed)
    units = hpm.unit_count(grid, config.unit)
    scores = torch.randn(2, units, generator=generator)
    ids = hpm.random_shuffle_ids(2, units, generator)
    mask = hpm.draw_mask(lambda *_: scores, CLIPS, ids, grid, config, alpha, **options)
    return mask, scores.tolist(), ids.tolist()


def hidden_at_random(ids: list[int], ratio: float) -> list[int]:
    count = int(ratio * len(ids))
    return sorted(sorted(range(len(ids)), key=lambda unit: -ids[unit])[:count])


BY_SCORE = [use for use in USES if use != "sample"]
PARTS = (
    st.sampled_from(["tube", "token"]),
    st.floats(0.3, 0.9),
    st.sampled_from([0.25, 0.5, 0.8]),
    st.floats(0, 1),
    st.integers(0, 2**31),
)


@settings(max_examples=60, deadline=None)
@given(*PARTS)
def test_decode_reconstructs_the_highest_of_what_is_hidden_and_random_others(
    unit, ratio, share, alpha, seed
):
    config = MaskConfig(ratio=ratio, unit=unit, use="decode", decode_ratio=share)
    mask, scores, ids = drawn(config, alpha, seed)
    for clip in range(2):
        hidden = hidden_at_random(ids[clip], ratio)
        count = max(1, round(share * len(hidden)))
        hard = sorted(hidden, key=lambda u: -scores[clip][u])[: int(alpha * count)]
        if int(alpha * len(hidden)) == 0:
            assert mask.scores is None and mask.chosen is None
        else:
            assert mask.chosen[clip].nonzero().flatten().tolist() == sorted(hard)
        rest = sorted((u for u in hidden if u not in hard), key=lambda u: -ids[clip][u])
        wanted = sorted(hard + rest[: count - len(hard)])
        if unit == "token":
            assert mask.masked[clip].tolist() == hidden
            assert mask.decoded[clip].tolist() == wanted
            continue
        assert mask.tubes[clip].tolist() == wanted
        steps = [step * GRID.num_tubes for step in range(GRID.t)]
        assert mask.masked[clip].tolist() == [step + u for step in steps for u in hidden]
        assert mask.decoded[clip].tolist() == [step + u for step in steps for u in wanted]


@settings(max_examples=60, deadline=None)
@given(*PARTS)
def test_weights_rise_evenly_with_the_rank_around_a_mean_of_one(unit, ratio, share, alpha, seed):
    config = MaskConfig(ratio=ratio, unit=unit, use="weight", decode_ratio=share)
    mask, scores, ids = drawn(config, alpha, seed)
    plain, _, _ = drawn(replace(config, use="hide"), 0.0, seed)
    assert torch.equal(mask.masked, plain.masked) and torch.equal(mask.decoded, plain.decoded)
    if mask.scores is None:
        assert mask.weights is None
        return
    assert mask.weights.shape == mask.decoded.shape
    losses = torch.rand(mask.decoded.shape)
    expected = 0.0
    for clip in range(2):
        units = hpm.unit_count(GRID, unit)
        tokens = mask.decoded[clip].tolist()
        order = sorted({token % units for token in tokens}, key=lambda u: scores[clip][u])
        for place, token in enumerate(tokens):
            rank = order.index(token % units) / max(1, len(order) - 1) if len(order) > 1 else 0.5
            weight = 1 + alpha * (2 * rank - 1)
            assert float(mask.weights[clip, place]) == pytest.approx(weight, abs=1e-5)
            expected += weight * float(losses[clip, place]) / losses.numel()
        assert float(mask.weights[clip].mean()) == pytest.approx(1, abs=1e-5)
    assert float(hpm.mean_loss(losses, mask)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("use", BY_SCORE)
@pytest.mark.parametrize("choice", CHOICES)
def test_every_use_follows_the_choice(use, choice):
    """What it does is what it does with scores in that order."""
    share = 0.5 if use == "decode" else 1.0
    config = MaskConfig(ratio=0.75, use=use, choice=choice, decode_ratio=share)
    mask, scores, ids = drawn(config, 0.6, 5)
    ranked = hpm.CHOICES[choice](torch.tensor(scores), torch.tensor(ids))
    hardest = replace(config, choice="hardest")
    same = hpm.draw_mask(lambda *_: ranked, CLIPS, torch.tensor(ids), GRID, hardest, 0.6)
    for name in ("masked", "decoded", "tubes", "chosen", "weights"):
        mine, other = getattr(mask, name), getattr(same, name)
        assert mine is other is None or torch.equal(mine, other), name
    assert torch.equal(mask.scores, torch.tensor(scores))


@pytest.mark.parametrize("use", BY_SCORE)
@pytest.mark.parametrize("unit", ["tube", "token"])
def test_pictures_reconstruct_all_and_mark_what_a_step_would_choose(use, unit):
    config = MaskConfig(ratio=0.75, use=use, unit=unit, decode_ratio=0.5)
    step, _, _ = drawn(config, 0.6, 7)
    picture, _, _ = drawn(config, 0.6, 7, decode_all=True)
    assert torch.equal(picture.masked, step.masked) and torch.equal(picture.chosen, step.chosen)
    assert torch.equal(picture.decoded, picture.masked)
    whole = Mask.from_bool(picture.is_masked, GRID)
    assert unit == "token" or torch.equal(picture.tubes, whole.tubes)


def test_a_plain_mask_has_the_plain_mean():
    mask = hpm.random_mask(GRID, 0.5, hpm.random_shuffle_ids(2, 12))
    losses = torch.rand(2, 18)
    assert torch.equal(hpm.mean_loss(losses, mask), losses.mean())


def test_the_decoder_and_the_predictor_are_asked_for_what_is_decoded_only():
    model = ModelConfig(
        arch="vit_tiny", frames=6, image_size=[12, 16], patch=4, dim=12, depth=1, heads=2,
        decoder_dim=12, decoder_depth=1, decoder_heads=2,
    )  # fmt: skip
    mask = MaskConfig(ratio=0.75, use="decode", decode_ratio=0.5)
    student = MaskedAutoencoder(PretrainConfig(model=model, mask=mask).model_config())
    part, _, _ = drawn(mask, 0.5, 3)
    out = student(torch.randn(2, 3, 6, 12, 16), part)
    assert part.masked.shape[1] == 27 and part.decoded.shape[1] == 12  # of 9 tubes round(4.5)
    assert out.pixels.shape == (2, 12, 96) and out.scores.shape == (2, 4)


def test_the_configuration_knows_the_uses():
    assert tuple(hpm.USES) == USES
