"""Inputs that fuzzing found (tests/fuzzing), each for its kind; and a short round of it."""

import json
import subprocess
import sys
import tracemalloc

import pytest
import torch
from safetensors.torch import save_file

from videohpm.cli import main
from videohpm.config.dataset_info import read_dataset_info
from videohpm.data.scan import Journal
from videohpm.errors import UserError
from videohpm.evaluate.extraction import read_features
from videohpm.interop.pickles import load_pickled

NAMED = {"samples": 4, "shard": 4, "format": "safetensors"}


@pytest.mark.parametrize(
    "text",
    [
        b"run: {dir: a\xff}", b"\xff\xfe", b"[" * 20_000, b"run: {steps: !!int ''}",
        b"run: {steps: !!bool x}", b"run: {steps: !!timestamp x}",
    ],
    ids=["latin", "utf-16", "deep", "int", "bool", "timestamp"],
)  # fmt: skip
def test_a_config_that_is_no_text_is_one_line(tmp_path, capsys, text):
    file = tmp_path / "config.yaml"
    file.write_bytes(text)
    assert main(["pretrain", "--config", str(file)]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"videohpm: {file}: ") and said.count("\n") == 1


@pytest.mark.parametrize("text", ["[" * 20_000, "{" * 9000, "name: !!int ''"])
def test_a_data_set_that_nests_without_end_is_one_line(tmp_path, text):
    (tmp_path / "dataset.yaml").write_text(text)
    with pytest.raises(UserError, match="cannot be read"):
        read_dataset_info(tmp_path)


@pytest.mark.parametrize(
    "change", [{"shard": 0}, {"samples": 0}, {"samples": "x"}, {"format": 3}, {"samples": 10**30}]
)
def test_a_folder_of_features_that_says_what_cannot_be(tmp_path, change):
    (tmp_path / "features.json").write_text(json.dumps(NAMED | change))
    with pytest.raises(UserError, match="not a complete folder of features"):
        read_features(tmp_path)


@pytest.mark.parametrize("data", [b"", b"\xff" * 8, b"\x02" + bytes(7) + b"{}"])
def test_a_shard_of_features_that_is_none(tmp_path, data):
    (tmp_path / "features.json").write_text(json.dumps(NAMED))
    (tmp_path / "features_00000.safetensors").write_bytes(data)
    with pytest.raises(UserError, match="not a complete folder of features"):
        read_features(tmp_path)


def test_a_shard_whose_tensors_do_not_go_together(tmp_path):
    (tmp_path / "features.json").write_text(json.dumps(NAMED))
    arrays = {"index": torch.arange(4), "errors": torch.tensor([123, 125]).byte()}
    save_file(arrays, tmp_path / "features_00000.safetensors")
    with pytest.raises(UserError, match="not a complete folder of features"):
        read_features(tmp_path)


@pytest.mark.parametrize("line", ['{"path": "a"}', "3", "[]", '{"path": []}', "[" * 5000, "\x00"])
def test_lines_of_a_scans_journal_that_are_none_are_left_out(tmp_path, line):
    good = {"path": "b", "reason": None, "size": 1, "changed": 2}
    (tmp_path / "j.jsonl").write_text(f"{line}\n{json.dumps(good)}\n")
    journal = Journal(tmp_path / "j.jsonl", retry=True)
    assert list(journal.load()) == ["b"]
    assert not journal.is_current(journal.load()["b"], "b")


@pytest.mark.parametrize("byte", [0, 1, 255])
def test_the_end_of_a_zip_in_which_any_byte_is_wrong(tmp_path, byte):
    """Where the archive's table of contents, and parts of it on other disks, are said to be."""
    file = tmp_path / "weights.pth"
    torch.save({"model": {"w": torch.arange(3.0)}}, file)
    sound, refused = file.read_bytes(), 0
    for place in range(len(sound) - 150, len(sound)):
        file.write_bytes(sound[:place] + bytes([byte]) + sound[place + 1 :])
        try:
            load_pickled(file)
        except UserError as error:
            assert str(error).startswith(f"{file}: ")
            refused += 1
    assert refused > 20


@pytest.mark.parametrize("opcode", [b"X", b"B", b"T"], ids=["text", "bytes", "string"])
def test_a_pickle_that_says_it_is_long_takes_no_memory(tmp_path, monkeypatch, opcode):
    file = tmp_path / "a.pth"
    file.write_bytes(b"\x80\x03" + opcode + b"\xff\xff\xff\x7f" + b"abc")
    monkeypatch.setattr(torch, "load", lambda *_, **__: 1 / 0)  # which bounds its own reading
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match="not a checkpoint, or damaged"):
            load_pickled(file)
        assert tracemalloc.get_traced_memory()[1] < 50 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.slow
def test_a_short_round_of_fuzzing_finds_nothing(root):
    command = [sys.executable, root / "tests/fuzzing", "--inputs", "1500", "--seed", "50000000"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "inputs over 10 parsers: 0 tracebacks" in done.stdout.splitlines()[-1]
