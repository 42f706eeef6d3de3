"""The teacher follows, looks at what it should, and says what the student would."""

import itertools

import pytest
import torch

from videohpm.grid import TokenGrid
from videohpm.hpm import LossTeacher
from videohpm.models import MaskedAutoencoder

MICRO = {
    "frames": 8, "image_size": 32, "patch": 8, "dim": 24, "depth": 1, "heads": 2,
    "decoder_dim": 16, "decoder_depth": 1, "decoder_heads": 2,
}  # fmt: skip


def micro(**changes) -> MaskedAutoencoder:
    torch.manual_seed(0)
    return MaskedAutoencoder.create("vit_tiny", **(MICRO | changes))


def test_update_is_the_moving_average_of_every_weight():
    student = micro()
    teacher = LossTeacher(student)
    before = {name: value.clone() for name, value in teacher.model.named_parameters()}
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(torch.randn_like(parameter))
    teacher.update(student, 0.9)
    theirs = dict(student.named_parameters())
    for name, value in teacher.model.named_parameters():
        expected = 0.9 * before[name] + 0.1 * theirs[name]
        torch.testing.assert_close(value, expected, atol=1e-6, rtol=1e-5)
    assert not any(name.startswith("decoder.") for name in before)
    assert {n.split(".")[0] for n in before} == {
        "encoder", "decoder_embed", "mask_token", "predictor",
    }  # fmt: skip


def test_a_bf16_student_does_not_round_the_average_away():
    student = micro().bfloat16()
    teacher = LossTeacher(student)
    start = teacher.model.mask_token.clone()
    with torch.no_grad():
        student.mask_token.add_(1.0)
    for _ in range(10):
        teacher.update(student, 0.9999)
    moved = (teacher.model.mask_token - start).mean().item()
    assert teacher.model.mask_token.dtype == torch.float32
    assert moved == pytest.approx(1 - 0.9999**10, rel=0.02)


def test_distance_is_zero_at_first_and_then_the_relative_norm():
    student = micro()
    teacher = LossTeacher(student)
    assert teacher.distance(student).item() == 0
    with torch.no_grad():
        for parameter in teacher.model.parameters():
            parameter.zero_()
    assert teacher.distance(student).item() == pytest.approx(1.0)


@pytest.mark.parametrize(("t", "count"), [(8, 1), (8, 2), (8, 3), (4, 1), (2, 1), (5, 5), (1, 1)])
def test_each_tube_is_looked_at_equally_often_and_each_step_somewhere(t, count):
    grid = TokenGrid(t, 14, 14)
    looks = grid.staggered_tokens(count)
    assert len(looks.unique()) == len(looks) == count * grid.num_tubes
    assert torch.equal(looks.view(count, -1) % grid.num_tubes, torch.arange(196).expand(count, -1))
    for neighbourhood in (looks // grid.num_tubes).view(count, 14, 14)[:, 3:5, 3:11].flatten(1):
        assert set(neighbourhood.tolist()) == set(range(t))


@pytest.mark.parametrize("t", [1, 2, 8])
@pytest.mark.parametrize(("h", "w"), [(14, 14), (8, 8), (3, 7), (5, 2)])
@pytest.mark.parametrize(
    ("samples", "hits", "of", "shift"),
    [
        (0.75, 1, 4, 2),
        (0.67, 1, 3, 1),
        (0.5, 1, 2, 1),
        (1 / 3, 1, 3, 1),
        (0.3, 3, 10, 8),
        (2 / 7, 2, 7, 5),
        (0.25, 1, 4, 2),
        (0.2, 1, 5, 2),
    ],
)
def test_of_a_part_of_the_tubes_each_is_seen_once_in_a_lattice(t, h, w, samples, hits, of, shift):
    grid = TokenGrid(t, h, w)
    looks = grid.staggered_tokens(samples)
    tubes, steps = looks % grid.num_tubes, looks // grid.num_tubes
    assert len(tubes.unique()) == len(tubes)
    expected = []
    for row, column in itertools.product(range(h), range(w)):
        on_lattice = (column + row * shift) * hits % of < hits
        if on_lattice == (samples <= 0.5):
            expected.append(row * w + column)
    assert tubes.tolist() == expected
    if len(tubes) > 40:
        assert set(steps.tolist()) == set(range(t))


@pytest.mark.parametrize("samples", [0.001, 0.024, 0.05])
def test_a_share_near_nothing_or_all_is_a_twentieth(samples):
    few = TokenGrid(1, 14, 14).staggered_tokens(samples)
    assert few.tolist() == TokenGrid(1, 14, 14).staggered_tokens(0.05).tolist()
    assert 8 <= len(few) <= 12
    most = TokenGrid(1, 14, 14).staggered_tokens(1 - samples)
    assert sorted(few.tolist() + most.tolist()) == list(range(196))


@pytest.mark.parametrize("samples", [0.5, 1 / 3, 0.25, 0.2])
def test_a_tube_that_is_not_seen_lies_beside_one_that_is(samples):
    seen = torch.zeros(196).scatter(0, TokenGrid(1, 14, 14).staggered_tokens(samples), 1.0)
    around = torch.nn.functional.max_pool2d(seen.view(1, 1, 14, 14), 3, 1, 1)
    assert around[..., 1:-1, 1:-1].min() == 1


def test_half_of_the_tubes_is_a_chessboard():
    seen = torch.zeros(36).scatter(0, TokenGrid(1, 6, 6).staggered_tokens(0.5), 1.0).view(6, 6)
    for row, column in itertools.product(range(6), range(6)):
        assert seen[row, column] == ((row + column) % 2 == 0)


@pytest.mark.parametrize("unit", ["tube", "token"])
def test_a_teacher_that_sees_half_of_the_patches_scores_all_and_looks_at_no_other(unit):
    model = micro(predictor_unit=unit, frames=1, tubelet=1)
    teacher = LossTeacher(model, steps=0.5)
    clips = torch.randn(2, 3, 1, 32, 32)
    scores = teacher(clips)
    assert scores.shape == (2, 16)
    seen = model.grid.staggered_tokens(0.5)
    assert len(seen) == 8
    tokens = torch.randn(2, 16, model.grid.patch_dim)
    tokens[:, seen] = model.grid.patchify(clips)[:, seen]
    torch.testing.assert_close(teacher(model.grid.unpatchify(tokens)), scores)
    with pytest.raises(ValueError, match="score_readout: visible has no score"):
        LossTeacher(model, steps=0.5, read="visible")


@pytest.mark.parametrize("read", ["query", "visible"])
def test_a_thinned_teacher_sees_only_where_it_looks(read):
    model = micro()
    teacher = LossTeacher(model, steps=2, read=read)
    clips = torch.randn(2, 3, 8, 32, 32)
    scores = teacher(clips)
    assert scores.shape == (2, 16)
    seen = model.grid.staggered_tokens(2)
    tokens = torch.randn(2, model.grid.num_tokens, model.grid.patch_dim)
    tokens[:, seen] = model.grid.patchify(clips)[:, seen]
    torch.testing.assert_close(teacher(model.grid.unpatchify(tokens)), scores)
    tokens[:, seen[0]] += 1
    assert not torch.allclose(teacher(model.grid.unpatchify(tokens)), scores)


def test_token_and_tube_level_are_one_in_image_mode():
    image = {"frames": 1, "tubelet": 1}
    tube, token = micro(predictor_unit="tube", **image), micro(predictor_unit="token", **image)
    token.load_state_dict(tube.state_dict())
    clips = torch.randn(2, 3, 1, 32, 32)
    for read in ("query", "visible"):
        for steps in (None, 2):
            one, other = (LossTeacher(m, steps, read)(clips) for m in (tube, token))
            torch.testing.assert_close(one, other)


def test_the_published_read_scores_visible_tokens_without_any_query():
    model = micro(predictor_unit="token")
    clips = torch.randn(2, 3, 8, 32, 32)
    scores = LossTeacher(model, read="visible")(clips)
    with torch.no_grad():
        model.mask_token.normal_()
    torch.testing.assert_close(LossTeacher(model, read="visible")(clips), scores)
    assert not torch.allclose(LossTeacher(model, read="query")(clips), scores)


def test_a_student_without_predictor_has_no_teacher():
    with pytest.raises(ValueError, match="predictor"):
        LossTeacher(micro(predictor_unit=None))


def test_what_a_teacher_reads_of_its_parts_by_itself_is_declared():
    """Beyond what its modules own, an engine that divides weights has to gather these."""
    teacher = LossTeacher(micro())
    owned_by_callers = {id(p) for p in teacher.model.parameters(recurse=False)}
    assert {id(p) for p in teacher.external_parameters} == owned_by_callers
