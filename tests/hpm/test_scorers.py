"""One way to draw a mask, whatever ranks the tubes."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from videohpm import hpm
from videohpm.config import HPMConfig, MaskConfig, ModelConfig, PretrainConfig
from videohpm.config.mask import SCORERS
from videohpm.grid import TokenGrid
from videohpm.models import MaskedAutoencoder

GRID = TokenGrid(4, 3, 4, tubelet=1, patch=2)
MODEL = ModelConfig(
    arch="vit_tiny", frames=4, image_size=16, patch=8, dim=12, depth=1, heads=2,
    decoder_dim=12, decoder_depth=1, decoder_heads=2,
)  # fmt: skip


class Fixed:
    """Returns scores it was given, and counts its calls."""

    def __init__(self, scores):
        self.scores, self.calls = scores, 0

    def __call__(self, clips, shuffle_ids):
        self.calls += 1
        return self.scores

    def after_step(self, student, momentum):
        raise AssertionError("no step was made")


def equal(one: hpm.Mask, other: hpm.Mask) -> bool:
    parts = zip(vars(one).values(), vars(other).values(), strict=True)
    return all(a is b is None or torch.equal(a, b) for a, b in parts)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["tube", "token"]),
    st.floats(0.2, 0.9),
    st.floats(0, 1),
    st.sampled_from([0.25, 0.5, 1.0]),
    st.booleans(),
    st.integers(0, 2**31),
)
def test_it_is_the_hard_mask_of_the_scores_and_the_decoded_part_of_it(
    unit, ratio, hard_ratio, decode_ratio, decode_all, seed
):
    generator = torch.Generator().manual_seed(seed)
    units = hpm.unit_count(GRID, unit)
    scores = torch.randn(2, units, generator=generator)
    shuffle_ids = hpm.random_shuffle_ids(2, units, generator)
    config = MaskConfig(ratio=ratio, unit=unit, decode_ratio=decode_ratio)
    clips, scorer = torch.zeros(2, 3, 4, 6, 8), Fixed(scores)
    drawn = hpm.draw_mask(
        scorer, clips, shuffle_ids, GRID, config, hard_ratio, decode_all=decode_all
    )
    expected = hpm.hard_mask(scores, GRID, ratio, hard_ratio, shuffle_ids, unit)
    if not decode_all:
        expected = hpm.subsample_decoded(expected, GRID, decode_ratio, shuffle_ids)
    assert equal(drawn, expected)
    assert scorer.calls == (int(hard_ratio * int(ratio * units)) > 0)


def test_without_a_scorer_all_is_random():
    shuffle_ids = hpm.random_shuffle_ids(2, GRID.num_tubes)
    drawn = hpm.draw_mask(
        None, torch.zeros(2, 3, 4, 6, 8), shuffle_ids, GRID, MaskConfig(ratio=0.5), 1.0
    )
    assert equal(drawn, hpm.random_mask(GRID, 0.5, shuffle_ids))


def student(config: PretrainConfig) -> MaskedAutoencoder:
    torch.manual_seed(0)
    return MaskedAutoencoder(config.model_config())


def test_the_loss_teacher_is_configured_and_follows_after_each_step():
    config = PretrainConfig(
        model=MODEL, hpm=HPMConfig(teacher_samples_per_tube=2, score_readout="visible")
    )
    model = student(config)
    teacher = hpm.SCORERS["loss_teacher"](model, config)
    assert isinstance(teacher, hpm.LossTeacher) and (teacher.steps, teacher.read) == (2, "visible")
    before = teacher.model.mask_token.clone()
    with torch.no_grad():
        model.mask_token.add_(1.0)
    teacher.after_step(model, 0.75)
    torch.testing.assert_close(teacher.model.mask_token, before + 0.25)
    seen_whole = PretrainConfig(model=MODEL, hpm=HPMConfig(teacher_samples_per_tube=0))
    assert hpm.SCORERS["loss_teacher"](model, seen_whole).steps is None


@pytest.mark.parametrize(
    ("scorer", "enabled", "expected"),
    [
        ("loss_teacher", True, "loss_teacher"),
        ("loss_teacher", False, "none"),  # VideoMAE
        ("none", True, "none"),  # the auxiliary loss alone
        ("none", False, "none"),
    ],
)
def test_there_is_no_teacher_without_a_predictor(scorer, enabled, expected):
    config = PretrainConfig(
        model=MODEL, mask=MaskConfig(scorer=scorer), hpm=HPMConfig(enabled=enabled)
    )
    assert config.scorer == expected
    assert (student(config).predictor is not None) == enabled
    assert (hpm.SCORERS[config.scorer](student(config), config) is None) == (expected == "none")


def test_the_configuration_knows_the_scorers():
    assert tuple(hpm.SCORERS) == SCORERS


def test_a_scorer_that_does_not_exist_is_refused():
    with pytest.raises(
        ValueError, match=r"mask\.scorer: 'guess' is not one of loss_teacher, student"
    ):
        MaskConfig(scorer="guess")


def steps_of(scorer, parts):
    """Centered scores of each step, whose batches are scored by turns."""
    found = []
    for batches in parts:
        found.append([])
        for batch in batches:
            scorer.scorer.scores = batch
            found[-1].append(scorer(torch.zeros(len(batch), 3, 4, 6, 8), None))
        scorer.after_step(torch.nn.Identity(), 0.9)
    return found


class Following(Fixed):
    def after_step(self, student, momentum):
        self.followed = momentum


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 4), st.integers(1, 3), st.floats(0, 0.99), st.integers(0, 2**31))
def test_the_center_is_the_literal_running_mean_of_global_batches(steps, micro, momentum, seed):
    generator = torch.Generator().manual_seed(seed)
    parts = [[torch.randn(3, 5, generator=generator) for _ in range(micro)] for _ in range(steps)]
    scorer = hpm.CenteredScorer(Following(None), momentum)
    found = steps_of(scorer, parts)
    center = None
    for batches, scores in zip(parts, found, strict=True):
        for batch, centered in zip(batches, scores, strict=True):
            for clip, row in zip(batch.tolist(), centered.tolist(), strict=True):
                expected = [v - (center[i] if center else 0) for i, v in enumerate(clip)]
                assert row == pytest.approx(expected, abs=1e-5)
        clips = [clip for batch in batches for clip in batch.tolist()]
        mean = [sum(column) / len(clips) for column in zip(*clips, strict=True)]
        if center is None:
            center = mean
        else:
            center = [momentum * c + (1 - momentum) * m for c, m in zip(center, mean, strict=True)]
    assert scorer.center.tolist() == pytest.approx(center, abs=1e-5)
    assert scorer.scorer.followed == 0.9


def test_scores_for_pictures_do_not_move_the_center():
    scorer = hpm.CenteredScorer(Following(torch.ones(2, 5)))
    scorer.eval()(torch.zeros(2, 3, 4, 6, 8), None)
    scorer.train().after_step(torch.nn.Identity(), 0.9)
    assert scorer.center is None


def test_a_map_that_all_clips_share_is_gone_once_the_scores_are_centered():
    generator = torch.Generator().manual_seed(0)
    fixed = 10 * torch.randn(12, generator=generator)
    parts = [[fixed + torch.randn(64, 12, generator=generator)] for _ in range(20)]
    ((centered,), *_) = reversed(steps_of(hpm.CenteredScorer(Following(None)), parts))
    plain, mining = (hpm.MiningStatistics(12) for _ in range(2))
    plain.chosen.update(parts[-1][0])
    mining.chosen.update(centered)
    assert hpm.mining_metrics(plain.sums())["position_share"] > 0.9
    assert abs(hpm.mining_metrics(mining.sums())["position_share"]) < 0.1
