"""Damaged and hostile files: one clear line each, nothing run, nothing left behind."""

import argparse
import io
import json
import os
import pickle
import struct
import subprocess
import zipfile

import pytest
import torch
from safetensors.torch import load_file, save_file

import videohpm
from videohpm.checkpoint import weights
from videohpm.errors import UserError
from videohpm.interop.core import ratio_of

GIVEN = {"frames": 4, "image_size": 32, "heads": 3, "decoder_heads": 2}


def refused(micro, source, tmp_path, match, **options):
    """``convert`` says one line that names the file, and makes nothing."""
    with pytest.raises(UserError, match=match) as caught:
        micro.convert(source, tmp_path / "made", **GIVEN | options)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 500 + 2 * len(str(source))
    assert not list(tmp_path.glob("*made*"))
    return message


@pytest.fixture
def good(micro, tmp_path):
    """A good VideoMAE file and its tree."""
    micro.save(micro.make("MaskedAutoencoder", predictor_unit=None), tmp_path / "ours")
    micro.convert(tmp_path / "ours", tmp_path / "good", "videomae")
    file = tmp_path / "good/checkpoint.pth"
    return file, torch.load(file, weights_only=True)


class Command:
    """Pickles into a call."""

    def __init__(self, call, *arguments):
        self.call, self.arguments = call, arguments

    def __reduce__(self):
        return self.call, self.arguments


@pytest.mark.parametrize("how", ["zip", "legacy", "bare", "bin"])
@pytest.mark.parametrize("call", [os.system, subprocess.check_output, eval, getattr])
def test_a_pickle_that_would_run_a_command(micro, tmp_path, good, how, call):
    marker = tmp_path / "it_ran"
    text = f"open({str(marker)!r}, 'w')" if call is eval else f"touch {marker}"
    arguments = (["touch", str(marker)],) if call is subprocess.check_output else (text,)
    tree = dict(good[1], args=Command(call, *arguments))
    file = tmp_path / "evil.pth"
    if how == "bare":
        file.write_bytes(pickle.dumps(tree["args"]))
    elif how == "bin":
        (tmp_path / "evil").mkdir()
        (tmp_path / "evil/config.json").write_text('{"model_type": "videomae"}')
        torch.save(tree, tmp_path / "evil/pytorch_model.bin")
        file = tmp_path / "evil"
    else:
        torch.save(tree, file, _use_new_zipfile_serialization=how == "zip")
    message = refused(micro, file, tmp_path, "evil")
    assert "refused, nothing of it was run" in message
    assert how == "bare" or call.__name__ in message  # a recent bare pickle is no checkpoint at all
    assert not marker.exists()


@pytest.mark.parametrize("kept", [0, 1, 9, 200, 0.3, 0.9, 0.999])
@pytest.mark.parametrize("how", ["zip", "legacy", "safetensors"])
def test_a_truncated_file(micro, tmp_path, good, kept, how):
    file, tree = good
    if how == "safetensors":
        file = tmp_path / "a.safetensors"
        save_file(tree["model"], file)
    elif how == "legacy":
        file = tmp_path / "legacy.pth"
        torch.save(tree, file, _use_new_zipfile_serialization=False)
    whole = file.read_bytes()
    micro.read(file, **GIVEN)
    cut = tmp_path / f"cut{file.suffix}"
    cut.write_bytes(whole[: kept if isinstance(kept, int) else int(len(whole) * kept)])
    refused(micro, cut, tmp_path, "cut.*(damaged|not a checkpoint)")


def test_bytes_of_anything(micro, tmp_path):
    file = tmp_path / "noise.pth"
    for content in (os.urandom(4096), b"{}", b"PK\x03\x04" + bytes(100), b"<html>no such page"):
        file.write_bytes(content)
        refused(micro, file, tmp_path, "noise.pth: .*(not a checkpoint|damaged)")


def test_a_zip_bomb(micro, tmp_path, good):
    file, _ = good
    bomb = tmp_path / "bomb.pth"
    with zipfile.ZipFile(file) as old, zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as new:
        for entry in old.infolist():
            large = entry.filename.endswith("data/0")
            new.writestr(entry.filename, bytes(1 << 26) if large else old.read(entry))
    assert bomb.stat().st_size < 1 << 21
    refused(micro, bomb, tmp_path, r"would unpack to 67\d+; torch never compresses")


def test_a_tensor_larger_than_what_is_stored(micro, tmp_path, good):
    _, tree = good
    tree["model"]["mask_token"] = torch.zeros(1).expand(1 << 20, 1 << 20)
    torch.save(tree, tmp_path / "bomb.pth")
    refused(micro, tmp_path / "bomb.pth", tmp_path, "mask_token claims .* stores 4 bytes")


def test_a_safetensors_header_that_lies(micro, tmp_path):
    header = json.dumps({"a": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}})
    file = tmp_path / "a.safetensors"
    file.write_bytes(struct.pack("<Q", len(header)) + header.encode() + bytes(64))
    refused(micro, file, tmp_path, "damaged or cut short")
    file.write_bytes(struct.pack("<Q", 1 << 60) + b"{}")
    refused(micro, file, tmp_path, "damaged or cut short")


def test_not_weights(micro, tmp_path):
    for tree, match in (
        ([1, 2], "holds a list"), ({}, "it holds nothing"), ({"epoch": 3}, "it holds epoch"),
        ({"a.weight": torch.zeros(2)}, "no known layout .* a.weight"),
        ({"model": {"a": torch.zeros(3).to_sparse()}}, "not a plain dense tensor"),
    ):  # fmt: skip
        torch.save(tree, tmp_path / "a.pth")
        refused(micro, tmp_path / "a.pth", tmp_path, match)
    refused(micro, tmp_path / "nothing", tmp_path, "there is no such file")
    (tmp_path / "empty").mkdir()
    refused(micro, tmp_path / "empty", tmp_path, "name the file to convert")


def test_a_renamed_key_and_how_to_allow_it(micro, tmp_path, good):
    _, tree = good
    moved = "encoder.blocks.1.norm1.bias"
    tree["model"]["encoder.blocks.1.norm1.shift"] = tree["model"].pop(moved)
    torch.save(tree, tmp_path / "a.pth")
    message = refused(micro, tmp_path / "a.pth", tmp_path, f"{moved}: missing")
    assert "encoder.blocks.1.norm1.shift: not in the model" in message
    refused(micro, tmp_path / "a.pth", tmp_path, "not in the model", allow_missing=(moved,))
    allow = (moved, "encoder.*.shift")
    weights, report = micro.read(tmp_path / "a.pth", allow_missing=allow, **GIVEN)
    assert report.missing == {moved: "keeps its initial value, allowed by allow_missing"}
    assert report.left_over["encoder.blocks.1.norm1.shift"] == "allowed by allow_missing"
    assert torch.equal(weights.tensors[moved], torch.zeros(24))


@pytest.mark.parametrize("lost", [
    "mask_token", "encoder_to_decoder.weight", "encoder.patch_embed.proj.bias",
    "encoder.blocks.0.attn.q_bias", "encoder.blocks.0.mlp.fc1.weight", "decoder.norm.weight",
])  # fmt: skip
def test_any_missing_tensor(micro, tmp_path, good, lost):
    _, tree = good
    del tree["model"][lost]
    torch.save(tree, tmp_path / "a.pth")
    refused(micro, tmp_path / "a.pth", tmp_path, "missing")


def test_a_missing_block_in_the_middle(micro, tmp_path, good):
    _, tree = good
    tree["model"] = {n: t for n, t in tree["model"].items() if "encoder.blocks.0." not in n}
    torch.save(tree, tmp_path / "a.pth")
    refused(micro, tmp_path / "a.pth", tmp_path, r"encoder.blocks.0.\S+ is missing")


@pytest.mark.parametrize("name", ["encoder.blocks.1.mlp.fc1.weight", "decoder.head.weight",
                                  "mask_token", "encoder.blocks.0.attn.q_bias"])  # fmt: skip
def test_a_wrong_size(micro, tmp_path, good, name):
    _, tree = good
    tensor = tree["model"][name]
    tree["model"][name] = torch.cat([tensor, tensor], -1)
    torch.save(tree, tmp_path / "a.pth")
    refused(micro, tmp_path / "a.pth", tmp_path, "wrong size")


def test_folders_whose_config_lies(micro, tmp_path):
    micro.save(micro.make("VideoClassifier"), tmp_path / "ours")
    micro.convert(tmp_path / "ours", tmp_path / "hf", "huggingface")
    config = json.loads((tmp_path / "hf/config.json").read_text())
    for change, match in (
        ({"hidden_size": 48}, "wrong size"),
        ({"num_hidden_layers": 3}, "blocks.2.\\S+, .* missing"),
        ({"num_attention_heads": 5}, "heads"),
        ({"image_size": 1 << 30}, "too many"),
        ({"hidden_size": 1 << 30, "num_attention_heads": 1}, "beyond the limit"),
        ({"num_frames": "four"}, "num_frames is 'four', not a positive whole number"),
        ({"hidden_act": "relu"}, "hidden_act"),
        ({"model_type": "vivit"}, "config.json of a VideoMAE model"),
        ({"layer_norm_eps": "x"}, "layer_norm_eps"),
    ):
        (tmp_path / "hf/config.json").write_text(json.dumps(config | change))
        options = dict.fromkeys(GIVEN)
        refused(micro, tmp_path / "hf", tmp_path, match, **options)
    (tmp_path / "hf/config.json").write_text("{" * 100_000)
    refused(micro, tmp_path / "hf", tmp_path, "cannot be read as JSON")


def test_our_own_folder_with_a_lying_config(micro, tmp_path):
    folder = micro.save(micro.make("VideoViT"), tmp_path / "ours")
    about = json.loads((folder / "config.json").read_text())
    for change, match in (
        ({"kind": "Pipeline"}, "config.json"),
        ({"version": None}, "config.json"),
        ({"model": {"dim": 1 << 40}}, "beyond the limit|too many"),
        ({"model": about["model"] | {"frames": 1 << 40}}, "too many"),
        ({"model": about["model"] | {"nonsense": 1}}, "nonsense"),
        ({"model": about["model"] | {"dim": 48}}, "wrong size"),
        ({"model": [1]}, "config.json"),
        ({"version": 0}, "version 0 of the format is not known"),
        ({"version": True}, "version True of the format is not known"),
        ({"model": about["model"] | {"heads": 0}}, "heads: 0 is less than 1"),
        ({"model": about["model"] | {"dim": -24}}, "dim: -24 is less than 1"),
        ({"model": about["model"] | {"depth": -1}}, "depth: -1 is less than 0"),
        ({"model": about["model"] | {"mlp_ratio": 1e9}}, "mlp_ratio: .* is not between"),
        ({"model": about["model"] | {"mlp_ratio": float("nan")}}, "mlp_ratio"),
        ({"model": about["model"] | {"image_size": [32, -32]}}, "image_size"),
    ):
        (folder / "config.json").write_text(json.dumps(about | change))
        refused(micro, folder, tmp_path, match)
        with pytest.raises(UserError, match="config.json|does not fit the model"):
            videohpm.load_model(folder)
    for broken, match in (
        ({n: v for n, v in about.items() if n != "version"}, "'version' is missing"),
        ([about], "cannot be read"),
    ):
        (folder / "config.json").write_text(json.dumps(broken))
        with pytest.raises(UserError, match=match):
            videohpm.load_model(folder)


def test_a_model_is_compared_with_its_file_before_it_is_built(micro, tmp_path, monkeypatch):
    """A width that the file does not have: refused with no memory for that width asked for."""
    folder = micro.save(micro.make("VideoViT"), tmp_path / "ours")
    about = json.loads((folder / "config.json").read_text())
    about["model"] |= {"dim": 1 << 14, "heads": 1, "depth": 500}
    (folder / "config.json").write_text(json.dumps(about))
    monkeypatch.setattr(weights, "build_model", lambda config: pytest.fail("built"))
    with pytest.raises(UserError, match="model.safetensors: does not fit the model"):
        videohpm.load_model(folder)


def test_hints_that_lie_are_not_believed(micro, tmp_path, good):
    """What videohpm writes beside the weights is read only where its type is right."""
    _, tree = good
    hints = {"heads": [3, 2], "frames": "four", "decoder_heads": "two", "image_size": {}}
    torch.save(tree | {"videohpm": hints}, tmp_path / "a.pth")
    weights, _ = micro.read(tmp_path / "a.pth", **GIVEN)
    assert weights.encoder_config.heads == 3 and weights.encoder_config.frames == 4
    refused(micro, tmp_path / "a.pth", tmp_path, "give --heads", heads=None)
    for pair in ([32, 32], "224"):
        args = argparse.Namespace(num_frames=pair, input_size=pair)
        torch.save({"model": tree["model"], "args": args}, tmp_path / "b.pth")
        refused(micro, tmp_path / "b.pth", tmp_path, "model", frames=None, image_size=None)


def test_shards_stay_in_their_folder(micro, tmp_path):
    save_file({"a": torch.zeros(1)}, tmp_path / "secret.safetensors")
    (tmp_path / "hf").mkdir()
    index = {"weight_map": {"a": "../secret.safetensors"}}
    (tmp_path / "hf/model.safetensors.index.json").write_text(json.dumps(index))
    refused(micro, tmp_path / "hf", tmp_path, "outside the folder")


def test_where_it_may_write(micro, tmp_path, good):
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine.txt").write_text("mine")
    for out, match in ((tmp_path / "full", "not empty"), (tmp_path / "a.pth", "give a folder")):
        with pytest.raises(UserError, match=match):
            micro.convert(good[0], out, **GIVEN)
    assert (tmp_path / "full/mine.txt").read_text() == "mine"
    with pytest.raises(UserError, match="to: 'onnx' is not one of"):
        micro.convert(good[0], tmp_path / "out", "onnx", **GIVEN)
    with pytest.raises(UserError, match="heads: 0"):
        micro.convert(good[0], tmp_path / "out", heads=0)
    with pytest.raises(UserError, match="no moving average"):
        micro.convert(good[0], tmp_path / "out", weights="ema")


def test_what_is_written_is_plain(micro, tmp_path, good):
    """Our ``.pth`` loads with weights_only and no allow-list, and holds no shared storage."""
    tree = torch.load(io.BytesIO(good[0].read_bytes()), weights_only=True)
    assert set(tree) == {"model", "videohpm"}
    micro.convert(good[0], tmp_path / "hf", "huggingface", **GIVEN)
    assert load_file(tmp_path / "hf/model.safetensors").keys()


def test_ratio_gives_back_the_hidden_width():
    for dim in range(1, 200):
        for hidden in range(1, 900, 7):
            assert int(dim * ratio_of(hidden, dim)) == hidden


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_values_that_are_not_finite_are_named(micro, tmp_path, good, value):
    file, tree = good
    tree["model"]["encoder.blocks.0.mlp.fc1.bias"][-1] = value
    torch.save(tree, file)
    refused(micro, file, tmp_path, "not every value of .*blocks.0.mlp.fc1.bias is finite")


def nested(value, levels):
    """A tuple of the same tuple twice, and so on: small to store, and 2**levels to hash."""
    for _ in range(levels):
        value = (value, value)
    return value


@pytest.mark.parametrize("how", ["zip", "legacy", "torch.Size"])
def test_keys_that_take_for_ever_to_hash_are_refused_before_any_is_made(micro, tmp_path, good, how):
    file, _ = good
    key = pickle.dumps(nested(1, 40), 2)[2:-1]
    if how == "torch.Size":  # hashes as the tuple of which it is made
        key = b"ctorch\nSize\n" + key + b"\x85R"
    pickled = b"\x80\x02}" + key + b"K\x01s."  # {key: 1}, which Python could not make
    if how == "legacy":
        head = [0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}]
        content = b"".join(pickle.dumps(value, 2) for value in head)
        file.write_bytes(content + pickled + pickle.dumps([], 2))
    else:
        with zipfile.ZipFile(file) as archive:
            names = {n: archive.read(n) for n in archive.namelist()}
        with zipfile.ZipFile(file, "w") as archive:
            for name, held in names.items():
                archive.writestr(name, pickled if name.endswith("data.pkl") else held)
    refused(micro, file, tmp_path, "refused: its pickle nests keys")


def test_many_tensors_and_what_training_keeps_beside_them_are_no_nested_keys(micro, tmp_path, good):
    file, tree = good
    state = {n: {"step": n, "exp_avg": torch.zeros(3), "betas": (0.9, 0.95)} for n in range(500)}
    kept = {(n, (n, "pair")): torch.Size([n, n]) for n in range(500)}
    beside = {"optimizer": {"state": state}, "args": argparse.Namespace(a=nested(1, 10))}
    torch.save(tree | beside | {"kept": kept}, file)
    micro.read(file, **GIVEN)


@pytest.mark.parametrize("index", [{"weight_map": {"a": {"b": "c"}}}, {"weight_map": [["a"]]},
                                   {"weight_map": {"a": 5}}, {}])  # fmt: skip
def test_index_maps_of_another_shape(micro, tmp_path, index):
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf/model.safetensors.index.json").write_text(json.dumps(index))
    refused(micro, tmp_path / "hf", tmp_path, "weight_map is not a table")
