"""Scorers without a teacher, and what the highest scores are taken of, beside literal versions."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from videohpm import hpm
from videohpm.config import HPMConfig, MaskConfig, ModelConfig, PretrainConfig
from videohpm.config.mask import CHOICES, SCORERS
from videohpm.errors import ConfigError
from videohpm.grid import TokenGrid
from videohpm.models import MaskedAutoencoder

T, H, W, TUBELET, PATCH = 6, 8, 12, 2, 4
GRID = TokenGrid(T // TUBELET, H // PATCH, W // PATCH, TUBELET, PATCH)
TINY = {
    "arch": "vit_tiny", "frames": T, "image_size": (H, W), "patch": PATCH, "dim": 12, "depth": 2,
    "heads": 2, "decoder_dim": 12, "decoder_depth": 1, "decoder_heads": 2,
}  # fmt: skip


def config(scorer: str, unit: str = "tube", class_token: bool = False, **options) -> PretrainConfig:
    model = ModelConfig(**TINY | options, class_token=class_token)
    by_token = {"predictor_unit": "token"} if unit == "token" else {}
    return PretrainConfig(
        model=model, mask=MaskConfig(ratio=0.5, unit=unit, scorer=scorer), hpm=HPMConfig(**by_token)
    )


def made(settings: PretrainConfig):
    """The student, in which no two blocks are alike, and the scorer."""
    torch.manual_seed(0)
    model = MaskedAutoencoder(settings.model_config())
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    return model, hpm.SCORERS[settings.scorer](model, settings)


def clips(seed: int = 0) -> torch.Tensor:
    return torch.randn(2, 3, T, H, W, generator=torch.Generator().manual_seed(seed))


def ids(units: int, batch: int = 2, seed: int = 0) -> torch.Tensor:
    return hpm.random_shuffle_ids(batch, units, torch.Generator().manual_seed(seed))


def cells(step: int, row: int, column: int):
    """Frames, rows and columns of pixels of a token."""
    return (
        range(step * TUBELET, (step + 1) * TUBELET),
        range(row * PATCH, (row + 1) * PATCH),
        range(column * PATCH, (column + 1) * PATCH),
    )


def tokens():
    for step in range(GRID.t):
        for row in range(GRID.h):
            for column in range(GRID.w):
                yield step, row, column


def test_change_is_the_mean_squared_difference_to_the_token_before():
    video = clips()
    _, scorer = made(config("change"))
    found = scorer(video, ids(GRID.num_tubes))
    for clip in range(2):
        for number, (step, row, column) in enumerate(tokens()):
            frames, rows, columns = cells(max(step, 1), row, column)
            squares = [
                float(video[clip, c, f, y, x] - video[clip, c, f - TUBELET, y, x]) ** 2
                for c in range(3) for f in frames for y in rows for x in columns
            ]  # fmt: skip
            assert float(found[clip, number]) == pytest.approx(
                sum(squares) / len(squares), rel=1e-4
            )


def test_motion_is_change_over_gradient_of_the_brightness():
    video = clips()
    _, scorer = made(config("motion"))
    found = scorer(video, ids(GRID.num_tubes))
    for clip in range(2):
        bright = video[clip].mean(0).tolist()
        for number, (step, row, column) in enumerate(tokens()):
            change = gradient = 0.0
            for f in cells(step, row, column)[0]:
                for y in cells(step, row, column)[1]:
                    for x in cells(step, row, column)[2]:
                        later = max(f, 1)
                        change += abs(bright[later][y][x] - bright[later - 1][y][x])
                        gradient += 0.05
                        if x + 1 < W:
                            gradient += abs(bright[f][y][x + 1] - bright[f][y][x])
                        if y + 1 < H:
                            gradient += abs(bright[f][y + 1][x] - bright[f][y][x])
            assert float(found[clip, number]) == pytest.approx(change / gradient, rel=1e-4)


def test_motion_tells_the_speed_of_a_faint_edge_as_of_a_bright_one():
    ramp = torch.arange(W).float().expand(3, T, H, W)
    moved = ramp - torch.arange(T).float().view(T, 1, 1)  # a pixel a frame
    video = torch.stack([0.5 * moved, 5 * moved])
    _, scorer = made(config("motion"))
    for clip in scorer(video, ids(GRID.num_tubes)):
        assert clip.min() > 0.8 and clip.max() < 1.4  # the last column has no neighbour
    assert scorer(ramp.expand(2, -1, -1, -1, -1), ids(GRID.num_tubes)).abs().max() == 0


@pytest.mark.parametrize("unit", ["tube", "token"])
def test_noise_hides_neighbours_together_and_favours_no_place(unit):
    grid = TokenGrid(4, 8, 8)
    units = hpm.unit_count(grid, unit)
    scorer = hpm.SCORERS["noise"](MaskedAutoencoder.create("vit_tiny", frames=8, image_size=128),
                                  config("noise", unit, frames=8, image_size=128))  # fmt: skip
    shuffle_ids = ids(units, 400)
    field = scorer(torch.zeros(400, 1), shuffle_ids)
    assert torch.equal(field, scorer(torch.ones(400, 1), shuffle_ids))  # whatever the clip shows

    def like_right_neighbour(scores):
        flags = (scores > scores.median(1, keepdim=True).values).float().view(400, -1, 8, 8)
        return float((flags == flags.roll(1, 3)).float().mean())

    assert like_right_neighbour(field) > 0.65
    assert abs(like_right_neighbour(shuffle_ids.float()) - 0.5) < 0.02
    often = (field > field.median(1, keepdim=True).values).float().mean(0)
    assert often.min() > 0.35 and often.max() < 0.65


def test_noise_is_the_difference_of_two_literal_blurs():
    settings = config("noise", "token")
    _, scorer = made(settings)
    shuffle_ids = ids(GRID.num_tokens)
    found = scorer(clips(), shuffle_ids).view(2, GRID.t, GRID.h, GRID.w)
    size = (GRID.t, GRID.h, GRID.w)
    normal = torch.distributions.Normal(0.0, 1.0)
    for clip in range(2):
        ids_ = shuffle_ids[clip]
        ranks = torch.tensor([ids_[ids_[ids_[ids_[i]]]] for i in range(GRID.num_tokens)])
        white = normal.icdf((ranks + 0.5) / GRID.num_tokens).view(size)

        def blurred(place, sigma, white=white):
            total = weight = 0.0
            for other in tokens():
                apart = [min(abs(a - b), n - abs(a - b))
                         for a, b, n in zip(place, other, size, strict=True)]  # fmt: skip
                w = math.exp(-sum(d * d for d in apart) / (2 * sigma**2))
                total, weight = total + w * float(white[other]), weight + w
            return total / weight

        for place in tokens():
            expected = blurred(place, 1.0) - blurred(place, 2.0)
            assert float(found[clip][place]) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("class_token", [True, False])
@pytest.mark.parametrize("samples", [0, 1])
def test_attention_is_that_of_the_last_block_literally(class_token, samples):
    settings = config("attention", class_token=class_token)
    object.__setattr__(settings.hpm, "teacher_samples_per_tube", samples)
    model, scorer = made(settings)
    video, encoder = clips(), model.encoder
    found = scorer(video, ids(GRID.num_tubes))
    every = torch.arange(GRID.num_tokens)
    seen = every if samples == 0 else GRID.staggered_tokens(samples)
    x = encoder.patch_embed(GRID.gather_patches(video, seen.expand(2, -1)))
    x = x + encoder.positions[seen]
    if class_token:
        x = torch.cat([encoder.cls_token.expand(2, -1, -1), x], 1)
    x = encoder.blocks[0](x)
    x = encoder.blocks[1].norm1(x)
    attention = encoder.blocks[1].attn
    width = 12 // 2
    for clip in range(2):
        asks = x[clip, 0] if class_token else x[clip].mean(0)
        query = attention.qkv(asks)[:12].view(2, width)
        keys = attention.qkv(x[clip])[:, 12:24].view(-1, 2, width)
        weights = torch.stack([
            (keys[:, head] @ query[head] / math.sqrt(width)).softmax(0) for head in range(2)
        ]).mean(0)[int(class_token):]  # fmt: skip
        expected = weights if samples == 0 else torch.zeros(GRID.num_tubes).index_add(
            0, seen % GRID.num_tubes, weights)  # fmt: skip
        torch.testing.assert_close(found[clip], expected, atol=1e-5, rtol=1e-4)


def test_the_student_is_asked_as_its_teacher_would_be_but_as_it_is_now():
    settings = config("student")
    model, scorer = made(settings)
    assert scorer.steps == settings.teacher_samples
    now = hpm.LossTeacher(model, scorer.steps)
    with torch.no_grad():
        torch.testing.assert_close(scorer(clips(), None), now(clips()))
        model.mask_token.normal_()
        assert not torch.allclose(scorer(clips(), None), now(clips()))


def test_what_cannot_be_ranked_is_refused():
    for scorer in ("change", "motion"):
        with pytest.raises(ConfigError, match=f"mask.scorer: {scorer} compares moments"):
            made(config(scorer, frames=1, tubelet=1))
    one_step = config("change", frames=2)  # one token in time, though there are two frames
    with pytest.raises(ConfigError, match="model.frames"):
        made(one_step)
    assert made(config("motion", frames=2))
    without = PretrainConfig(
        model=ModelConfig(**TINY), mask=MaskConfig(scorer="student"), hpm=HPMConfig(enabled=False)
    )
    with pytest.raises(ConfigError, match="mask.scorer: student asks the loss predictor"):
        made(without)


@pytest.mark.parametrize("unit", ["tube", "token"])
@pytest.mark.parametrize("scorer", [name for name in SCORERS if name != "none"])
def test_every_scorer_ranks_what_is_masked(scorer, unit):
    settings = config(scorer, unit)
    model, ranks = made(settings)
    units = hpm.unit_count(GRID, unit)
    mask = hpm.draw_mask(ranks, clips(), ids(units), GRID, settings.mask, 0.5)
    assert mask.scores.shape == (2, units)
    assert mask.scores.isfinite().all() and (mask.scores.std(1) > 0).all()


# --- what the highest are taken of -------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(CHOICES), st.integers(8, 40), st.floats(0.1, 1.0), st.integers(0, 2**31))
def test_a_choice_is_the_literal_one_and_scores_stay_what_they_were(choice, units, share, seed):
    generator = torch.Generator().manual_seed(seed)
    grid = TokenGrid(1, 1, units)
    scores = torch.randn(2, units, generator=generator)
    shuffle_ids = hpm.random_shuffle_ids(2, units, generator)
    hide = MaskConfig(ratio=0.5, choice=choice)

    def scorer(video, shuffle_ids):
        return scores

    mask = hpm.draw_mask(scorer, torch.zeros(2, 1), shuffle_ids, grid, hide, share)
    masked = int(0.5 * units)
    hard = int(share * masked)
    if hard == 0:
        assert mask.scores is None
        return
    assert torch.equal(mask.scores, scores)
    for clip in range(2):
        order = sorted(range(units), key=lambda unit: -float(scores[clip, unit]))
        mean = sum(scores[clip].tolist()) / units
        deviation = math.sqrt(sum((v - mean) ** 2 for v in scores[clip].tolist()) / (units - 1))
        twice = [int(shuffle_ids[clip, int(shuffle_ids[clip, unit])]) for unit in range(units)]
        gumbel = [-math.log(-math.log((u + 0.5) / units)) for u in twice]
        by_choice = {
            "hardest": order,
            "easiest": order[::-1],
            "skip_hardest": order[units // 8 :] + order[: units // 8],
            "drawn": sorted(
                range(units),
                key=lambda unit: -((float(scores[clip, unit]) - mean) / deviation + gumbel[unit]),
            ),
        }
        chosen = by_choice[choice][:hard]
        rest = [u for u in shuffle_ids[clip].argsort(descending=True).tolist() if u not in chosen]
        assert mask.tubes[clip].tolist() == sorted(chosen + rest[: masked - hard])


def test_drawn_units_are_hard_ones_more_often_and_none_for_certain():
    scores = torch.tensor([[0.0, 0, 0, 0, 0, 0, 0, 2]]).expand(20000, 8)
    drawn = hpm.CHOICES["drawn"](scores, ids(8, 20000))
    often = torch.bincount(drawn.argmax(1), minlength=8) / 20000
    chances = ((scores[0] - scores[0].mean()) / scores[0].std()).softmax(0)
    assert (often - chances).abs().max() < 0.1
    assert 3 * float(often[:7].mean()) < often[7] < 0.95


def test_the_configuration_knows_the_choices():
    assert tuple(hpm.CHOICES) == CHOICES
    with pytest.raises(ConfigError, match=r"mask\.choice: 'best' is not one of hardest, easiest"):
        MaskConfig(choice="best")
