"""Looks at a run while it trains: what they measure, that they change nothing, on several ranks."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from facts import read
from hypothesis import given
from hypothesis import strategies as st

from videohpm import evaluate, hpm
from videohpm.config import OnlineProbeConfig
from videohpm.errors import ConfigError, UserError
from videohpm.evaluate.online import balanced, halves
from videohpm.plan.count import flops_of, flops_of_probe, probe_period
from videohpm.pretrain import Pretraining, pretrain

MEASURED = (
    "probe_loss", "mean_colour_loss", "effective_rank", "feature_spread", "feature_change",
)  # fmt: skip
LABELLED = ("knn_top1", "linear_top1")
PLAIN = {
    "run": {"steps": 6, "log_every": 1, "picture_every": 0, "save_every": 3},
    "data": {"workers": 0, "stride": 2},
    "model": {
        "arch": "vit_tiny", "frames": 4, "image_size": 32, "patch": 8, "dim": 96, "depth": 2,
        "heads": 2, "decoder_dim": 48, "decoder_depth": 1, "decoder_heads": 2, "target": "raw",
        "drop_path": 0.2,
    },
    "mask": {"ratio": 0.75},
    "hpm": {"hard_ratio_start": 0.3, "teacher_samples_per_tube": 1},
    "optim": {"global_batch_size": 8, "base_lr": 3e-2, "warmup_steps": 2},
    "engine": {"device": "cpu", "precision": "fp32"},
    "probe": {"every": 2, "clips": 7, "samples": 9},
}  # fmt: skip


@pytest.fixture
def config(shapes, tmp_path):
    """config(name, **sections) → a run of six steps, looked at every second one."""

    def make(name, **sections):
        plain = {key: dict(values) for key, values in PLAIN.items()}
        given = {"run": {"dir": str(tmp_path / name)}, "data": {"root": str(shapes / "train")}}
        given["probe"] = {"manifest": str(shapes / "train-motion.csv")}
        for changes in (given, sections):
            for key, values in changes.items():
                plain[key] = plain.get(key, {}) | values
        return read(plain)

    return make


def rows(config):
    with open(f"{config.run.dir}/metrics.jsonl") as file:
        return [json.loads(line) for line in file]


def looks(config):
    return [
        {name: row[name] for name in (*MEASURED, *LABELLED)}
        for row in rows(config)
        if "probe_loss" in row
    ]


@given(st.integers(2, 12), st.integers(1, 9), st.integers(0, 2**31))
def test_the_effective_rank_is_that_of_a_literal_loop(clips, width, seed):
    features = torch.randn(clips, width, generator=torch.Generator().manual_seed(seed)).double()
    centred = (features - sum(features) / clips).numpy()
    values = np.linalg.svd(centred, compute_uv=False)
    entropy = 0.0
    for value in values:
        share = value / values.sum()
        entropy -= share * np.log(share) if share > 0 else 0.0
    assert hpm.effective_rank(features) == pytest.approx(np.exp(entropy), rel=1e-6)
    assert 0 <= hpm.effective_rank(features) <= min(clips - 1, width) + 1e-6
    spread = np.sqrt((centred**2).sum() / (features.numpy() ** 2).sum())
    assert hpm.feature_spread(features) == pytest.approx(spread)


def test_features_that_are_alike_or_on_a_line_say_so():
    line = torch.arange(5.0)[:, None] * torch.tensor([[1.0, -2.0, 3.0]]) + 7
    assert hpm.effective_rank(line) == pytest.approx(1, abs=1e-5)
    assert hpm.effective_rank(torch.ones(4, 3)) == 0 == hpm.feature_spread(torch.ones(4, 3))
    assert hpm.effective_rank(torch.eye(5)) == pytest.approx(4)
    assert hpm.feature_spread(torch.zeros(4, 3)) == 0
    assert hpm.feature_change(line, 3 * line) == pytest.approx(2)
    assert hpm.feature_change(line, line) == 0


@given(st.lists(st.integers(0, 4), min_size=1, max_size=30), st.integers(1, 30))
def test_of_each_class_as_many_as_of_the_others_where_it_has_them(labels, most):
    labels = np.array(labels)
    chosen = balanced(labels, most)
    assert len(chosen) == len(set(chosen.tolist())) <= min(most, len(labels))
    assert len(chosen) == min(most, np.isin(labels, labels[chosen]).sum())
    counts = {label: (labels[chosen] == label).sum() for label in labels.tolist()}
    for label, count in counts.items():
        if 0 < count < (labels == label).sum():  # some were left out: no class has two more
            assert count >= max(counts.values()) - 1
    assert sum(count > 0 for count in counts.values()) <= max(2, most // 4)


def test_halves_hold_half_of_each_class():
    labels = torch.tensor([2, 0, 2, 2, 0, 2, 1])
    assert halves(labels).tolist() == [False, False, True, False, True, True, False]


def test_a_run_that_is_looked_at_is_the_run_that_is_not_to_the_bit(config):
    seen = config("seen")
    blind = config("blind", probe={"every": 0})
    for each in (seen, blind):
        pretrain(each)
    assert len(looks(seen)) == 3 and not looks(blind)
    assert [row["loss"] for row in rows(seen)] == [row["loss"] for row in rows(blind)]
    for name in ("model", "teacher"):
        one, other = (
            (f"{each.run.dir}/checkpoints/step_00000006/{name}.safetensors")
            for each in (seen, blind)
        )
        with open(one, "rb") as first, open(other, "rb") as second:
            assert first.read() == second.read()


def test_a_run_that_goes_on_measures_and_says_what_the_whole_one_does(config, capsys):
    whole = config("whole")
    pretrain(whole)
    said = [line for line in capsys.readouterr().out.splitlines() if "effective rank" in line]
    third = f"{whole.run.dir}/checkpoints/step_00000003"
    rest = config("rest", run={"resume": third})
    pretrain(rest)
    assert looks(rest) == looks(whole)[1:]
    assert looks(rest)[0]["feature_change"] > 0
    assert said[0].startswith("step 2: ") and len(said) == 3


def test_what_is_measured_is_that_of_literal_sums(config):
    settings = config("run", mask={"use": "weight", "scorer": "noise"}, hpm={"enabled": False})
    run = Pretraining(settings)
    run.probe = probe = run._make_probe()
    found = probe.measure(run.engine, run.model)
    model, grid = run.model.eval(), settings.model.grid()
    clips = torch.stack([run.data[0, i * 32 // 7]["clips"][0] for i in range(7)])
    ids = torch.stack([run.data[0, i * 32 // 7]["shuffle_ids"][0] for i in range(7)])
    mean, std = (
        torch.tensor(v).view(1, 3, 1, 1, 1) for v in (settings.data.mean, settings.data.std)
    )
    clips = (clips / 255 - mean) / std
    mask = hpm.random_mask(grid, settings.mask.ratio, ids)
    pixels = grid.patchify(clips, mask.masked).unflatten(-1, (-1, 3))
    with torch.no_grad():
        wrong = (model(clips, mask).pixels - pixels.flatten(2)).square().mean()
        features = torch.stack([model.encoder(clip[None])[0].mean(0) for clip in clips])
    flat = torch.stack([(clip - clip.mean((0, 1))).square().mean() for clip in pixels]).mean()
    assert found["probe_loss"] == pytest.approx(float(wrong), rel=1e-4)
    assert found["mean_colour_loss"] == pytest.approx(float(flat), rel=1e-4)
    assert found["effective_rank"] == pytest.approx(hpm.effective_rank(features), rel=1e-3)
    assert found["feature_change"] is None
    assert model.training is False  # as it was before
    assert 0 <= found["knn_top1"] <= 100 and 0 <= found["linear_top1"] <= 100


def test_labels_that_features_know_are_found(config):
    """Features that are the class: both probes are right, also about a clip that is not read."""
    settings = config("run", probe={"samples": 32})
    run = Pretraining(settings)
    run.probe = probe = run._make_probe()
    probe.labelled.labels[3] = -1
    classes = torch.nn.functional.one_hot(probe.labelled.labels.clamp(min=0)).float()
    known = classes + 0.01 * torch.randn(classes.shape, generator=torch.Generator().manual_seed(0))
    assert probe._accuracy(known) == {"knn_top1": 100.0, "linear_top1": 100.0}
    assert probe._accuracy(torch.ones(32, 3))["knn_top1"] < 100 * 2 / 4


@pytest.mark.slow
def test_ranks_with_divided_weights_measure_what_one_process_does(config, starter, tmp_path):
    same = {"drop_path": 0.0}  # which is drawn by rank
    alone, plain = config("alone", model=same), json.loads(json.dumps(PLAIN))
    plain["model"] |= same
    pretrain(alone)
    plain["run"]["dir"] = str(tmp_path / "both")
    plain["data"]["root"] = alone.data.root
    plain["probe"]["manifest"] = alone.probe.manifest
    plain["engine"]["zero_stage"] = 3
    job = starter.start(2, "facts:train_each", [plain], logs=tmp_path / "logs")
    assert job.wait() == [0, 0], job.said()
    for one, other in zip(looks(alone), looks(read(plain)), strict=True):
        for name in MEASURED:
            assert (other[name] or 0) == pytest.approx(one[name] or 0, rel=1e-3), name
    assert job.said().count("step 2: ") >= 1


def test_a_rank_that_has_no_clips_of_its_own_still_helps(monkeypatch):
    monkeypatch.setattr("videohpm.engine.distributed.world_size", lambda: 4)
    monkeypatch.setattr("videohpm.engine.collectives.all_reduce_tensor", lambda values: values)
    total = torch.zeros(3, 2)
    for rank in range(4):
        monkeypatch.setattr("videohpm.engine.distributed.rank", lambda rank=rank: rank)
        part = evaluate.Rows(3)
        assert len(part.padded) == 1
        total += part.gather(torch.full((1, 2), 1.0 + rank))
    assert total.tolist() == [[1, 1], [2, 2], [3, 3]]


def test_how_often_a_run_is_looked_at_follows_from_its_cost(config):
    settings = config("run")
    settings = replace(settings, probe=OnlineProbeConfig())
    settings = replace(settings, run=replace(settings.run, log_every=5))
    every = probe_period(settings)
    step = 8 * sum(flops_of(settings).values())
    assert every % 5 == 0
    assert flops_of_probe(settings) <= 0.02 * step * every < flops_of_probe(settings) + 0.1 * step
    given = replace(settings, probe=OnlineProbeConfig(every=7))
    assert probe_period(given) == 10
    assert probe_period(replace(settings, probe=OnlineProbeConfig(every=0))) == 0


def test_a_mistake_is_one_line_that_names_the_field(config, shapes, tmp_path):
    with pytest.raises(ConfigError, match=r"probe\.clips: 1; give at least 2"):
        OnlineProbeConfig(clips=1)
    with pytest.raises(ConfigError, match=r"probe\.root: .*probe\.manifest"):
        OnlineProbeConfig(root="x")
    with pytest.raises(UserError, match=r"^probe\.manifest: .*no\.csv does not exist"):
        Pretraining(config("a", probe={"manifest": str(tmp_path / "no.csv")}))
    one = tmp_path / "one.csv"
    for i in range(5):
        (tmp_path / f"{i}.mp4").write_bytes(b"no video")
    one.write_text("path,label\n" + "".join(f"{i}.mp4,0\n" for i in range(5)))
    with pytest.raises(
        UserError, match=r"^probe\.manifest: .*1 classes have more than one sample; give"
    ):
        Pretraining(config("b", probe={"manifest": str(one)}))
    gone = tmp_path / "gone.csv"
    gone.write_text("path,label\n" + "".join(f"{i}.mp4,{i % 2}\n" for i in range(5)))
    run = Pretraining(config("c", probe={"manifest": str(gone)}))
    with pytest.raises(UserError, match=r"^probe\.manifest: 0 of 5 samples could be read"):
        run.run()
    assert not (tmp_path / "a").exists() and not (tmp_path / "b").exists()
