"""Accuracy is that of the classes meant, however the samples to test on are labelled."""

import colorsys
import json

import numpy as np
import pytest
import torch
from PIL import Image

from videohpm import evaluate
from videohpm.checkpoint import save_weights
from videohpm.cli import main
from videohpm.config import DataConfig, FinetuneConfig, SamplesConfig, ValidationConfig
from videohpm.errors import UserError
from videohpm.evaluate.command import labelled_samples
from videohpm.finetune.clips import validation_samples
from videohpm.finetune.labels import count_classes, warn_of_labels
from videohpm.models import VideoClassifier, VideoViT, ViTConfig

TINY = {"frames": 1, "tubelet": 1, "image_size": 16, "patch": 8, "dim": 12, "depth": 1, "heads": 2}
TEXT_ORDER = ["0", "1", "10", "11", *(str(i) for i in range(2, 10))]


@pytest.fixture(scope="module")
def colours(tmp_path_factory):
    """Pictures of 12 colours as class folders 0 to 11, and lists of the same with numbers."""
    folder = tmp_path_factory.mktemp("colours")
    rng = np.random.default_rng(0)
    for split, count in (("train", 4), ("validation", 2)):
        rows = []
        for label in range(12):
            (folder / split / str(label)).mkdir(parents=True)
            colour = 255 * np.array(colorsys.hsv_to_rgb(label / 12, 1, 1 if label % 2 else 0.6))
            for i in range(count):
                noisy = colour + rng.normal(0, 4, (24, 24, 3))
                name = f"{split}/{label}/{i}.png"
                Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8)).save(folder / name)
                rows.append(f"{name} {label}")
        (folder / f"{split}.txt").write_text("\n".join(rows) + "\n")
    return folder


def loaded(labels, classes=12):
    protocol = evaluate.EvalProtocol(frames=1, size=(16, 16), sampling="dense", stride=1)
    return evaluate.Loaded(VideoClassifier.create(classes=classes, **TINY), "m", protocol, labels)


@pytest.mark.parametrize("names", [None, TEXT_ORDER])
@pytest.mark.parametrize("given", ["folders", "list"])
def test_a_label_is_the_class_that_the_model_was_trained_on(colours, names, given):
    """A model trained on folders or on numbers, tested on the other."""
    data = SamplesConfig(root=str(colours / "validation"))
    if given == "list":
        data = SamplesConfig(root=str(colours), manifest=str(colours / "validation.txt"))
    found = labelled_samples(data, loaded(names))
    for i, label in enumerate(found.labels.tolist()):
        number = found.name(i).split("/")[-2]
        assert (names[label] if names else str(label)) == number
    config = FinetuneConfig(
        data=DataConfig(root=str(colours)),
        validation=ValidationConfig(root=data.root, manifest=data.manifest),
    )
    assert validation_samples(config, names).labels.tolist() == found.labels.tolist()


def test_class_names_of_the_data_set_say_what_a_number_is(tmp_path):
    """The model has the same classes in the order of its folders."""
    for name in ("a", "b", "c"):
        (tmp_path / f"{name}.png").write_bytes(b"")
    (tmp_path / "list.txt").write_text("a.png 2\nb.png 0\nc.png 1\n")
    data = SamplesConfig(manifest=str(tmp_path / "list.txt"))
    found = labelled_samples(data, loaded(["cat", "dog", "emu"], 3), ["emu", "cat", "dog"])
    assert found.labels.tolist() == [1, 2, 0] and found.classes == ["cat", "dog", "emu"]


def test_names_of_another_model_are_no_help(colours):
    data = SamplesConfig(root=str(colours / "validation"))
    with pytest.raises(UserError, match="dataset: 2 class names for a model of 12 classes"):
        labelled_samples(data, loaded(None), ["cat", "dog"])


def accuracies(model, colours, validation, out):
    command = [
        "probe", "--model", str(model), "--train", str(colours / "train.txt"),
        "--validation", str(validation), "--out", str(out), "--probes", '["knn"]', "--k", "1",
        "--workers", "0", "--device", "cpu",
    ]  # fmt: skip
    assert main(command) == 0
    return json.loads((out / "probe.json").read_text())["probes"]["knn"]["top1"]


def test_probes_match_classes_as_well(colours, tmp_path):
    torch.manual_seed(0)
    save_weights(tmp_path / "model", VideoViT(ViTConfig(**TINY)))
    by_list = accuracies(tmp_path / "model", colours, colours / "validation.txt", tmp_path / "a")
    by_folder = accuracies(tmp_path / "model", colours, colours / "validation", tmp_path / "b")
    assert by_folder == by_list > 80


def test_cached_features_do_not_keep_old_labels(colours, tmp_path):
    torch.manual_seed(0)
    save_weights(tmp_path / "model", VideoViT(ViTConfig(**TINY)))
    listing = colours / "changing.txt"
    lines = (colours / "validation.txt").read_text().splitlines()
    listing.write_text("\n".join(lines) + "\n")
    assert accuracies(tmp_path / "model", colours, listing, tmp_path / "out") > 80
    shifted = [f"{path} {(int(n) + 5) % 12}" for path, n in (line.split() for line in lines)]
    listing.write_text("\n".join(shifted) + "\n")
    assert accuracies(tmp_path / "model", colours, listing, tmp_path / "out") < 20


@pytest.mark.parametrize(
    ("labels", "names", "told"),
    [
        ([0, 1000003, 0], None, "go up to 1000003, but only 2 classes have samples"),
        ([0, 1, 3] * 5, None, "1 of 4 classes have no sample to train on (first: 2)"),
        ([0, 2] * 5, ["a", "b", "c"], "1 of 3 classes have no sample to train on (first: b)"),
        (range(40), None, "40 samples have 40 different labels"),
    ],
)
def test_labels_that_are_hardly_meant_are_warned_of(labels, names, told, caplog):
    labels = np.array(labels, np.int32)
    warn_of_labels(labels, count_classes(labels, None, names), names)
    assert len(caplog.records) == 1 and told in caplog.text


def test_usual_labels_are_not_warned_of(caplog):
    labels = np.arange(40) % 10
    warn_of_labels(labels, 10, None)
    assert not caplog.records


def test_a_head_that_no_memory_holds_is_refused():
    with pytest.raises(UserError, match="label 2000000000 needs a head of 2000000001 outputs"):
        count_classes(np.array([0, 2_000_000_000]), None, None)
