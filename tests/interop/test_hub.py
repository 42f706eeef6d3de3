"""Models by the names of the Hub: what is downloaded, uploaded and told, on a Hub of our own."""

import json
import re
import sys
from pathlib import Path

import pytest
import torch
import yaml
from huggingface_hub import constants
from safetensors.torch import load_file
from stub_hub import ask, asked_hub

import videohpm
from videohpm import hub
from videohpm.cli import main
from videohpm.errors import RunError, UserError


@pytest.fixture
def stub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with asked_hub(monkeypatch, tmp_path / "cache") as stub:
        yield stub


def same(one, other) -> bool:
    pairs = zip(one.state_dict().items(), other.state_dict().items(), strict=True)
    return all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs)


def test_by_name(micro, tmp_path, stub):
    one, other = micro.make("MaskedAutoencoder", 1), micro.make("VideoClassifier", 2)
    names = list("abcde")
    stub.put("org/one", micro.save(one, tmp_path / "one", mean=[0.5] * 3))
    stub.put("org/one", micro.save(other, tmp_path / "other", labels=names), "v2")
    model = videohpm.load_model("org/one")
    assert same(model, one) and model.metadata["mean"] == [0.5] * 3
    assert same(videohpm.load_encoder("org/one"), one.encoder)
    assert sorted(stub.fetched()) == ["config.json", "model.safetensors"]  # once
    second = videohpm.load_model("org/one@v2")
    assert same(second, other) and second.metadata["labels"] == names
    assert same(videohpm.load_model("org/one", revision="v2", cache_dir="own"), other)
    assert list((tmp_path / "own").rglob("model.safetensors"))
    assert same(videohpm.MaskedAutoencoder.from_pretrained("hf://org/one"), one)
    with pytest.raises(UserError, match="org/one: holds a MaskedAutoencoder, not a VideoClassif"):
        videohpm.VideoClassifier.from_pretrained("org/one")


def test_a_layout_that_is_not_ours(micro, tmp_path, stub):
    """As published models are: with pickled weights, and another config.json."""
    model = micro.make("VideoClassifier", 2)
    micro.convert(micro.save(model, tmp_path / "ours"), tmp_path / "hf", "huggingface")
    tensors = load_file(tmp_path / "hf/model.safetensors")
    (tmp_path / "hf/model.safetensors").unlink()
    torch.save(tensors, tmp_path / "hf/pytorch_model.bin")
    stub.put("org/hf", tmp_path / "hf")
    assert same(videohpm.VideoClassifier.from_pretrained("org/hf"), model)
    with pytest.raises(UserError, match="no model in the layout of videohpm|no model here"):
        videohpm.load_model("org/hf")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("here/nothing", "here/nothing: no model here; give a run folder"),
        ("org/none", "org/none: no such path here, and the Hub has no such model, or it is priv"),
        ("org/one@v9", "org/one: no such path here, and the Hub has no revision v9 of it"),
    ],
)
def test_what_is_not_there(micro, tmp_path, stub, name, said):
    micro.save(micro.make("VideoViT", 3), tmp_path / "here/model")
    stub.put("org/one", tmp_path / "here/model")
    stub.put("here/model", micro.save(micro.make("VideoViT", 4), tmp_path / "there"))
    assert same(videohpm.load_model("here/model"), micro.make("VideoViT", 3))
    with pytest.raises(UserError) as error:
        videohpm.load_model(name)
    assert str(error.value).startswith(said) and "\n" not in str(error.value)
    assert not any("here/" in request for request in stub.requests)


def test_offline(micro, tmp_path, stub, monkeypatch):
    model = micro.make("VideoViT", 3)
    stub.put("org/one", micro.save(model, tmp_path / "one"))
    videohpm.load_model("org/one")
    stub.requests.clear()
    hub._download.cache_clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert same(videohpm.load_model("org/one"), model)
    with pytest.raises(UserError, match="the Hub cannot be reached .offline.. and its cache does"):
        videohpm.load_model("org/never")
    assert stub.requests == []
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    ask(monkeypatch, "http://127.0.0.1:9")  # nothing listens there
    with pytest.raises(UserError, match="the Hub cannot be reached .offline.. and its cache does"):
        videohpm.load_model("org/never")
    with pytest.raises(RunError, match="push: org/model: the Hub cannot be reached .offline..$"):
        model.push_to_hub("org/model")
    hub._download.cache_clear()
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match=r"use the Hugging Face Hub: pip install 'videohpm\[hub\]'"):
        videohpm.load_model("org/one")


def test_upload(micro, tmp_path, stub, capsys):
    model = micro.make("VideoClassifier", 1)
    model.metadata = {"labels": list("abcde"), "mean": [0.5] * 3, "std": [0.25] * 3}
    assert model.push_to_hub("org/model", private=True).startswith(f"{stub.address}/org/model/com")
    assert stub.private == {"org/model"}
    assert sorted(stub.models["org/model"]["main"]) == [
        "README.md", "config.json", "model.safetensors"
    ]  # fmt: skip
    again = videohpm.VideoClassifier.from_pretrained("org/model")
    assert same(again, model) and again.metadata == model.metadata

    model.save_pretrained(tmp_path / "w")
    convert = ["convert", "w", "out", "--to", "huggingface", "--push", "org/hf@draft"]
    assert main([*convert, "--license", "mit"]) == 0
    assert f"uploaded: {stub.address}/org/hf/commit/" in capsys.readouterr().out
    assert set(stub.models["org/hf"]["draft"]) == {
        "README.md", "config.json", "model.safetensors", "preprocessor_config.json"
    }  # fmt: skip
    assert b"license: mit" in stub.models["org/hf"]["draft"]["README.md"]
    assert not stub.models["org/hf"]["main"] and "org/hf" not in stub.private
    assert main(["convert", "org/hf@draft", "again"]) == 0
    assert videohpm.load_model("again").metadata["labels"] == list("abcde")


@pytest.mark.parametrize(
    ("refuse", "token", "said", "code"),
    [
        (403, "good", "the Hub does not let you write there; check the name and your token", 2),
        (None, "bad", "the Hub does not know you; log in: hf auth login", 2),
        (500, "good", "the Hub answered: ", 1),
    ],
)
def test_uploads_that_are_refused(micro, tmp_path, stub, capsys, monkeypatch, refuse, token, said,
                                  code):  # fmt: skip
    stub.refuse = refuse
    monkeypatch.setenv("HF_TOKEN", token)
    micro.save(micro.make("VideoViT"), tmp_path / "w")
    assert main(["convert", "w", "out", "--push", "org/model"]) == code
    error = capsys.readouterr().err
    assert f"push: org/model: {said}" in error and "out is complete" in error
    assert error.count("\n") == 1 and (tmp_path / "out/model.safetensors").is_file()


def test_what_is_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path in ("runs/pretrain", "data/clips"):  # where our own commands write
        assert not hub.is_name(path), path
    (tmp_path / "mine/demo").mkdir(parents=True)
    for name in ("org/model", "org/model@v2", "MCG-NJU/videomae-base", "hf://mine/demo"):
        assert hub.is_name(name), name
    here = (
        "mine/demo",
        "mine/typo",
        "model",
        "/org/model",
        "a/b/c",
        "../org/model",
        "org/",
        "./x/y",
    )
    for path in here:
        assert not hub.is_name(path), path
        assert hub.resolve(path) == Path(path)
    assert hub.split_name("hf://org/model@a/b") == ("org/model", "a/b")
    with pytest.raises(UserError, match="hf://model: no name on the Hub; give org/name"):
        hub.resolve("hf://model")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--push", "model"], "push: 'model'; give org/name"),
        (["--private", "true"], "private: is for what is uploaded; give --push org/name too"),
    ],
)
def test_mistakes_are_found_before_the_work(micro, tmp_path, capsys, arguments, told):
    micro.save(micro.make("VideoViT"), tmp_path / "w")
    assert main(["convert", str(tmp_path / "w"), str(tmp_path / "out"), *arguments]) == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", ["MaskedAutoencoder", "VideoClassifier", "VideoViT"])
def test_saved_and_read_again_here(micro, tmp_path, kind):
    model = micro.make(kind, 1)
    model.metadata = {"mean": [0.5] * 3, "recipe": {"optim": {"base_lr": 1e-3}}}
    assert model.save_pretrained(tmp_path / "w") == tmp_path / "w"
    again = type(model).from_pretrained(tmp_path / "w")
    assert all(torch.equal(t, again.state_dict()[n]) for n, t in model.state_dict().items())
    assert again.metadata == model.metadata and not again.training
    assert type(again).metadata == {}  # of the class, not of all models
    micro.convert(tmp_path / "w", tmp_path / "hf", "huggingface")
    there = type(model).from_pretrained(tmp_path / "hf")  # a layout that is not ours
    shared = there.state_dict().keys()
    assert shared and all(torch.equal(there.state_dict()[n], model.state_dict()[n]) for n in shared)


def test_the_card_is_filled_from_the_run(shapes, micro, tmp_path):
    source = micro.save(
        micro.make("MaskedAutoencoder", predictor_depth=1), tmp_path / "old-weights"
    )
    folder = tmp_path / "private-place" / "run"
    arguments = [
        "--model.init", source, "--data.root", shapes / "train", "--run.dir", folder,
        "--run.steps", 2, "--run.picture_every", 0, "--data.workers", 0, "--data.stride", 1,
        "--mask.ratio", 0.5, "--optim.global_batch_size", 4, "--engine.device", "cpu",
    ]  # fmt: skip
    assert main(["pretrain", *map(str, arguments)]) == 0
    model = videohpm.MaskedAutoencoder.from_pretrained(folder)
    model.save_pretrained(tmp_path / "saved")
    assert main(["convert", str(folder), str(tmp_path / "out"), "--license", "cc-by-nc-4.0"]) == 0
    last = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    for name, licence in (("saved", "other"), ("out", "cc-by-nc-4.0")):
        card = (tmp_path / name / "README.md").read_text()
        assert str(tmp_path) not in card and "private-place" not in card
        _, front, body = card.split("---\n", 2)
        assert yaml.safe_load(front) == {
            "license": licence, "library_name": "videohpm", "tags": ["video", "masked-autoencoder"]
        }  # fmt: skip
        assert "## Data\n\ntrain (32 samples)\n" in body
        (recipe,) = re.findall(r"## Recipe\n.*?```yaml\n(.*?)```", body, re.DOTALL)
        recipe = yaml.safe_load(recipe)
        assert recipe["optim"] == {"global_batch_size": 4} and recipe["steps_done"] == 2
        assert recipe["model"]["init"] == "old-weights" and recipe["mask"] == {"ratio": 0.5}
        assert f"| loss | {last['loss']} |" in body and "## Limits" in body
        assert "4 frames of 32x32 pixels" in body
    assert "converted" in card or "Conversion" in card
