"""The experiment's own machinery, on a few small clips; what comes out of it is not judged here."""

import json
from dataclasses import replace

import pytest
import torch

from videohpm import hpm
from videohpm.grid import TokenGrid


@pytest.fixture(scope="module")
def tools(benchmarks_on_path):
    import evidence
    import evidence_arms
    import evidence_judge
    import evidence_table
    import evidence_train

    return {
        "run": evidence,
        "arms": evidence_arms,
        "judge": evidence_judge,
        "table": evidence_table,
        "train": evidence_train,
    }


@pytest.fixture(scope="module")
def data(tools, tmp_path_factory):
    return tools["train"].load_clips(tmp_path_factory.mktemp("shapes") / "clips", 64, 32, 1.75)


TINY = ["--steps", "4", "--batch", "8", "--train", "64", "--validation", "32",
        "--probe-clips", "64", "--tune-steps", "2", "--device", "cpu"]  # fmt: skip


@pytest.fixture(scope="module")
def results(tools, tmp_path_factory):
    """Two arms and the untrained one, two seeds."""
    place = tmp_path_factory.mktemp("evidence")
    command = [*TINY, "--seeds", "0", "1", "--arms", "random", "published",
               "--data", str(place / "clips"), "--out", str(place / "out"),
               "--weights", str(place / "weights")]  # fmt: skip
    tools["run"].main(command)
    return place / "out", command


def test_every_run_has_a_file_and_is_not_done_again(tools, results, monkeypatch):
    folder, command = results
    names = {
        f"{arm}-{seed}.json" for arm in ("untrained", "random", "published") for seed in (0, 1)
    }
    assert {file.name for file in folder.glob("*.json")} == names
    assert not list(folder.glob("*.running"))
    monkeypatch.setattr(tools["run"], "run", lambda *_: pytest.fail("done again"))
    tools["run"].main(command)
    (folder / "random-0.json").unlink()
    (folder / "random-0.running").touch()  # another process is at it
    tools["run"].main(command)


def test_kept_weights_are_judged_as_before(tools, results, monkeypatch):
    folder, command = results
    file = folder / "published-1.json"
    before = json.loads(file.read_text())
    file.unlink()
    monkeypatch.setattr(tools["run"], "train", lambda *_: pytest.fail("trained again"))
    tools["run"].main(command)
    after = json.loads(file.read_text())
    for part in ("top1", "diagnostics", "curve", "settings"):
        assert after[part] == before[part]


def test_the_table_is_that_of_the_files(tools, results):
    folder, _ = results
    file = folder / "published-0.json"
    result = json.loads(file.read_text())
    told = result | {"top1": dict.fromkeys(result["top1"], 71.25)}
    file.write_text(json.dumps(told))
    (folder / "published-1.json").unlink(missing_ok=True)
    assert "| published | 1 | " + " | ".join(["71.2"] * len(told["top1"])) in tools["table"].tables(
        folder
    )
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_differences_are_paired_by_seed(tools):
    assert tools["table"].paired([1.0, 3.0]) == "+2.0 ± 12.7 (0.30)"  # t = 2, one degree of freedom
    assert tools["table"].paired([1.5]) == "+1.5"
    assert tools["table"].paired([1.0, 1.001, 1.002]).endswith(" (<0.01)")


def test_the_short_table_compares_with_the_control_and_with_hpm(tools, tmp_path):
    top1 = {  # of two seeds; "token" is what "hard-token" is compared with
        "random": (10, 20), "hpm": (11, 23), "token": (30, 30), "hard-token": (34, 38),
    }  # fmt: skip
    for arm, values in top1.items():
        for seed, value in enumerate(values):
            result = {
                "arm": arm, "seed": seed, "curve": [],
                "top1": {"linear shape": value, "linear both": value + 2},
                "diagnostics": {"clips with the object hidden": 0.25},
                "seconds": {"training": 60.0 + seed, "judging": 1.0},
            }  # fmt: skip
            (tmp_path / f"{arm}-{seed}.json").write_text(json.dumps(result))
    rows = {line.split(" | ")[0][2:]: line for line in
            tools["table"].summary(tmp_path).splitlines()}  # fmt: skip
    paired = tools["table"].paired
    against = {
        "random": ("", paired([-1, -3])),
        "hpm": (paired([1, 3]), ""),
        "token": (paired([20, 10]), paired([19, 7])),
        "hard-token": (paired([4, 8]), paired([23, 15])),
    }
    for arm, (control, usual) in against.items():
        assert f" | {control} | {usual} | 25 % | 60 |" in rows[arm]
    assert rows["random"].startswith("| random | 2 | 17.0 ± 7.1 | ")


@pytest.mark.parametrize("name", ["evidence", "evidence-small", "evidence-image"])
def test_the_tables_shown_are_those_of_the_kept_files(tools, name):
    place = tools["run"].RESULTS
    assert tools["table"].summary(place / name) in (place.parent / "README.md").read_text()
    assert tools["table"].tables(place / name) == (place / name / "README.md").read_text()


def test_the_quick_comparison_leaves_the_untrained_out(tools, monkeypatch, tmp_path):
    done = []
    monkeypatch.setattr(tools["run"], "load_clips", lambda *_: True)
    monkeypatch.setattr(
        tools["run"], "run", lambda name, seed, *_: done.append((name, seed)) or {"arm": name}
    )
    monkeypatch.setattr(tools["run"], "tables", lambda _: "")
    monkeypatch.setattr(tools["run"], "draw_curves", lambda _: None)
    tools["run"].main(["--quick", "--seeds", "0", "--out", str(tmp_path)])
    assert done == [("random", 0), ("hpm", 0)]
    tools["run"].main(["--seeds", "0", "--arms", "random", "easy", "--out", str(tmp_path)])
    assert done[2:] == [("untrained", 0), ("easy", 0)]


def test_arms_of_a_seed_begin_alike_and_see_the_same_clips(tools, data):
    train, arms = tools["train"], tools["arms"].ARMS
    common = train.common_config(4, 8, False, "cpu")
    models, batches = [], []
    for name in ("random", "hpm", "published", "noise", "token"):
        models.append(train.train(arms[name], common, data["train"], 3, 0).model)
        config = arms[name].config(common)
        batches.append(train.make_batch(data["train"], config, arms[name], 3, 9))
    for model in models[1:]:
        for part in ("encoder", "decoder"):
            ours, theirs = (getattr(m, part).state_dict() for m in (models[0], model))
            assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert all(torch.equal(b.clips, batches[0].clips) for b in batches)
    assert torch.equal(batches[0].shuffle_ids, batches[1].shuffle_ids)
    assert not torch.equal(batches[0].shuffle_ids, batches[3].shuffle_ids)


def test_crops_are_whole_clips_or_seven_eighths_of_them(tools):
    ramp = torch.arange(64).mul(2).expand(40, 3, 2, 64, 64).to(torch.uint8)
    found = tools["train"].cropped(ramp, torch.Generator().manual_seed(0))
    assert found.dtype == torch.uint8 and found.shape == ramp.shape
    spans = (found[..., -1].int() - found[..., 0].int()).flatten(1)
    assert all(len(span.unique()) == 1 for span in spans)  # one crop for all frames of a clip
    assert {int(span[0]) for span in spans} <= {126, 110, 111, 109}
    whole = spans[:, 0] == 126
    assert 8 < int(whole.sum()) < 32
    assert torch.equal(found[whole], ramp[whole])
    assert len({int(c[0, 0, 0, 0]) for c in found[~whole]}) > 3  # at different places


def test_every_arm_is_a_valid_configuration_and_trains(tools, data):
    train = tools["train"]
    for name, arm in tools["arms"].ARMS.items():
        common = train.common_config(2, 4, False, "cpu")
        small = replace(common, model=replace(common.model, dim=24, decoder_dim=24, depth=1))
        curve = train.train(arm, small, data["train"], 0, 1).curve
        assert curve[-1]["loss"] > 0, name
        assert ("predictor_loss" in curve[-1]) == arm.config(small).hpm.enabled


def test_the_easy_teacher_hides_what_the_other_would_not(tools, data):
    train, arms = tools["train"], tools["arms"]
    common = train.common_config(2, 4, False, "cpu")
    model = train.train(arms.ARMS["hpm"], common, data["train"], 0, 1).model
    clips = torch.randn(2, 3, 8, 64, 64)
    ours = hpm.LossTeacher(model, 1)
    easy = arms.ARMS["easy"].scorer(ours, model)
    assert torch.equal(easy(clips), -ours(clips))


def test_progress_is_what_the_slow_copy_finds_harder_than_the_student(tools, data):
    train, arms = tools["train"], tools["arms"]
    common = train.common_config(2, 4, False, "cpu")
    model, teacher = train.make_models(common)
    scorer = train.make_scorer(arms.ARMS["progress"], model, teacher)
    clips = torch.randn(3, 3, 8, 64, 64)
    assert torch.equal(scorer(clips), torch.zeros(3, 64))  # both are the student still
    before = hpm.LossTeacher(model, 1)(clips)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn(weight.shape), alpha=0.05)
    scorer.after_step(model, 1.0)
    now = hpm.LossTeacher(model, 1)(clips)
    for told, slow, fast in zip(scorer(clips), before, now, strict=True):
        expected = (slow - slow.mean()) / slow.std() - (fast - fast.mean()) / fast.std()
        torch.testing.assert_close(told, expected)
    assert told.abs().max() > 0.1


def test_noise_hides_neighbours_together(tools):
    grid = TokenGrid.of_clip(8, 64, 64, 2, 8)
    generator = torch.Generator().manual_seed(0)

    def like_right_neighbour(shuffle_ids):
        hidden = hpm.random_mask(grid, 0.5, shuffle_ids).tubes
        flags = torch.zeros(len(shuffle_ids), grid.num_tubes).scatter(1, hidden, 1.0).view(-1, 8, 8)
        return float((flags == flags.roll(1, 2)).float().mean())

    noise = tools["arms"].noise_shuffle_ids(200, grid, generator)
    assert torch.equal(noise.sort(1).values, torch.arange(64).expand(200, -1))
    assert like_right_neighbour(noise) > 0.65
    assert abs(like_right_neighbour(hpm.random_shuffle_ids(200, 64, generator)) - 0.5) < 0.02
    share = torch.zeros(64).index_add(0, noise.argsort(1)[:, 32:].flatten(), torch.ones(200 * 32))
    assert share.min() > 60  # 100 times each, on average: no place is favoured


def test_cover_falls_on_the_tokens_of_the_object(tools, data):
    train, judge = tools["train"], tools["judge"]
    config = train.common_config(2, 4, False, "cpu")
    clips = data["validation"]
    rows = torch.arange(8)
    cover = judge.cover_per_token(clips, rows, config).view(8, 4, 8, 8)
    pixels = clips.cover[rows][:, ::2].repeat_interleave(4, 2).repeat_interleave(4, 3)
    for row in range(8):
        for t in range(4):
            for i in range(8):
                for j in range(8):
                    block = pixels[row, 2 * t : 2 * t + 2, 8 * i : 8 * i + 8, 8 * j : 8 * j + 8]
                    assert cover[row, t, i, j] == pytest.approx(float(block.mean()), abs=1e-5)


class Knows(torch.nn.Module):
    """A scorer that returns what it is given."""

    def __init__(self, scores):
        super().__init__()
        self.scores = scores

    def forward(self, clips):
        return self.scores


def test_what_is_left_of_the_object_is_what_the_last_masks_leave(tools, data):
    judge, arm = tools["judge"], tools["arms"].ARMS["all"]
    config = arm.config(tools["train"].common_config(2, 4, False, "cpu"))
    clips, rows = data["validation"], torch.arange(4)
    cover = judge.cover_per_token(clips, rows, config)
    tubes = cover.view(4, 4, 64).mean(1)
    trained = tools["train"].Trained(None, None, Knows(tubes), [], 0.0)
    seen = judge.first_frames(clips, rows, config)
    told = judge.object_left(trained, arm, seen, cover, config)
    by_hand = [
        1 - float(cover[i].view(4, 64)[:, tubes[i].topk(48).indices].sum() / cover[i].sum())
        for i in range(4)
    ]
    assert told["object visible at the end"] == pytest.approx(sum(by_hand) / 4, abs=1e-5)
    hidden = sum(share < 0.05 for share in by_hand) / 4
    assert told["clips with the object hidden"] == pytest.approx(hidden)


def test_both_are_named_where_shape_and_motion_are(tools):
    right = {
        "shape": torch.tensor([True, True, False, False]),
        "motion": torch.tensor([True, False, True, True]),
    }
    assert tools["judge"].shares("knn", right) == {
        "knn shape": 50.0, "knn motion": 75.0, "knn both": 25.0
    }  # fmt: skip
    assert tools["judge"].shares("knn", {"shape": right["shape"]}) == {"knn shape": 50.0}


def test_labels_are_shapes_and_motions(data):
    labels = data["validation"].labels
    assert labels["both"].tolist() == list(range(32))
    assert labels["shape"].tolist() == [i // 8 for i in range(32)]
    assert labels["motion"].tolist() == [i % 8 for i in range(32)]


def test_lift_is_the_mean_over_the_hardest_quarter(tools):
    values = torch.tensor([[4.0, 1, 1, 2], [0, 0, 2, 6]])
    scores = torch.tensor([[0.1, 0.5, 0.2, 0.3], [0, 1, 2, 3.0]])
    assert tools["judge"].lift(values, scores) == pytest.approx(((1 + 6) / 2) / 2)


def test_true_hardness_equals_a_loop(tools, data):
    train, judge = tools["train"], tools["judge"]
    common = train.common_config(2, 4, False, "cpu")
    model = train.train(tools["arms"].ARMS["random"], common, data["train"], 0, 1).model
    clips = judge.first_frames(data["validation"], torch.arange(2), common)
    with torch.no_grad():
        generator = torch.Generator().manual_seed(0)
        target = hpm.PixelTarget(model.grid, model.target, common.data.mean, common.data.std)
        found = judge.true_hardness(model, clips, 5, 0.75, target, generator)
        generator.manual_seed(0)
        losses = [[[] for _ in range(64)] for _ in range(2)]
        for _ in range(5):
            shuffle_ids = hpm.random_shuffle_ids(2, 64, generator)
            mask = hpm.random_mask(model.grid, 0.75, shuffle_ids)
            out = model(clips, mask).pixels
            targets = model.grid.patchify(clips, mask.masked)
            tokens = (out - targets).square().mean(2)
            for b in range(2):
                for token, loss in zip(mask.masked[b].tolist(), tokens[b].tolist(), strict=True):
                    losses[b][token % 64].append(loss)
    expected = [[sum(x) / len(x) if x else 0 for x in row] for row in losses]
    torch.testing.assert_close(found, torch.tensor(expected), atol=1e-4, rtol=1e-4)


def test_drawn_tubes_are_hard_ones_more_often_and_none_for_certain(tools, monkeypatch):
    scores = torch.tensor([[0.0, 0, 0, 0, 0, 0, 0, 2]]).expand(4000, 8)
    train, arms = tools["train"], tools["arms"].ARMS
    common = train.common_config(2, 4, False, "cpu")

    def told(name):
        model, teacher = train.make_models(arms[name].config(common))
        monkeypatch.setattr(teacher.model, "score", lambda *_: scores)
        return train.make_scorer(arms[name], model, teacher)(None)

    torch.manual_seed(0)
    counts = torch.bincount(told("soft").argmax(1), minlength=8) / 4000
    chances = ((scores[0] - scores[0].mean()) / scores[0].std()).softmax(0)
    assert torch.allclose(counts, chances, atol=0.03)
    assert torch.equal(told("hpm"), scores)
    assert torch.equal(told("easy"), -scores)
    assert told("sparing")[0].tolist() == [0.0] * 7 + [float("-inf")]
