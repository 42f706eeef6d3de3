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
from videohpm.errors import RunError, UserError


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


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def empty(path):
    path.write_bytes(b"")


DAMAGE = {
    "a file is cut": lambda folder: cut(folder / "optimizer.safetensors"),
    "a file is missing": lambda folder: (folder / "teacher.safetensors").unlink(),
    "a file is empty": lambda folder: empty(folder / "model.safetensors"),
    "a bit is flipped": lambda folder: flip(folder / "optimizer.safetensors", 20_000),
    "a bit of the state is flipped": lambda folder: flip(folder / "state.json", 11),
    "the state is cut": lambda folder: cut(folder / "state.json"),
    "the folder is empty": lambda folder: [file.unlink() for file in folder.iterdir()],
}


@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_newest_checkpoint_costs_the_steps_since_the_one_before(run, how, caplog):
    old, folder = run
    newest = folder / "checkpoints" / "step_00000002"
    DAMAGE[how](newest)
    before = {file.name: file.read_bytes() for file in newest.iterdir()}
    for _ in range(2):  # the second start finds what the first decided
        chosen = checkpoint.to_resume(folder, "auto")
        assert chosen.name == "step_00000001"
    (line,) = [record.getMessage() for record in caplog.records]
    assert re.search(r"step_00000002 is damaged .* kept as step_00000002_damaged", line)
    assert re.search(r"going on from \S+step_00000001; 1 steps are done again", line)
    kept = folder / "checkpoints" / "step_00000002_damaged"
    assert {file.name: file.read_bytes() for file in kept.iterdir()} == before
    new = Run(seed=1)
    assert new.load(chosen).step == 1
    new.save(folder, 2)
    assert checkpoint.to_resume(folder, "auto").name == "step_00000002"


def test_where_all_are_damaged_nothing_is_touched_and_the_user_decides(run):
    _, folder = run
    for path in checkpoint.checkpoints(folder):
        cut(path / "model.safetensors")
    for _ in range(2):
        with pytest.raises(UserError, match=r"run\.dir: no checkpoint .* is sound.*step_00000002"):
            checkpoint.to_resume(folder, "auto")
    assert len(checkpoint.checkpoints(folder)) == 2


def test_a_damaged_checkpoint_that_was_asked_for_is_refused_with_the_name_of_a_sound_one(run):
    _, folder = run
    newest = folder / "checkpoints" / "step_00000002"
    cut(newest / "model.safetensors")
    for wish in (newest, folder):
        said = (
            r"run\.resume: \S+2 cannot be used \(model.*\); the newest sound .* \S+step_00000001$"
        )
        with pytest.raises(UserError, match=said):
            checkpoint.to_resume(folder.parent / "another", str(wish))
    assert newest.is_dir()
    said = r"model\.safetensors: cannot be read .*newest sound checkpoint is \S+step_00000001$"
    with pytest.raises(UserError, match=said):
        videohpm.load_model(folder)


def test_the_same_command_again_falls_back_on_where_it_began(run, tmp_path, caplog):
    old, source = run
    mine, old.wish = tmp_path / "mine", str(source)
    old.save(mine, 3)
    cut(mine / "checkpoints" / "step_00000003" / "state.json")
    assert checkpoint.to_resume(mine, str(source)) == source / "checkpoints" / "step_00000002"
    assert "step_00000003 is damaged" in caplog.text


def test_values_that_are_not_finite_are_not_run_into_for_ever(run, caplog):
    """Once may be chance, twice the checkpoint, a third time it is the settings."""
    old, folder = run
    settings = {"run": {"seed": 0, "steps": 9}, "optim": {"base_lr": 1.0}}

    def start():
        return checkpoint.to_resume(folder, "auto", settings).name

    def fail():
        checkpoint.note_not_finite(folder, settings, "step 5: the loss is nan")

    fail()
    assert start() == "step_00000002"
    fail()
    assert start() == "step_00000001"
    assert re.search("step_00000002 led to .*not finite.* step_00000002_not_finite", caplog.text)
    old.save(folder, 2)
    assert start() == "step_00000002"  # it has been reached another time
    fail()
    with pytest.raises(UserError, match=r"ended 3 times after step_00000002 .*step 5: .*base_lr"):
        start()
    settings["optim"]["base_lr"] = 0.1
    assert start() == "step_00000002"


def test_a_run_without_an_older_checkpoint_stops_after_two_such_ends(tmp_path):
    for _ in range(2):
        assert checkpoint.to_resume(tmp_path, "auto") is None
        checkpoint.note_not_finite(tmp_path, {}, "step 1: the loss is inf")
    with pytest.raises(UserError, match=r"ended 2 times after its start .*not_finite\.jsonl"):
        checkpoint.to_resume(tmp_path, "auto")


def test_weights_that_are_not_finite_are_remembered_too(run):
    old, folder = run
    with torch.no_grad():
        old.model.mask_token[0, 0, 3] = float("nan")
    for _ in range(2):
        with pytest.raises(RunError, match="mask_token"):
            old.save(folder, 3)
    config = {"run": {"resume": old.wish}, "data": {}}
    assert checkpoint.to_resume(folder, "auto", config).name == "step_00000001"
