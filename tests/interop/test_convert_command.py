"""The command around the conversion: what it prints and how it ends."""

import pickle

from videohpm.cli import main


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
