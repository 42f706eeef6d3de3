"""Features and predictions: the Python calls, the commands, resuming."""

import csv
import json
import os
import threading
from functools import partial

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

from videohpm import evaluate
from videohpm.cli import main
from videohpm.data import Sample, find_samples, normalise
from videohpm.errors import UserError
from videohpm.evaluate.views import read_views


@pytest.fixture(scope="module")
def files(shapes) -> list[str]:
    return [str(file) for file in sorted((shapes / "validation").glob("*.mp4"))]


def test_features_are_the_models_own(encoder_folder, files):
    loaded = evaluate.load(encoder_folder)
    found = evaluate.features(loaded, files[:3], "both", clips=2, batch=4)
    assert found.pooled.shape == (3, 2, 24) and found.tokens.shape == (3, 2, 32, 24)
    protocol = loaded.protocol.changed(None, {"clips": 2})
    views, spans = read_views(Sample(files[1]), protocol, "video")
    with torch.no_grad():
        tokens = loaded.model(normalise(views))
    np.testing.assert_allclose(found.tokens[1], tokens, atol=1e-5)
    np.testing.assert_allclose(found.pooled[1], tokens.mean(1), atol=1e-5)
    assert np.array_equal(found.spans[1], spans)


def test_a_classifiers_feature_is_what_its_head_reads(classifier_folder, files):
    loaded = evaluate.load(classifier_folder)
    found = evaluate.features(loaded, files[:2])
    logits = loaded.model.head(torch.from_numpy(found.pooled[:, 0])).softmax(1)
    said = evaluate.predict(loaded, files[:2], top=3, clips=1)
    for row, one in enumerate(said):
        assert one.labels == logits[row].topk(3).indices.tolist()
        assert one.names == [f"class {label}" for label in one.labels]
        assert one.probabilities == pytest.approx(logits[row].topk(3).values.tolist(), abs=1e-5)


def test_predict_names_classes_on_the_command_line(classifier_folder, files, tmp_path, capsys):
    broken = tmp_path / "broken.mp4"
    broken.write_text("nothing")
    arguments = ["predict", files[0], "--model", str(classifier_folder), "--top", "2"]
    assert main([*arguments, "--device", "cpu"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == files[0] and len(lines) == 3 and "%  class " in lines[1]
    arguments.insert(1, str(broken))
    assert main([*arguments, "--device", "cpu"]) == evaluate.UNREADABLE
    assert f"{broken}: could not be read" in capsys.readouterr().out
    assert main(["predict", "nowhere.mp4", "--model", str(classifier_folder)]) == 2
    assert "nowhere.mp4: no such file" in capsys.readouterr().err


def test_predict_takes_folders_of_videos(classifier_folder, files, tmp_path, capsys):
    inside = tmp_path / "clips" / "more"
    inside.mkdir(parents=True)
    (inside.parent / "b.mp4").symlink_to(files[1])
    (inside / "a.mp4").symlink_to(files[0])
    (inside / "notes.txt").write_text("no video")
    loaded = evaluate.load(classifier_folder)
    found = evaluate.predict(loaded, [inside.parent, files[1]], clips=1)
    assert [one.path for one in found] == [
        str(inside.parent / "b.mp4"), str(inside / "a.mp4"), files[1]
    ]  # fmt: skip
    assert found[0].probabilities == found[2].probabilities
    (tmp_path / "empty").mkdir()
    arguments = ["predict", str(tmp_path / "empty"), "--model", str(classifier_folder)]
    assert main([*arguments, "--device", "cpu"]) == 2
    assert f"videohpm: videos: no videos under {tmp_path / 'empty'}" in capsys.readouterr().err


def test_a_folder_is_one_video_of_frames_or_images_each_as_the_model_takes_them(tmp_path):
    for name in ("1.jpg", "2.jpg"):
        (tmp_path / name).touch()
    files = evaluate.prediction._files
    assert files(str(tmp_path), 16) == [str(tmp_path)]
    assert files(str(tmp_path), 1) == [str(tmp_path / "1.jpg"), str(tmp_path / "2.jpg")]
    with pytest.raises(UserError, match="nowhere: no such file or folder"):
        files("nowhere", 16)
    with pytest.raises(UserError, match="list.csv: is a list; give videos, or the list to"):
        files("list.csv", 16)


def features_command(encoder, shapes, out, *more) -> list[str]:
    return [
        "features", str(encoder), str(out), "--manifest", str(shapes / "validation.csv"),
        "--workers", "0", "--device", "cpu", "--shard", "6", *more,
    ]  # fmt: skip


def test_one_blank_label_costs_the_others_nothing(encoder_folder, shapes, tmp_path, caplog):
    rows = (shapes / "validation.csv").read_text().splitlines()[:4]
    fields = rows[2].split(",")
    assert rows[0].split(",")[1] == "label"
    rows[2] = ",".join([fields[0], "", *fields[2:]])
    (shapes / "blank.csv").write_text("\n".join(rows) + "\n")
    out = tmp_path / "features"
    arguments = features_command(encoder_folder, shapes, out)
    arguments[arguments.index("--manifest") + 1] = str(shapes / "blank.csv")
    assert main(arguments) == 0
    labels = [int(row.split(",")[1]) for row in (rows[1], rows[3])]
    assert evaluate.read_features(out).labels.tolist() == [labels[0], -1, labels[1]]
    assert caplog.text.count("1 of 3 rows have no label") == 1


@pytest.mark.parametrize("format", ["safetensors", "npz"])
def test_a_folder_of_features_can_be_resumed(encoder_folder, shapes, tmp_path, format):
    out = tmp_path / "features"
    arguments = features_command(encoder_folder, shapes, out, "--format", format, "--what", "both")
    assert main(arguments) == 0
    shards = sorted(out.glob(f"features_*.{format}"))
    assert len(shards) == 3
    whole = evaluate.read_features(out)
    assert whole.index.tolist() == list(range(16))
    kept = shards[0].stat().st_mtime_ns
    os.remove(shards[1])
    with pytest.raises(UserError, match="not a complete folder"):
        evaluate.read_features(out)
    assert main(arguments) == 0
    assert shards[0].stat().st_mtime_ns == kept, "what was there is not made again"
    again = evaluate.read_features(out)
    assert np.array_equal(whole.pooled, again.pooled)
    assert np.array_equal(whole.tokens, again.tokens)
    with (out / "index.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 16 and rows[7]["shard"] == shards[1].name and rows[7]["position"] == "1"
    first, last = map(int, rows[7]["frames"].split("-"))
    assert [first, last] == [whole.spans[7].min(), whole.spans[7].max()]


def test_a_folder_made_otherwise_is_refused(encoder_folder, shapes, tmp_path, capsys):
    out = tmp_path / "features"
    assert main(features_command(encoder_folder, shapes, out)) == 0
    assert main(features_command(encoder_folder, shapes, out, "--clips", "2")) == 2
    assert "differs in protocol" in capsys.readouterr().err
    other = tmp_path / "mine"
    other.mkdir()
    (other / "letter.txt").write_text("keep me")
    assert main(features_command(encoder_folder, shapes, other)) == 2
    assert "holds something else" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--what", "all"], "what: 'all' is not one of pooled, tokens, both"),
        (["--dtype", "int8"], "dtype: 'int8'"),
        (["--format", "pt"], "format: 'pt'"),
        (["--shard", "0"], "shard: 0"),
        (["--workers", "-1"], "workers: -1"),
        (["--stride", "0"], "stride: 0"),
        (["--sampling", "all"], "sampling: 'all'"),
        (["--manifest", "nowhere.csv"], "videohpm: manifest: nowhere.csv does not exist"),
        (["--root", "nowhere"], "videohpm: root: nowhere is not a folder"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_no_folder(
    encoder_folder, shapes, tmp_path, capsys, more, said
):
    out = tmp_path / "features"
    assert main(features_command(encoder_folder, shapes, out, *more)) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and said in error
    assert not out.exists()


def test_a_config_that_says_no_model(encoder_folder, tmp_path, capsys):
    weights = (encoder_folder / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(weights)
    about = json.loads((encoder_folder / "config.json").read_text())
    for change in ({"depths": 3}, {"dim": 7}):
        text = json.dumps(about | {"model": about["model"] | change})
        (tmp_path / "config.json").write_text(text)
        assert main(["features", str(tmp_path), str(tmp_path / "out"), "--root", "."]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and "config.json: describes no model" in error


class Threads:
    """EvalProcesses that are threads of this process."""

    def __init__(self, world: int):
        self.barrier, self.values = threading.Barrier(world), [None] * world
        self.ranks = [evaluate.EvalProcesses(rank, world) for rank in range(world)]
        for ranks in self.ranks:
            ranks.gather = partial(self.gather, ranks.rank)

    def gather(self, rank: int, value: object) -> list:
        self.barrier.wait()
        self.values[rank] = value
        self.barrier.wait()
        return list(self.values)


def test_two_ranks_share_the_shards(encoder_folder, shapes, tmp_path):
    loaded = evaluate.load(encoder_folder)
    manifest = find_samples(None, shapes / "validation.csv", labels=True)
    protocol = loaded.protocol.changed(None, {"clips": 1})

    def write(ranks):
        evaluate.write_features(
            tmp_path / str(ranks.world),
            loaded,
            manifest,
            protocol,
            metadata={},
            shard=5,
            processes=ranks,
        )

    write(evaluate.EvalProcesses())
    together = Threads(2)
    threads = [threading.Thread(target=write, args=(ranks,)) for ranks in together.ranks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    one, two = (evaluate.read_features(tmp_path / n) for n in "12")
    assert one.index.tolist() == two.index.tolist() == list(range(16))
    np.testing.assert_allclose(one.pooled, two.pooled, atol=1e-6)
    assert np.array_equal(one.labels, two.labels)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--train", "nowhere.csv"], "train: nowhere.csv does not exist"),
        (["--validation", "nowhere.csv"], "validation: nowhere.csv does not exist"),
        (["--validation", "{empty}"], "validation: no videos or images under {empty}"),
        (["--root", "nowhere"], "root: nowhere is not a folder"),
    ],
)
def test_a_mistake_of_a_probe_names_its_own_field(
    encoder_folder, shapes, tmp_path, capsys, more, said
):
    (tmp_path / "empty").mkdir()
    lists = ["--train", shapes / "train.csv", "--validation", shapes / "validation.csv"]
    more = [word.format(empty=tmp_path / "empty") for word in more]
    words = ["probe", "--model", encoder_folder, *lists, "--device", "cpu", *more]
    assert main([str(word) for word in words]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"videohpm: {said.format(empty=tmp_path / 'empty')}")
    assert error.count("\n") == 1


def test_probe_command(encoder_folder, shapes, tmp_path, capsys):
    """Its figures are scikit-learn's on the features that it leaves behind."""
    arguments = [
        "probe", "--model", str(encoder_folder), "--out", str(tmp_path), "--workers", "0",
        "--train", str(shapes / "train.csv"), "--validation", str(shapes / "validation.csv"),
        "--device", "cpu", "--epochs", "2", "--strength", "[1.0]",
    ]  # fmt: skip
    assert main(arguments) == 0
    said = capsys.readouterr().out
    assert "16 of 16 validation samples scored" in said
    result = json.loads((tmp_path / "probe.json").read_text())
    assert set(result["probes"]) == {"linear", "attentive", "knn"}
    assert all(0 <= row["top1"] <= 100 for row in result["probes"].values())
    assert result["probes"]["knn"]["k"] == 20 and result["protocol"]["stride"] == 4
    train, test = (
        evaluate.read_features(tmp_path / f"{n}-features") for n in ("train", "validation")
    )
    scaler = StandardScaler().fit(train.pooled.mean(1))
    linear = LogisticRegression(max_iter=10_000, tol=1e-8)
    linear.fit(scaler.transform(train.pooled.mean(1)), train.labels)
    hits = 100 * linear.score(scaler.transform(test.pooled.mean(1)), test.labels)
    assert result["probes"]["linear"]["top1"] == pytest.approx(hits)

    def weights(distance):
        return np.exp((1 - distance) / 0.07)

    near = KNeighborsClassifier(20, metric="cosine", weights=weights, algorithm="brute")
    near.fit(train.pooled.mean(1), train.labels)
    hits = 100 * near.score(test.pooled.mean(1), test.labels)
    assert result["probes"]["knn"]["top1"] == pytest.approx(hits)
    assert main([*arguments, "--random", "true"]) == 2, "features of other weights do not mix"
    assert "differs in model" in capsys.readouterr().err
