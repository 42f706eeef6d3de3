"""Damage to a checkpoint is noticed, named and not trained on, and costs no more than it must."""

import re

import pytest
import torch
from made_runs import Run, same
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import videohpm
from videohpm import checkpoint
from videohpm.checkpoint.checksums import read_tensors
from videohpm.cli import main
from videohpm.errors import UserError


@pytest.fixture
def run(tmp_path):
    """A run two steps old with a checkpoint of each, and its folder."""
    run = Run().start()
    for step in (1, 2):
        run.step()
        run.save(tmp_path, step)
    return run, tmp_path


def flip(file, position: int) -> None:
    """Turn one bit of a file over."""
    content = bytearray(file.read_bytes())
    content[position] ^= 1 << position % 8
    file.write_bytes(content)


@pytest.mark.parametrize("file", ["model", "teacher", "optimizer"])
def test_a_flipped_bit_is_never_trained_on(run, file):
    """Anywhere in the tensors, and anywhere in what precedes them, however it is read."""
    _, folder = run
    path = checkpoint.latest(folder) / f"{file}.safetensors"
    sound = path.read_bytes()
    begin = 8 + int.from_bytes(sound[:8], "little")
    first = load_file(path)
    for position in range(begin, len(sound), (len(sound) - begin) // 8):
        flip(path, position)
        said = rf"{file}\.safetensors: damaged \(\S+ is not what was written\)$"
        with pytest.raises(UserError, match=said):
            Run(seed=1).load(checkpoint.latest(folder))
        path.write_bytes(sound)
    read_as = {
        "model": lambda: videohpm.load_model(folder).state_dict(),
        "teacher": lambda: videohpm.load_teacher(folder).model.state_dict(),
        "optimizer": lambda: read_tensors(path),
    }[file]
    for position in range(0, begin, 41):
        flip(path, position)
        try:
            found = read_as()
        except UserError as error:
            assert "\n" not in str(error)
        else:  # in what nobody reads
            assert all(torch.equal(found[name], first[name]) for name in first)
        path.write_bytes(sound)


@pytest.mark.parametrize("command", [["export"], ["convert"]])
def test_a_flipped_bit_is_not_exported(run, tmp_path, command, capsys):
    _, folder = run
    path = checkpoint.latest(folder) / "model.safetensors"
    flip(path, path.stat().st_size - 3)
    places = [str(folder), str(tmp_path / "out")]
    if command == ["convert"]:
        places = [*places, "--to", "videohpm"]
    assert main([*command, *places]) == 2
    assert re.search(r"model\.safetensors: damaged \(\S+ is not what was", capsys.readouterr().err)
    assert not (tmp_path / "out").exists()


def rewrite(file, change) -> None:
    """Change a file of weights as somebody else's program would: it has no checksums then."""
    weights = load_file(file)
    change(weights)
    save_file(weights, file)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("file", ["model", "optimizer"])
def test_values_that_are_not_finite_are_not_loaded(run, file, value):
    _, folder = run
    path = checkpoint.latest(folder) / f"{file}.safetensors"
    with safe_open(path, "pt") as opened:
        name = sorted(opened.keys())[1]
    rewrite(path, lambda weights: weights[name].view(-1)[-1:].fill_(value))
    said = rf"{file}\.safetensors: not every value of {re.escape(name)} is finite"
    with pytest.raises(UserError, match=said):
        Run(seed=1).load(checkpoint.latest(folder))


@pytest.mark.parametrize("file", ["model", "optimizer"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64, torch.int32])
def test_numbers_of_another_type_are_not_loaded(run, file, dtype):
    _, folder = run
    path = checkpoint.latest(folder) / f"{file}.safetensors"
    with safe_open(path, "pt") as opened:
        name = next(name for name in sorted(opened.keys()) if "mask_token" in name)

    def change(weights):
        weights[name] = weights[name].to(dtype)

    rewrite(path, change)
    with pytest.raises(UserError, match=rf"{file}\.safetensors: .*{name}.* {dtype}"):
        Run(seed=1).load(checkpoint.latest(folder))


def test_a_checkpoint_without_checksums_still_loads(run):
    old, folder = run
    for file in checkpoint.latest(folder).glob("*.safetensors"):
        rewrite(file, lambda weights: None)
    new = Run(seed=1)
    new.load(checkpoint.latest(folder))
    assert same(old.model, new.model)
