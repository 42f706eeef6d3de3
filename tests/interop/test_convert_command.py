"""The command around the conversion: what it prints and how it ends."""

import pickle

import pytest

from videohpm.cli import main
from videohpm.errors import UserError


def test_it_says_what_it_recognised_and_accounts_for_every_tensor(shared, tmp_path, capsys):
    source = shared / "reference/videomae_pretrain.pth"
    assert (
        main(
            ["convert", str(source), str(tmp_path / "out"), "--heads", "3", "--decoder_heads", "2"]
        )
        == 0
    )
    said = capsys.readouterr().out
    assert "videomae" in said
    assert (tmp_path / "out/model.safetensors").is_file()


def test_a_hostile_file_is_one_line_and_runs_nothing(tmp_path, capsys):
    mark = tmp_path / "ran"

    class Hostile:
        def __reduce__(self):
            return (open, (str(mark), "w"))

    with (tmp_path / "bad.pth").open("wb") as file:
        pickle.dump({"model": Hostile()}, file)
    assert main(["convert", str(tmp_path / "bad.pth"), str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err.strip()
    assert len(said.splitlines()) == 1
    assert "bad.pth" in said
    assert not mark.exists()
    assert not (tmp_path / "out").exists()


def test_an_unknown_layout_is_a_users_mistake(tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("hello")
    assert main(["convert", str(tmp_path / "notes.txt"), str(tmp_path / "out")]) == 2
    assert "notes.txt" in capsys.readouterr().err


STATED = {"frames": 4, "image_size": 32, "heads": 3, "decoder_heads": 2}


@pytest.mark.parametrize("name", STATED)
def test_our_weights_refuse_another_size_than_they_state(micro, tmp_path, capsys, name):
    source = micro.save(micro.make("MaskedAutoencoder"), tmp_path / "ours")
    words = ["convert", str(source), str(tmp_path / "out"), f"--{name}"]
    assert main([*words, "64"]) == 2
    said = capsys.readouterr().err.strip()
    assert said.endswith(f"{name}: 64, but {source} has {STATED[name]}; leave it out")
    assert not (tmp_path / "out").exists()
    assert main([*words, str(STATED[name])]) == 0


def test_other_layouts_refuse_sizes_that_they_would_ignore(micro, tmp_path):
    micro.save(micro.make("VideoViT", **micro.IMAGE), tmp_path / "ours")
    micro.convert(tmp_path / "ours", tmp_path / "timm", "timm")
    with pytest.raises(UserError, match="frames: 8, but .* has 1; leave it out, or give --inflate"):
        micro.read(tmp_path / "timm", frames=8)
    with pytest.raises(UserError, match="decoder_heads: 2, but no decoder is read"):
        micro.read(tmp_path / "timm", decoder_heads=2)
    assert micro.read(tmp_path / "timm", frames=8, inflate=2)[0].grid.frames == 8


@pytest.mark.parametrize("inner", ["", "/inner"])
def test_a_file_in_the_way_of_an_export_is_a_users_mistake(micro, tmp_path, capsys, inner):
    source = micro.save(micro.make("VideoViT"), tmp_path / "ours")
    (tmp_path / "notes.txt").write_text("mine")
    assert main(["export", str(source), f"{tmp_path}/notes.txt{inner}"]) == 2
    said = capsys.readouterr().err.strip()
    assert len(said.splitlines()) == 1 and f"out: {tmp_path}/notes.txt is a file" in said
    assert (tmp_path / "notes.txt").read_text() == "mine"
