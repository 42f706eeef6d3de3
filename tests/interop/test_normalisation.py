"""What belongs to a model besides its weights: which of a run they are, mean and std, classes."""

import json
import logging
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from videohpm import evaluate
from videohpm.checkpoint import find_weights, load_model
from videohpm.cli import main
from videohpm.config import ClassifierConfig, DataConfig, FinetuneConfig
from videohpm.config.plain import as_plain
from videohpm.errors import UserError
from videohpm.finetune.start import init_defaults, pretrained_encoder, warn_of_pixels

NAMES = ["push", "pull", "lift", "drop", "turn"]
MEAN, STD = [0.1, 0.2, 0.3], [0.5, 0.6, 0.7]
IMAGENET = [0.485, 0.456, 0.406]


def config_of(folder) -> dict:
    return json.loads((folder / "config.json").read_text())


@pytest.fixture
def run(micro, tmp_path):
    """A fine-tuning run whose last weights are not its best; pixels have a mean of their own."""
    folder, protocol = (
        tmp_path / "run",
        evaluate.EvalProtocol(
            frames=4, size=(32, 32), sampling="segments", clips=2, mean=tuple(MEAN), std=tuple(STD)
        ),
    )
    extra = evaluate.classifier_metadata(protocol, NAMES)
    best, last = micro.make("VideoClassifier", 1), micro.make("VideoClassifier", 2)
    micro.save(best, folder / "best", **extra, metrics={"top1": 70.0}, step=2)
    step = micro.save(last, folder / "checkpoints/step_00000004", **extra)
    (step / "state.json").write_text(json.dumps({"config": {"data": as_plain(DataConfig())}}))
    return SimpleNamespace(folder=folder, best=best, last=last, step=step)


def same(tensors, model, prefix=""):
    wanted = model.state_dict()
    return all(torch.equal(t, wanted[prefix + name]) for name, t in tensors.items())


def test_every_command_means_the_best_weights_of_a_run(run, micro, tmp_path, capsys):
    assert find_weights(run.folder) == run.folder / "best"
    assert find_weights(run.step) == run.step
    assert same(load_model(run.folder).state_dict(), run.best)
    assert same(load_model(run.step).state_dict(), run.last)
    micro.convert(run.folder, tmp_path / "converted")
    assert main(["export", str(run.folder), str(tmp_path / "all"), "--what", "all"]) == 0
    assert "best" in capsys.readouterr().out
    assert main(["export", str(run.folder), str(tmp_path / "encoder")]) == 0
    for folder in (run.folder, tmp_path / "converted", tmp_path / "all"):
        loaded = evaluate.load(folder)
        assert same(loaded.model.state_dict(), run.best) and loaded.labels == NAMES
        assert (list(loaded.protocol.mean), list(loaded.protocol.std)) == (MEAN, STD)
        assert (loaded.protocol.clips, loaded.protocol.sampling) == (2, "segments")
    assert same(pretrained_encoder(run.folder).state_dict(), run.best.encoder)
    encoder = evaluate.load(tmp_path / "encoder")
    assert same(encoder.model.state_dict(), run.best.encoder)
    assert list(encoder.protocol.mean) == MEAN
    about = config_of(tmp_path / "encoder")
    assert not {"labels", "metrics"} & about.keys()
    assert same(evaluate.load(run.step).model.state_dict(), run.last)
    assert evaluate.load(run.step).labels == NAMES


def test_a_checkpoint_of_pretraining_keeps_its_mean(micro, tmp_path):
    """config.json of such a checkpoint does not hold it: the configuration of the run does."""
    step = micro.save(micro.make("MaskedAutoencoder"), tmp_path / "run/checkpoints/step_00000001")
    data = as_plain(DataConfig(mean=tuple(MEAN), std=tuple(STD), stride=2))
    (step / "state.json").write_text(json.dumps({"config": {"data": data}}))
    for to, what in (("videohpm", "all"), ("videohpm", "encoder")):
        out = tmp_path / f"{to}-{what}"
        micro.convert(tmp_path / "run", out, to, what=what)
        loaded = evaluate.load(out)
        assert list(loaded.protocol.mean) == MEAN and loaded.protocol.stride == 2
    assert main(["export", str(tmp_path / "run"), str(tmp_path / "export")]) == 0
    assert list(evaluate.load(tmp_path / "export").protocol.std) == STD
    (step / "state.json").write_text("{}")
    with pytest.raises(UserError, match=r"state\.json: damaged"):
        micro.read(tmp_path / "run")


@pytest.mark.parametrize("layout", ["videohpm", "huggingface", "timm"])
def test_classes_and_normalisation_survive_each_layout(run, micro, tmp_path, layout):
    source = run.folder
    if layout == "timm":
        model = micro.make("VideoClassifier", **micro.IMAGE)
        source = micro.save(model, tmp_path / "image", labels=NAMES, mean=MEAN, std=STD)
    micro.convert(source, tmp_path / "there", layout)
    report = micro.convert(tmp_path / "there", tmp_path / "back")
    about = config_of(tmp_path / "back")
    assert (about["labels"], about["mean"], about["std"]) == (NAMES, MEAN, STD)
    assert not any("mean and std" in note for note in report.notes)
    card = (tmp_path / "there/README.md").read_text()
    assert str(MEAN) in card and '"push", "pull"' in card


def test_a_layout_without_room_for_them_says_so(run, micro, tmp_path):
    report = micro.convert(run.folder, tmp_path / "pth", "videomae")
    assert any(note.startswith("labels, mean, std: the layout") for note in report.notes)
    assert '"push", "pull"' in (tmp_path / "pth/README.md").read_text()


def test_the_card_names_the_releases_that_lose_biases(run, micro, tmp_path):
    micro.convert(run.folder, tmp_path / "hf", "huggingface")
    assert "5.21.1" in (tmp_path / "hf/README.md").read_text()


def written(micro, tmp_path, **processor):
    """A Hugging Face folder of a classifier with these fields in its preprocessor's file."""
    micro.convert(micro.save(micro.make("VideoClassifier"), tmp_path / "o"), tmp_path / "hf",
                  "huggingface")  # fmt: skip
    file = tmp_path / "hf/preprocessor_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **processor}))
    return tmp_path / "hf"


@pytest.mark.parametrize(
    ("processor", "mean", "std"),
    [
        ({"image_mean": [0.5] * 3, "image_std": [0.25] * 3}, [0.5] * 3, [0.25] * 3),
        ({"image_mean": 0.5, "image_std": 0.5}, [0.5] * 3, [0.5] * 3),
        ({"do_normalize": False}, [0] * 3, [1] * 3),
        ({"do_rescale": False, "image_mean": [51] * 3, "image_std": [102] * 3}, [0.2] * 3,
         [0.4] * 3),
        ({"rescale_factor": 2 / 255, "image_mean": [1] * 3, "image_std": [1] * 3}, [0.5] * 3,
         [0.5] * 3),
    ],
)  # fmt: skip
def test_a_processor_of_another_kind(micro, tmp_path, processor, mean, std):
    weights, _ = micro.read(written(micro, tmp_path, **processor))
    np.testing.assert_allclose(weights.extra["mean"], mean)
    np.testing.assert_allclose(weights.extra["std"], std)


@pytest.mark.parametrize(
    "processor",
    [{"image_mean": "grey"}, {"image_std": [1, 0, 1]}, {"image_mean": [0, 1]},
     {"image_std": [float("nan")] * 3}, {"rescale_factor": 0}, {"rescale_factor": None}],
)  # fmt: skip
def test_a_processor_that_makes_no_sense(micro, tmp_path, processor):
    with pytest.raises(UserError, match=next(iter(processor))):
        micro.read(written(micro, tmp_path, **processor))


def test_a_folder_without_a_processor_says_what_is_taken(micro, tmp_path):
    folder = written(micro, tmp_path)
    (folder / "preprocessor_config.json").unlink()
    weights, report = micro.read(folder)
    assert "mean" not in weights.extra
    assert any("ImageNet's are taken" in note for note in report.notes)


@torch.no_grad()
def test_the_class_is_that_of_transformers(micro, tmp_path):
    """Frames, processor and model there; the video, converted, here."""
    transformers = pytest.importorskip("transformers")
    av = pytest.importorskip("av")
    processor = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "size": {"shortest_edge": 40}}
    folder = written(micro, tmp_path, **processor)
    pixels = np.random.default_rng(3).integers(0, 256, (4, 1, 1, 3)) + np.zeros((4, 36, 48, 3))
    with av.open(str(tmp_path / "a.mkv"), "w") as file:
        stream = file.add_stream("ffv1", rate=10)
        stream.height, stream.width, stream.pix_fmt = 36, 48, "bgr0"
        for picture in pixels.astype(np.uint8):
            file.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        file.mux(stream.encode(None))
    frames = [torch.from_numpy(picture).permute(2, 0, 1) for picture in pixels.astype(np.uint8)]
    prepare = transformers.VideoMAEImageProcessor.from_pretrained(folder)
    inputs = prepare(frames, return_tensors="pt")["pixel_values"]
    there = transformers.VideoMAEForVideoClassification.from_pretrained(folder).eval()
    wanted = there(inputs.reshape(1, 4, 3, 32, 32)).logits.softmax(-1)[0]
    micro.convert(folder, tmp_path / "ours")
    assert evaluate.load(tmp_path / "ours").protocol.resize == 40
    (found,) = evaluate.predict(tmp_path / "ours", [tmp_path / "a.mkv"], sampling="segments")
    assert found.labels == wanted.argsort(descending=True).tolist()
    np.testing.assert_allclose(found.probabilities, sorted(wanted.tolist())[::-1], atol=1e-4)


def test_the_shared_folder_with_another_mean(shared, tmp_path, micro):
    folder = shared / "cases/hf_cls_mean05"
    if not folder.is_dir():
        pytest.skip("the made cases (../shared/cases) are not on this machine")
    micro.convert(folder, tmp_path / "ours")
    loaded = evaluate.load(tmp_path / "ours")
    assert loaded.protocol.mean == loaded.protocol.std == (0.5, 0.5, 0.5)
    assert loaded.labels == ["a", "b", "c"]


# --- fine-tuning from weights of another normalisation -------------------------------------------


def resolved(arguments, capsys) -> dict:
    import yaml

    try:
        code = main(["finetune", *arguments, "--print_config"])
    except SystemExit as ended:
        code = ended.code
    assert code in (0, None)
    return yaml.safe_load(capsys.readouterr().out)["data"]


def test_fine_tuning_normalises_as_the_weights_learned(run, capsys):
    init = ["--model.init", str(run.folder)]
    assert resolved(init, capsys)["mean"] == MEAN
    assert resolved(init, capsys)["std"] == STD
    typed = resolved([*init, "--data.mean", "[0.4, 0.4, 0.4]"], capsys)
    assert (typed["mean"], typed["std"]) == ([0.4] * 3, STD)
    scratch = resolved([*init, "--model.scratch", "true"], capsys)
    assert scratch["mean"] == IMAGENET == resolved([], capsys)["mean"]
    assert main(["finetune", "--model.init", str(run.folder / "nowhere")]) == 2
    assert "no model here" in capsys.readouterr().err


def test_another_normalisation_is_not_taken_in_silence(run, caplog):
    model = ClassifierConfig(init=str(run.folder))
    with caplog.at_level(logging.WARNING):
        warn_of_pixels(FinetuneConfig(model=model))
    assert "data.mean" in caplog.text and str(tuple(MEAN)) in caplog.text
    caplog.clear()
    data = DataConfig(mean=tuple(MEAN), std=tuple(STD))
    with caplog.at_level(logging.WARNING):
        warn_of_pixels(FinetuneConfig(model=model, data=data))
    assert caplog.text == ""
    assert init_defaults(SimpleNamespace(model=model)) == {
        "data.mean": tuple(MEAN),
        "data.std": tuple(STD),
    }
