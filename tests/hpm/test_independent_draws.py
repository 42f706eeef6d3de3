"""What is drawn beside a random mask says nothing of which units the mask hides."""

import pytest
import torch

from videohpm import hpm
from videohpm.config import HPMConfig, MaskConfig, ModelConfig, PretrainConfig
from videohpm.grid import TokenGrid
from videohpm.hpm.masking import drawn_again, flags
from videohpm.hpm.scorers import NoiseScorer
from videohpm.models import MaskedAutoencoder

GRID = TokenGrid(4, 10, 10)
CLIPS = 64


def ids(units):
    return hpm.random_shuffle_ids(CLIPS, units, torch.Generator().manual_seed(0))


@pytest.mark.parametrize("ratio", [0.75, 0.9])
def test_of_hard_tokens_as_many_are_reconstructed_as_of_random_ones(ratio):
    shuffle_ids = ids(GRID.num_tokens)
    scores = torch.randn(CLIPS, GRID.num_tokens, generator=torch.Generator().manual_seed(1))
    mask = hpm.hard_mask(scores, GRID, ratio, 0.5, shuffle_ids, "token")
    mask = hpm.subsample_decoded(mask, GRID, 0.5, shuffle_ids)
    decoded, hidden = flags(mask.decoded, GRID.num_tokens), mask.is_masked
    assert int(decoded.sum()) == int(hidden.sum()) // 2 and not (decoded & ~hidden).any()
    for part in (mask.chosen, hidden & ~mask.chosen):
        assert float((decoded & part).sum() / part.sum()) == pytest.approx(0.5, abs=0.015)


@pytest.mark.parametrize("unit", ["tube", "token"])
@pytest.mark.parametrize("ratio", [0.75, 0.9])
def test_what_is_hidden_at_random_does_not_follow_the_noise(unit, ratio):
    units = hpm.unit_count(GRID, unit)
    shuffle_ids = ids(units)
    field = NoiseScorer(GRID, unit)(torch.zeros(CLIPS, 1), shuffle_ids)
    mask = hpm.hard_mask(field, GRID, ratio, 0.5, shuffle_ids, unit)
    rest = ~mask.chosen
    random = mask.is_masked[:, :units] & rest
    apart = field[random].mean() - field[rest & ~random].mean()
    assert abs(float(apart / field[rest].std())) < 0.08


def test_powers_of_a_permutation_are_permutations():
    shuffle_ids = ids(50)
    for times in (2, 3, 4):
        found = drawn_again(shuffle_ids, times)
        for clip in range(3):
            p = shuffle_ids[clip].tolist()
            expected = list(range(50))
            for _ in range(times):
                expected = [p[i] for i in expected]
            assert found[clip].tolist() == expected


@pytest.mark.parametrize("scorer", ["student", "attention"])
def test_dropped_paths_are_no_part_of_a_score(scorer):
    tiny = {"arch": "vit_tiny", "frames": 4, "image_size": 16, "patch": 4, "dim": 24, "depth": 4,
            "heads": 2, "decoder_dim": 24, "decoder_depth": 1, "decoder_heads": 2}  # fmt: skip
    config = PretrainConfig(
        model=ModelConfig(**tiny, drop_path=0.5),
        mask=MaskConfig(scorer=scorer),
        hpm=HPMConfig(teacher_samples_per_tube=0),
    )
    torch.manual_seed(0)
    model = MaskedAutoencoder(config.model_config()).train()
    ask = hpm.SCORERS[scorer](model, config)
    clips, shuffle_ids = torch.randn(2, 3, 4, 16, 16), ids(16)[:2]
    with torch.no_grad():
        first = ask(clips, shuffle_ids)
        assert all(torch.equal(first, ask(clips, shuffle_ids)) for _ in range(4))
    assert all(module.training for module in model.modules())
