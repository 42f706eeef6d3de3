"""One sentence of the report: does the teacher mine?"""

import pytest

from videohpm.report.verdict import mining_verdict

MINING = {
    "position_share": 0.4, "true_position_share": 0.2, "choice_overlap": 0.3,
    "teacher_rank_correlation": 0.8, "beyond_position": 0.6,
}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "the teacher mines: position explains 40% of its ranking, 20% of the true one"),
        ({"position_share": 0.995, "true_position_share": 0.9}, "the same positions in every clip"),
        ({"position_share": 0.6, "true_position_share": 0.2}, "the same positions in every clip"),
        ({"position_share": 0.6, "true_position_share": 0.5}, "the teacher mines"),
        ({"position_share": 0.95, "true_position_share": None}, "the same positions"),
        ({"teacher_rank_correlation": 0.05}, "hardly knows what is hard"),
    ],
)
def test_the_sentence_follows_the_numbers(changes, said):
    assert said in mining_verdict([MINING | changes])


def test_causes_and_numbers_are_named():
    verdict = mining_verdict([MINING | {"position_share": 0.99}])
    for part in ("99%", "20%", "30%", "0.80", "0.60", "hpm.ema_horizon_start", "hpm.momentum_"):
        assert part in verdict


def test_without_a_teacher_there_is_nothing_to_say():
    assert mining_verdict([]) is None
    assert mining_verdict([{"loss": 1.0, "true_position_share": 0.3}]) is None
    assert mining_verdict([{"position_share": None, "teacher_rank_correlation": None}]) is None


def test_the_last_logged_steps_count_and_one_alone_decides_nothing():
    early = [MINING | {"position_share": 0.99}] * 20
    assert "mines" in mining_verdict([*early, *[MINING] * 5])
    assert "mines" in mining_verdict([*[MINING] * 4, MINING | {"position_share": 0.6}])
