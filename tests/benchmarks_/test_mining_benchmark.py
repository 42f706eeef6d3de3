"""benchmarks/mining.py and teacher.py: their numbers are those of loops, and they read a run."""

import json
import math
import random
from dataclasses import replace

import pytest
import torch

from videohpm.config import (
    DataConfig,
    EngineConfig,
    HPMConfig,
    MaskConfig,
    ModelConfig,
    OptimConfig,
    PretrainConfig,
    RunConfig,
)
from videohpm.plan import flops_of
from videohpm.pretrain import pretrain


@pytest.fixture(scope="module")
def mining(benchmarks_on_path):
    import mining

    return mining


def made(clips: int, tubes: int, seed: int, place: float) -> list[list[float]]:
    """Scores of which a part, ``place``, is the same in every clip."""
    draw = random.Random(seed)
    map_ = [draw.gauss(0, 1) for _ in range(tubes)]
    return [[place * value + draw.gauss(0, 1) for value in map_] for _ in range(clips)]


def loop_ranks(rows: list[list[float]]) -> list[list[int]]:
    """How many of the clip are lower; no ties here."""
    return [[sum(other < value for other in row) for value in row] for row in rows]


def mean(values) -> float:
    values = list(values)
    return sum(values) / len(values)


def correlation(a: list[float], b: list[float]) -> float:
    a, b = ([v - mean(x) for v in x] for x in (a, b))
    return sum(map(math.prod, zip(a, b, strict=True))) / math.sqrt(
        sum(v * v for v in a) * sum(v * v for v in b)
    )


def loop_share(rows: list[list[float]]) -> float:
    """Random effects: variance between tubes, less what chance gives their means, over all."""
    ranks = loop_ranks(rows)
    clips, tubes = len(ranks), len(ranks[0])
    every = mean(mean(row) for row in ranks)
    columns = [[row[j] for row in ranks] for j in range(tubes)]
    total = sum((v - every) ** 2 for row in ranks for v in row)
    within = sum((v - mean(column)) ** 2 for column in columns for v in column)
    mean_square = within / (tubes * (clips - 1))
    return (total - within - (tubes - 1) * mean_square) / total


def loop_residuals(rows: list[list[float]]) -> list[float]:
    ranks = loop_ranks(rows)
    means = [mean(row[j] for row in ranks) for j in range(len(ranks[0]))]
    return [v - means[j] for row in ranks for j, v in enumerate(row)]


def loop_overlap(rows: list[list[float]]) -> float:
    """Over pairs of clips, how many of their two hardest are the same, beyond chance; 9 tubes."""
    hard = [{j for j, rank in enumerate(row) if rank >= 7} for row in loop_ranks(rows)]
    pairs = [(a, b) for i, a in enumerate(hard) for k, b in enumerate(hard) if i != k]
    shared, chance = mean(len(a & b) for a, b in pairs) / 9, (2 / 9) ** 2
    return (shared - chance) / (2 / 9 - chance)


@pytest.mark.parametrize("place", [0.0, 0.5, 2.0])
def test_the_numbers_are_those_of_loops(mining, place):
    first, second, scores = (made(7, 9, seed, place) for seed in (1, 2, 3))
    truth = [[(a + b) / 2 for a, b in zip(*rows, strict=True)]
             for rows in zip(first, second, strict=True)]  # fmt: skip
    scores = [[0.7 * a + b for a, b in zip(*rows, strict=True)]
              for rows in zip(truth, scores, strict=True)]  # fmt: skip
    halves = (torch.tensor(first), torch.tensor(second))
    found = mining.compare(halves, {"teacher": torch.tensor(scores)})

    def agreement(a, b) -> float:
        return mean(map(correlation, loop_ranks(a), loop_ranks(b)))

    assert found["teacher"] == pytest.approx(
        {
            "rank_correlation": agreement(scores, truth),
            "position_share": loop_share(scores),
            "choice_overlap": loop_overlap(scores),
            "beyond_position": correlation(loop_residuals(scores), loop_residuals(truth)),
        }
    )
    assert found["truth"]["rank_correlation"] == pytest.approx(agreement(first, second))
    assert found["truth"]["position_share"] == pytest.approx(loop_share(truth))
    assert found["truth"]["choice_overlap"] == pytest.approx(loop_overlap(truth))
    ranks = loop_ranks(truth)
    others = [[mean(ranks[k][j] for k in range(7) if k != i) for j in range(9)] for i in range(7)]
    told = mining.fixed_map(torch.tensor(truth))
    assert told.flatten().tolist() == pytest.approx([v for row in others for v in row])
    expected = float(mining.hpm.rank_correlation(torch.tensor(others), torch.tensor(truth)))
    assert found["fixed map"]["rank_correlation"] == pytest.approx(expected)


def test_the_same_order_everywhere_is_position_and_nothing_beyond(mining):
    same = torch.tensor([[0.3, 0.1, 0.2, 0.9]] * 5)
    other = torch.tensor(made(5, 4, 4, 0.0))
    assert mining.describe(same) == pytest.approx((1, 1))
    assert mining.beyond_position(same, other) == 0
    assert mining.beyond_position(other, other) == pytest.approx(1)
    assert mining.beyond_position(-other, other) == pytest.approx(-1)


@pytest.fixture(scope="module")
def run(shapes, tmp_path_factory):
    """Two steps of a tiny model."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    pretrain(
        PretrainConfig(
            run=RunConfig(dir=str(folder), steps=2, picture_every=0, save_every=0),
            data=DataConfig(root=str(shapes / "train"), workers=0, stride=2),
            model=ModelConfig(
                arch="vit_tiny", frames=8, image_size=64, patch=16, dim=32, depth=1, heads=2,
                decoder_dim=32, decoder_depth=1, decoder_heads=2, target="raw",
            ),
            mask=MaskConfig(ratio=0.75),
            hpm=HPMConfig(teacher_samples_per_tube=1),
            optim=OptimConfig(global_batch_size=8, base_lr=3e-2),
            engine=EngineConfig(device="cpu", precision="fp32"),
        )
    )  # fmt: skip
    return folder


def test_it_measures_a_run_and_keeps_what_it_prints(mining, run, shapes, tmp_path, capsys):
    file = tmp_path / "said.json"
    asked = [str(run), "--manifest", str(shapes / "validation.csv"), "--clips", "8"]
    assert mining.main([*asked, "--masks", "12", "--json", str(file)]) == 0
    printed = capsys.readouterr().out
    said = json.loads(file.read_text())
    assert said["clips"] == 8 and said["masks"] == 12 and said["ratio"] == 0.75
    assert list(said["rows"]) == ["truth", "teacher", "student", "fixed map"]
    for name, row in said["rows"].items():
        line = next(x for x in printed.splitlines() if x.startswith(name))
        assert line.removeprefix(name).split() == [
            f"{value:.3f}" for value in row.values() if value is not None
        ]
        assert all(-1 <= value <= 1 for value in row.values() if value is not None)
    assert said["rows"]["truth"]["rank_correlation"] > 0.3  # 6 masks say much the same as 6 others
    mining.main([*asked, "--masks", "12", "--json", str(file)])
    assert json.loads(file.read_text()) == said  # the same again


def test_a_mistake_is_one_line_and_exit_code_2(mining, run, shapes, tmp_path, capsys):
    clips = ["--root", str(shapes / "validation")]
    for asked, said in (
        ([str(run), *clips, "--clips", "1"], "--clips: 1 is too few"),
        ([str(run), *clips, "--masks", "1"], "--masks: 1"),
        ([str(tmp_path), *clips], str(tmp_path)),
    ):
        assert mining.main(asked) == 2
        error = capsys.readouterr().err
        assert said in error and len(error.splitlines()) == 1


# --- teacher.py: the same truth, asked of teachers that see less ------------------------------


@pytest.fixture(scope="module")
def sampling(mining):
    import teacher

    return teacher


def test_top_overlap_is_the_share_of_the_hardest_quarter_that_was_found(sampling):
    truth = torch.tensor([[8.0, 7, 6, 5, 4, 3, 2, 1], [1, 2, 3, 4, 5, 6, 7, 8]])
    scores = torch.tensor([[8.0, 1, 1, 1, 1, 1, 1, 7], [0, 0, 0, 0, 0, 0, 1, 2]])
    assert sampling.top_overlap(scores, truth) == pytest.approx((1 + 2) / 4)


def test_a_teachers_cost_is_over_a_step_without_mining(sampling):
    config = PretrainConfig(model=ModelConfig(arch="vit_small"))
    plain = flops_of(replace(config, hpm=HPMConfig(enabled=False)))["student"]
    costs = [sampling.cost(config, samples, "query") for samples in (0.25, 0.5, 1, 8)]
    assert costs == sorted(costs) and costs[0] < costs[2] / 2
    whole = replace(config, hpm=replace(config.hpm, teacher_samples_per_tube=8))
    assert costs[-1] == flops_of(whole)["scorer"] / plain


def test_teachers_that_see_less_are_compared_on_a_run(sampling, run, shapes, tmp_path, capsys):
    asked = ["--manifest", str(shapes / "validation.csv"), "--clips", "4", "--masks", "4"]
    assert sampling.main([str(run), *asked, "--json", str(tmp_path / "rows.json")]) == 0
    rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 1 + len(rows)
    assert {row["scores of"] for row in rows} == {"student", "teacher"}
    by_query = [row for row in rows if row["read at"] == "query"]
    assert {row["samples of a tube"] for row in by_query} >= {0.25, 0.5, 1, 2, 4}
    assert all(row["samples of a tube"] >= 1 for row in rows if row["read at"] == "visible")
    assert by_query[0]["samples of a tube"] == 4 and by_query[0]["of the whole"] == 1
    assert sampling.main([str(tmp_path / "no-run"), *asked]) == 2
    assert capsys.readouterr().err.startswith("teacher.py: ")
