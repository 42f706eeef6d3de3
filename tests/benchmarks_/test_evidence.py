"""The experiment's own machinery, on a few small pictures; what comes of it is not judged here."""

import fcntl
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats

from videohpm import hpm
from videohpm.models import MaskedAutoencoder

TINY = ["--steps", "3", "--batch", "8", "--probe-clips", "48", "--tune-steps", "2",
        "--workers", "1", "--device", "cpu"]  # fmt: skip


@pytest.fixture(scope="module")
def tools(benchmarks_on_path):
    import evidence
    import evidence_arms
    import evidence_data
    import evidence_diagnose
    import evidence_judge
    import evidence_table
    import evidence_train

    return {
        "run": evidence,
        "arms": evidence_arms,
        "data": evidence_data,
        "diagnose": evidence_diagnose,
        "judge": evidence_judge,
        "table": evidence_table,
        "train": evidence_train,
    }


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Noise around a colour per class: 3 classes, 30 for training and 10 for the test of each."""
    place, random = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for kind, name in enumerate(("a", "b", "c")):
        for split, count in (("train", 30), ("test", 10)):
            folder = place / split / name
            folder.mkdir(parents=True)
            for index in range(count):
                picture = random.integers(0, 80, (32, 32, 3), np.uint8)
                picture[..., kind] += 120
                Image.fromarray(picture).save(folder / f"{index}.png")
    return place


@pytest.fixture(scope="module")
def images(tools, pictures):
    return tools["data"].load_pictures(pictures)


@pytest.fixture(scope="module")
def clips(tools, pictures, tmp_path_factory):
    place = tmp_path_factory.mktemp("moving") / "clips"
    return tools["data"].load_clips(place, 36, 36, pictures)


@pytest.fixture(scope="module")
def results(tools, pictures, tmp_path_factory):
    """Three arms and two seeds."""
    place = tmp_path_factory.mktemp("evidence")
    command = ["images", *TINY, "--seeds", "0-1", "--arms", "untrained", "random", "centred",
               "--pictures", str(pictures), "--out", str(place / "out"),
               "--weights", str(place / "weights")]  # fmt: skip
    assert tools["run"].main(command) == 0
    return place / "out", command


# --- the command --------------------------------------------------------------------------------


def test_every_run_has_a_file_and_is_not_done_again(tools, results, monkeypatch):
    folder, command = results
    names = {f"{arm}-{seed}.json" for arm in ("untrained", "random", "centred") for seed in (0, 1)}
    assert {file.name for file in (folder / "images").glob("*.json")} == names
    monkeypatch.setattr(tools["run"], "run", lambda *_: pytest.fail("done again"))
    tools["run"].main(command)
    (folder / "images/random-0.json").unlink()
    with open(folder / "images/random-0.lock") as held:  # another process is at it
        fcntl.flock(held, fcntl.LOCK_EX)
        tools["run"].main(command)
    with pytest.raises(pytest.fail.Exception, match="done again"):  # and has ended without it
        tools["run"].main(command)


def test_kept_weights_are_judged_as_before(tools, results, monkeypatch):
    folder, command = results
    file = folder / "images/centred-1.json"
    before = json.loads(file.read_text())
    file.unlink()
    monkeypatch.setattr(tools["run"], "train", lambda *_: pytest.fail("trained again"))
    (folder / "images/random-0.json").write_text("{}")  # not this test's
    monkeypatch.setattr(tools["run"], "write_tables", lambda _: "")
    tools["run"].main(command)
    (folder / "images/random-0.json").unlink()
    after = json.loads(file.read_text())
    for part in ("top1", "diagnostics", "curve", "settings"):
        assert after[part] == before[part]
    assert set(after["top1"]) == {"validation", "test"}
    assert set(after["top1"]["test"]) == {"linear class", "knn class", "fine-tuned class"}


def test_clips_of_moving_pictures_are_run_by_processes(tools, pictures, tmp_path):
    command = ["clips", *TINY, "--seeds", "4", "--arms", "change", "hpm", "--train", "36",
               "--validation", "36", "--pictures", str(pictures), "--data", str(tmp_path / "clips"),
               "--out", str(tmp_path / "out"), "--weights", str(tmp_path / "weights")]  # fmt: skip
    command[command.index("--workers") + 1] = "2"
    assert tools["run"].main(command) == 0
    results = [json.loads(p.read_text()) for p in sorted((tmp_path / "out/clips").glob("*.json"))]
    assert [result["arm"] for result in results] == ["change", "hpm"]
    assert set(results[1]["top1"]["test"]) == {
        f"{judge} {kind}" for judge in ("linear", "knn", "fine-tuned")
        for kind in ("class", "motion")
    }  # fmt: skip
    assert "clips with the object hidden" in results[1]["diagnostics"]
    assert (tmp_path / "out/README.md").read_text().count("| hpm |") == 2


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda place: None, "is not there; save pictures as train/CLASS"),
        (
            lambda place: (place / "train").mkdir(parents=True),
            "has no folder of pictures per class",
        ),
        (
            lambda place: [
                (place / "train/a").mkdir(parents=True),
                Image.new("RGB", (32, 32)).save(place / "train/a/0.png"),
                Image.new("RGB", (32, 30)).save(place / "train/a/1.png"),
            ],
            "1.png differs in size",
        ),
    ],
)
def test_wrong_pictures_are_one_line(tools, tmp_path, capsys, change, said):
    change(tmp_path / "p")
    command = ["images", *TINY, "--pictures", str(tmp_path / "p"), "--out", str(tmp_path / "o")]
    assert tools["run"].main(command) == 2
    error = capsys.readouterr().err
    assert said in error and error.startswith("evidence.py: --pictures: ") and "Trace" not in error


# --- the data -----------------------------------------------------------------------------------


def test_no_picture_is_in_two_splits(images):
    seen = [{picture.numpy().tobytes() for picture in images[name].frames}
            for name in ("train", "validation", "test")]  # fmt: skip
    assert [len(part) for part in seen] == [81, 9, 30]
    assert len(set.union(*seen)) == 120


def test_padded_crops_are_those_of_a_loop(tools):
    clips = torch.arange(6 * 3 * 32 * 32).view(6, 3, 1, 32, 32).remainder(251).to(torch.uint8)
    found = tools["data"].padded_crop(clips, torch.Generator().manual_seed(1))
    places, mirrored = set(), set()
    for picture, out in zip(clips[:, :, 0], found[:, :, 0], strict=True):
        padded = torch.nn.functional.pad(picture, (4,) * 4)
        fits = [
            (top, left, turned)
            for top in range(9) for left in range(9) for turned in (False, True)
            if torch.equal(
                out, (lambda c: c.flip(2) if turned else c)(  # noqa: B023
                    padded[:, top : top + 32, left : left + 32]))
        ]  # fmt: skip
        assert len(fits) == 1
        places.add(fits[0][:2])
        mirrored.add(fits[0][2])
    assert len(places) > 3 and mirrored == {False, True}


def test_crops_of_clips_are_whole_or_seven_eighths(tools):
    ramp = torch.arange(64).mul(2).expand(40, 3, 2, 64, 64).to(torch.uint8)
    found = tools["data"].part_crop(ramp, torch.Generator().manual_seed(0))
    assert found.dtype == torch.uint8 and found.shape == ramp.shape
    spans = (found[..., -1].int() - found[..., 0].int()).flatten(1)
    assert all(len(span.unique()) == 1 for span in spans)  # one crop for all frames of a clip
    assert {int(span[0]) for span in spans} <= {126, 110, 111, 109}
    whole = spans[:, 0] == 126
    assert 8 < int(whole.sum()) < 32
    assert torch.equal(found[whole], ramp[whole])
    assert len({int(c[0, 0, 0, 0]) for c in found[~whole]}) > 3  # at different places


def test_labels_and_cover_are_the_generators(clips):
    assert clips["train"].labels["class"].tolist() == [i % 18 // 6 for i in range(36)]
    assert clips["train"].labels["motion"].tolist() == [i % 6 for i in range(36)]
    assert clips["test"].labels["class"].tolist() == [i % 18 // 6 for i in range(18, 36)]
    assert clips["train"].frames.shape == (36, 3, 16, 64, 64)
    assert 0.2 < float(clips["train"].cover.mean()) < 0.5


# --- the training -------------------------------------------------------------------------------


def test_arms_of_a_seed_begin_alike_and_see_the_same_clips(tools, images):
    train, arms = tools["train"], tools["arms"].ARMS
    common = train.common_config("images", 4, 8, "cpu")
    models, batches = [], []
    for name in ("random", "hpm", "published", "noise"):
        models.append(train.train(arms[name], common, images, 3, 0).method.model)
        batches.append(train.make_batch(images, arms[name].config(common), 3, 9))
    for model in models[1:]:
        for part in ("encoder", "decoder"):
            ours, theirs = (getattr(m, part).state_dict() for m in (models[0], model))
            assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    for batch in batches[1:]:
        assert torch.equal(batch.clips, batches[0].clips)
        assert torch.equal(batch.shuffle_ids, batches[0].shuffle_ids)


def test_an_epoch_shows_every_clip_at_most_once(tools, images):
    config = tools["train"].common_config("images", 4, 8, "cpu")
    rows = [tools["train"].make_batch(images, config, 0, step).index for step in range(20)]
    for epoch in (rows[:10], rows[10:]):
        assert len(torch.cat(epoch).unique()) == 80
    assert not torch.equal(torch.cat(rows[:10]), torch.cat(rows[10:]))


@pytest.mark.parametrize("kind", ["images", "clips"])
def test_every_arm_is_a_valid_configuration_and_trains(tools, images, clips, kind):
    train, data = tools["train"], images if kind == "images" else clips
    for name in tools["arms"].usual(kind):
        arm = tools["arms"].ARMS[name]
        common = train.common_config(kind, 2, 4, "cpu")
        small = replace(common, model=replace(common.model, dim=24, decoder_dim=24, depth=1))
        curve = train.train(arm, small, data, 0, 1).curve
        assert curve[-1]["loss"] > 0, name
        assert ("predictor_loss" in curve[-1]) == arm.config(small).hpm.enabled


def test_other_losses_are_those_of_the_clip_before_in_its_own_order(tools, clips, monkeypatch):
    train, given = tools["train"], []
    config = train.common_config("clips", 2, 4, "cpu")
    monkeypatch.setattr(
        train, "train_step", lambda *parts, **_: given.append(parts[2]) or {"loss": torch.ones(())}
    )
    for name in ("predict", "other-losses"):
        train.train(tools["arms"].ARMS[name], config, clips, 0, 1)
    plain, other = given
    pixels = train.make_batch(clips, config, 0, 0).clips
    mask = hpm.random_mask(config.model.grid(), 0.75, hpm.random_shuffle_ids(4, 64))
    targets = plain(pixels, mask)
    assert torch.equal(other(pixels, mask), targets)
    parts = torch.rand(targets.shape[:2]), torch.rand(targets.shape), targets, pixels, mask
    own, found = plain.hardness(*parts), other.hardness(*parts)
    for clip in range(4):
        assert torch.equal(found[clip], own[clip - 1])


def test_equal_compute_is_as_many_more_steps(tools):
    arms = tools["arms"].ARMS
    assert arms["longer"].steps(300, "images") == 500
    assert arms["longer"].steps(300, "clips") == 390
    for steps in range(1, 100):
        assert arms["longer"].plain_steps(arms["longer"].steps(steps, "images"), "images") == steps
    assert arms["hpm"].steps(300, "images") == 300


def test_channels_are_normalised_by_the_training_split(tools, images):
    config = tools["train"].common_config("images", 4, 8, "cpu")
    data = tools["train"].with_statistics(config, images["train"]).data
    pixels = images["train"].frames.double() / 255
    for channel in range(3):
        assert data.mean[channel] == pytest.approx(float(pixels[:, channel].mean()))
        assert data.std[channel] == pytest.approx(float(pixels[:, channel].std()))


# --- the judges ---------------------------------------------------------------------------------


def test_features_are_the_mean_of_the_patches(tools, images):
    train, judge = tools["train"], tools["judge"]
    config = train.common_config("images", 4, 8, "cpu")
    model = MaskedAutoencoder(config.model_config()).eval()
    found = judge.features(model.encoder, images["test"], config)
    with torch.no_grad():
        one = judge.first_frames(images["test"], torch.tensor([7]), config)
        tokens = model.encoder(one)[0, 1:]  # without the class token
    torch.testing.assert_close(found[7], tokens.mean(0))


def test_judges_name_what_is_easy(tools, images):
    judge, config = tools["judge"], tools["train"].common_config("images", 4, 8, "cpu")
    model = MaskedAutoencoder(config.model_config())
    found = judge.probes(model.encoder, images, config, 48)
    for split in ("validation", "test"):
        assert found[split]["linear class"] > 90 and found[split]["knn class"] > 90


def test_the_regularisation_is_chosen_on_validation(tools, images, monkeypatch):
    judge, config = tools["judge"], tools["train"].common_config("images", 4, 8, "cpu")
    model = MaskedAutoencoder(config.model_config())
    labels, random = images["train"].labels["class"], torch.Generator().manual_seed(0)
    # Of a third of the labels nothing can be known: how closely to fit them matters.
    lied = torch.where(torch.rand(len(labels), generator=random) < 0.4,
                       torch.randint(3, labels.shape, generator=random), labels)  # fmt: skip
    train = replace(images["train"], labels={"class": lied})
    data = replace(images, splits=images.splits | {"train": train})

    def found(*strengths):
        monkeypatch.setattr(judge, "STRENGTHS", strengths)
        scores = judge.probes(model.encoder, data, config, 81)
        return [scores[split]["linear class"] for split in ("validation", "test")]

    strong, weak = found(1e-6), found(10.0)
    assert strong[0] != weak[0]
    assert found(1e-6, 10.0) == max(strong, weak, key=lambda scores: scores[0])


def test_fine_tuning_learns_both_kinds_of_class(tools, clips):
    judge, train = tools["judge"], tools["train"]
    config = train.common_config("clips", 4, 18, "cpu")
    small = replace(config, model=replace(config.model, dim=48, depth=1, heads=3))
    torch.manual_seed(0)
    model = MaskedAutoencoder(small.model_config())
    before = {k: v.clone() for k, v in model.encoder.state_dict().items()}
    seen = replace(clips, splits=clips.splits | {"test": clips["train"]})
    found = judge.fine_tuned(model, seen, small, 0, 30)["test"]
    assert found["fine-tuned class"] > 60  # colours, of the very clips; a third by chance
    assert set(found) == {"fine-tuned class", "fine-tuned motion"}
    assert all(torch.equal(v, before[k]) for k, v in model.encoder.state_dict().items())


# --- the diagnostics ----------------------------------------------------------------------------


def test_cover_falls_on_the_tokens_of_the_object(tools, clips):
    config = tools["train"].common_config("clips", 2, 4, "cpu")
    held, rows = clips["validation"], torch.arange(8)
    cover = tools["diagnose"].cover_per_token(held, rows, config).view(8, 4, 8, 8)
    pixels = held.cover[rows][:, ::2].repeat_interleave(4, 2).repeat_interleave(4, 3)
    for row in range(8):
        for t in range(4):
            for i in range(8):
                for j in range(8):
                    block = pixels[row, 2 * t : 2 * t + 2, 8 * i : 8 * i + 8, 8 * j : 8 * j + 8]
                    assert cover[row, t, i, j] == pytest.approx(float(block.mean()), abs=1e-5)


class Knows(hpm.Scorer):
    """A scorer that returns what it is given."""

    def __init__(self, scores):
        self.scores = scores

    def __call__(self, clips, shuffle_ids):
        return self.scores[: len(clips)]


def test_what_is_left_of_the_object_is_what_the_last_masks_leave(tools, clips):
    diagnose, train = tools["diagnose"], tools["train"]
    config = tools["arms"].ARMS["all"].config(train.common_config("clips", 2, 4, "cpu"))
    held, rows = clips["validation"], torch.arange(4)
    cover = diagnose.cover_per_token(held, rows, config)
    tubes = cover.view(4, 4, 64).mean(1)
    method = replace(train.Method.of(config), scorer=Knows(tubes))
    told = diagnose.object_left(method, held, rows, config)
    by_hand = [
        1 - float(cover[i].view(4, 64)[:, tubes[i].topk(48).indices].sum() / cover[i].sum())
        for i in range(4)
    ]
    assert told["object visible at the end"] == pytest.approx(sum(by_hand) / 4, abs=1e-5)
    hidden = sum(share < 0.05 for share in by_hand) / 4
    assert told["clips with the object hidden"] == pytest.approx(hidden)


def test_a_scorer_is_measured_where_there_is_no_teacher(tools, images, monkeypatch):
    monkeypatch.setattr(tools["diagnose"], "MASKS", 4)
    config = tools["train"].common_config("images", 2, 4, "cpu")
    arms, of = tools["arms"].ARMS, tools["train"].Method.of
    for name, who in (("random", set()), ("noise", {"scorer"}), ("hpm", {"teacher"}),
                      ("centred", {"scorer", "teacher"})):  # fmt: skip
        changed = arms[name].config(config)
        told = tools["diagnose"].diagnose(of(changed), images["validation"], changed)
        assert {key.split(":")[0] for key in told if ":" in key} == who | {"truth", "fixed map"}
        assert told["truth: position share"] >= 0


def test_true_hardness_equals_a_loop(tools, clips):
    train = tools["train"]
    common = train.common_config("clips", 2, 4, "cpu")
    model = MaskedAutoencoder(common.model_config()).eval()
    seen = tools["judge"].first_frames(clips["validation"], torch.arange(2), common)
    with torch.no_grad():
        generator = torch.Generator().manual_seed(0)
        target = hpm.PixelTarget(model.grid, "raw", common.data.mean, common.data.std)
        found = tools["diagnose"].true_hardness(model, seen, 5, 0.75, target, generator)
        generator.manual_seed(0)
        losses = [[[] for _ in range(64)] for _ in range(2)]
        for _ in range(5):
            shuffle_ids = hpm.random_shuffle_ids(2, 64, generator)
            mask = hpm.random_mask(model.grid, 0.75, shuffle_ids)
            out = model(seen, mask).pixels
            targets = model.grid.patchify(seen, mask.masked)
            tokens = (out - targets).square().mean(2)
            for b in range(2):
                for token, loss in zip(mask.masked[b].tolist(), tokens[b].tolist(), strict=True):
                    losses[b][token % 64].append(loss)
    expected = [[sum(x) / len(x) if x else 0 for x in row] for row in losses]
    torch.testing.assert_close(found, torch.tensor(expected), atol=1e-4, rtol=1e-4)


# --- the tables ---------------------------------------------------------------------------------


def write(folder, arm, seed, value, kind="images", **settings):
    top1 = {"linear class": value, "knn class": value / 2}
    result = {
        "data": kind, "arm": arm, "seed": seed, "curve": [],
        "settings": {"steps": 5, "batch": 8} | settings,
        "top1": {"validation": top1, "test": {k: v + 1 for k, v in top1.items()}},
        "diagnostics": {"truth: position share": 0.1, "teacher: beyond position": None,
                        "validation loss": 1 / value},
        "processor_seconds": {"training": 3000.0, "judging": 600.0},
        "machine": {"device": "abacus", "threads": 1, "torch": "2"},
    }  # fmt: skip
    (folder / kind).mkdir(parents=True, exist_ok=True)
    (folder / kind / f"{arm}-{seed}.json").write_text(json.dumps(result))


VALUES = {"random": (50, 51, 53, 50), "predict": (52, 52, 55, 51), "hpm": (52, 53, 56, 52.5),
          "centred": (51, 53, 53, 55)}  # fmt: skip


@pytest.fixture
def written(tmp_path):
    for arm, values in VALUES.items():
        for seed, value in enumerate(values):
            write(tmp_path, arm, seed, value)
    return tmp_path


def test_differences_are_paired_t_tests_with_their_intervals(tools, written):
    rows = tools["table"].differences(written)
    found = {(r["arm"], r["control"]): r for r in rows if r["judge"] == "linear class"}
    assert set(found) == {("predict", "random"), ("hpm", "random"), ("centred", "random"),
                          ("hpm", "predict"), ("centred", "hpm")}  # fmt: skip
    for (arm, control), row in found.items():
        theirs = stats.ttest_rel(VALUES[arm], VALUES[control])
        low, high = theirs.confidence_interval(0.95)
        assert row["mean"] == pytest.approx((low + high) / 2)
        assert row["half_width"] == pytest.approx((high - low) / 2)
        assert row["p"] == pytest.approx(theirs.pvalue) and row["seeds"] == 4
    assert found["hpm", "predict"]["p_holm"] == found["hpm", "predict"]["p"]  # alone in its family
    family = sorted(r["p"] for key, r in found.items() if key[1] == "random")
    assert min(r["p_holm"] for key, r in found.items() if key[1] == "random") == pytest.approx(
        3 * family[0]
    )


def test_errors_of_reconstruction_are_told_in_percent_of_the_controls(tools, written):
    write(written, "ema-features", 0, 40)  # of features, which compare with no error of pixels
    write(written, "ema-features", 1, 40)
    rows = tools["table"].reconstructions(tools["table"].load(written, "images"))
    found = {(r["arm"], r["control"]): r for r in rows}
    assert len(found) == 5
    for (arm, control), row in found.items():
        pairs = zip(VALUES[arm], VALUES[control], strict=True)
        each = [100 * (theirs / ours - 1) for ours, theirs in pairs]
        low, high = stats.ttest_1samp(each, 0).confidence_interval(0.95)
        assert row["mean"] == pytest.approx((low + high) / 2)
        assert row["half_width"] == pytest.approx((high - low) / 2)


def test_holm_is_the_literal_procedure(tools):
    random = np.random.default_rng(0)
    for _ in range(50):
        p = random.random(6) ** 3
        found = tools["table"].holm(p.tolist())
        for level in (0.01, 0.05, 0.2):
            rejected = set()
            for step, place in enumerate(np.argsort(p)):
                if p[place] > level / (6 - step):
                    break
                rejected.add(int(place))
            assert {i for i, value in enumerate(found) if value <= level} == rejected


def test_seeds_needed_is_the_first_that_suffices(tools):
    for spread, wanted in ((0.7, 0.5), (2.0, 1.0), (0.1, 0.5)):
        count = tools["table"].seeds_needed(spread, wanted)
        halves = [stats.t.ppf(0.975, n - 1) * spread / n**0.5 for n in range(2, count + 1)]
        assert halves[-1] <= wanted and all(half > wanted for half in halves[:-1])


def test_power_looks_at_validation_alone(tools, written):
    told = tools["table"].power(written)
    spread = np.std(np.subtract(VALUES["hpm"], VALUES["predict"]), ddof=1)
    needed = tools["table"].seeds_needed(spread, 0.5)
    assert f"| images | hpm | predict | linear class | 4 | {spread:.2f} | 0.5 | {needed} |" in told
    for file in (written / "images").glob("*.json"):
        result = json.loads(file.read_text())
        result["top1"]["test"] = dict.fromkeys(result["top1"]["test"], float("nan"))
        file.write_text(json.dumps(result))
    assert tools["table"].power(written) == told


def test_tables_summary_and_figure_are_those_of_the_files(tools, written):
    text = tools["table"].write_tables(written)
    assert (written / "README.md").read_text() == text
    assert "| hpm | HPM as configured by default, hard share 0 to .5 | 4 | 54.4 ± 1.8 |" in text
    assert "16 runs, 16.0 hours of processor time; abacus, 1 thread, torch 2." in text
    told = json.loads((written / "summary.json").read_text())["differences"]
    row = next(r for r in told if (r["arm"], r["control"], r["judge"]) ==
               ("hpm", "predict", "linear class"))  # fmt: skip
    assert f"| hpm | predict | 4 | {row['mean']:+.2f} ± {row['half_width']:.2f} (" in text
    assert (written / "differences.png").read_bytes().startswith(b"\x89PNG")


def test_other_settings_are_not_mixed(tools, written, capsys):
    for other in ({"batch": 16}, {"steps": 9}):
        write(written, "noise", 0, 50, **other)
        assert tools["run"].main(["table", "--out", str(written)]) == 2
        assert "made with other settings than" in capsys.readouterr().err
    (written / "images/noise-0.json").unlink()
    write(written, "longer", 0, 50, steps=8)  # 5/3 of the others', the arm's own
    assert tools["run"].main(["table", "--out", str(written)]) == 0


@pytest.mark.parametrize("name", ["evidence", "evidence-1000-steps"])
def test_the_kept_tables_are_those_of_the_kept_files(tools, name):
    place = tools["run"].RESULTS.with_name(name)
    rows = tools["table"].differences(place)
    kept = json.loads((place / "summary.json").read_text())["differences"]
    assert [(r["arm"], r["control"], r["seeds"]) for r in kept] == [
        (r["arm"], r["control"], r["seeds"]) for r in rows
    ]
    for ours, theirs in zip(rows, kept, strict=True):
        assert ours["mean"] == pytest.approx(theirs["mean"])
        assert ours["half_width"] == pytest.approx(theirs["half_width"])
    assert tools["table"].tables(place, kept) == (place / "README.md").read_text()
