"""Checkpoints: all that goes in comes out, and no crash, full disk or damage costs the last one."""

import builtins
import errno
import json
import os
import shutil

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_runs import Run, same
from safetensors import safe_open
from safetensors.torch import load_file

import videohpm
from videohpm import checkpoint
from videohpm.checkpoint import folders
from videohpm.checkpoint.stream import TensorFile
from videohpm.cli import main
from videohpm.errors import RunError, UserError
from videohpm.models import MaskedAutoencoder
from videohpm.report.runs import load_run


@pytest.fixture
def run(tmp_path):
    """A run two steps old with a checkpoint of each, and its folder."""
    run = Run().start()
    for step in (1, 2):
        run.step()
        run.save(tmp_path, step)
    return run, tmp_path


def test_a_restored_run_goes_on_bit_for_bit(run):
    old, folder = run
    old.engine.skipped = 1
    old.save(folder, 2)
    new = Run(seed=1)
    saved = new.load(checkpoint.latest(folder))
    assert (saved.step, saved.state["samples"], new.engine.skipped) == (2, 3, 1)
    assert {"python", "torch", "videohpm", "deepspeed"} <= saved.state["versions"].keys()
    for both in (old, new):
        torch.manual_seed(5)
        both.step()
    assert same(old.model, new.model)
    assert same(old.teacher.model, new.teacher.model)


def test_every_tensor_is_whole_and_goes_by_its_name(run):
    old, folder = run
    newest = checkpoint.latest(folder)
    weights = load_file(newest / "model.safetensors")
    assert weights.keys() == old.model.state_dict().keys()
    moments = load_file(newest / "optimizer.safetensors")
    assert moments.keys() == {f"{m}/{n}" for n in weights for m in ("exp_avg", "exp_avg_sq")}
    for name, parameter in old.model.named_parameters():
        state = old.engine.optimizer.state[parameter]
        torch.testing.assert_close(moments[f"exp_avg_sq/{name}"], state["exp_avg_sq"])


def test_the_newest_are_kept(run):
    old, folder = run
    for step in (3, 4, 5):
        old.save(folder, step, keep=3)
    assert [path.name[-1] for path in checkpoint.checkpoints(folder)] == ["3", "4", "5"]
    assert sorted(os.listdir(folder / "checkpoints")) == [
        f"step_{step:08d}" for step in (3, 4, 5)
    ]  # fmt: skip


def stray(folder) -> dict:
    """What people leave in a folder of checkpoints; returns all files with what they hold."""
    inside = folder / "checkpoints"
    copied = ["step_best", "step_00000002_good", "step_00000002.bak", "step_2", ".removed_best"]
    for name in copied:
        shutil.copytree(inside / "step_00000002", inside / name)
    os.symlink("step_00000002", inside / "step_00000099")
    os.symlink("step_00000002", inside / ".partial_00000098")
    for name in ("step_00000097", "step_00000002.tar", "notes.txt", ".partial_", "step_"):
        (inside / name).write_text("mine")
    (inside / "step_00000002" / "results.txt").write_text("mine")
    found = [path for name in copied for path in (inside / name).iterdir()]
    found += [path for path in inside.iterdir() if path.is_file()]
    found += [inside / "step_00000002" / "results.txt", inside / "step_00000099" / "state.json"]
    return {path: path.read_bytes() for path in found}


def test_what_the_run_did_not_write_is_neither_counted_nor_removed(run):
    old, folder = run
    mine = stray(folder)
    checkpoint.tidy(folder)
    assert checkpoint.latest(folder).name == "step_00000002"
    assert checkpoint.to_resume(folder, "auto").name == "step_00000002"
    for step in (3, 4, 5):
        old.save(folder, step, keep=2)
    left = [path.name for path in checkpoint.checkpoints(folder)]
    assert left == ["step_00000002", "step_00000004", "step_00000005"]  # the first holds a note
    assert {path: path.read_bytes() for path in mine} == mine
    old.save(folder, 97)  # a file has this name
    assert checkpoint.latest(folder).name == "step_00000097"
    assert (folder / "checkpoints" / "step_00000097_replaced").read_text() == "mine"


def test_a_copy_that_somebody_made_does_not_decide_what_a_report_shows(run):
    _, folder = run
    newest = folder / "checkpoints" / "step_00000002" / "state.json"
    newest.write_text(json.dumps({"step": 2, "steps": 5, "samples": 3, "ema_modules": []}))
    copy = folder / "checkpoints" / "step_best"
    copy.mkdir()
    (copy / "state.json").write_text(json.dumps({"steps": 77, "samples": 99}))
    shown = load_run(folder, "run")
    assert (shown.total_steps, shown.samples) == (5, 3)


class Crash(BaseException):
    """Stands for a kill: nothing handles it."""


# All that changes files while a checkpoint is written, one call at a time.
CALLS = [
    (os, "rename"), (os, "mkdir"), (os, "rmdir"), (os, "unlink"), (os, "fsync"),
    (builtins, "open"),
]  # fmt: skip


def crash_at(monkeypatch, count: int) -> list[int]:
    """Let the ``count``-th of all calls end in a crash, and all that follow it too."""
    made = [0]

    def counted(call):
        def wrapper(*arguments, **keywords):
            made[0] += 1
            if made[0] >= count:
                raise Crash
            return call(*arguments, **keywords)

        return wrapper

    for module, name in CALLS:
        monkeypatch.setattr(module, name, counted(getattr(module, name)))
    add = TensorFile.add

    def torn(self, name, tensor):
        if not name.endswith("mask_token"):  # one of each file stands for all
            return add(self, name, tensor)
        made[0] += 1
        if made[0] >= count:
            self.file.write(b"half a tensor")
            self.file.flush()
            raise Crash
        add(self, name, tensor)

    monkeypatch.setattr(TensorFile, "add", torn)
    return made


@pytest.mark.parametrize("keep", [1, 2])
@pytest.mark.parametrize("step", [2, 3], ids=["again", "next"])
def test_a_crash_at_any_moment_leaves_a_whole_checkpoint(tmp_path, monkeypatch, keep, step):
    """Before each change of the disk in turn, until one attempt comes through."""
    old = Run().start()
    for count in range(1, 1000):
        folder = tmp_path / str(count)
        old.step()
        old.save(folder, 1, keep)
        old.save(folder, 2, keep)
        old.step()
        with monkeypatch.context() as patch:
            made = crash_at(patch, count)
            try:
                old.save(folder, step, keep)
            except Crash:
                crashed = True
            else:
                crashed = False
        checkpoint.tidy(folder)  # as the next start does
        left = checkpoint.latest(folder)
        assert left is not None, f"nothing left after a crash at call {count}"
        for path in checkpoint.checkpoints(folder):
            Run(seed=1).load(path)
        names = os.listdir(folder / "checkpoints")
        assert all(name.startswith("step_") for name in names)
        shutil.rmtree(folder)
        if not crashed:
            assert made[0] > 15
            return
    pytest.fail("no attempt came through")


@settings(max_examples=10, deadline=None)
@given(data=st.data())
def test_a_full_disk_at_any_tensor_keeps_the_last_checkpoint(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("full")
    old = Run().start()
    old.step()
    old.save(folder, 1)
    before = load_file(folder / "checkpoints" / "step_00000001" / "model.safetensors")
    room = data.draw(st.integers(0, 100))
    add, made = TensorFile.add, [0]

    def full(self, name, tensor):
        made[0] += 1
        if made[0] > room:
            raise OSError(errno.ENOSPC, "No space left on device")
        add(self, name, tensor)

    old.step()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TensorFile, "add", full)
        with pytest.raises(RunError, match="No space left on device.*last good one is .*00000001"):
            old.save(folder, 2)
    assert os.listdir(folder / "checkpoints") == ["step_00000001"]
    after = load_file(folder / "checkpoints" / "step_00000001" / "model.safetensors")
    assert all(map(torch.equal, before.values(), after.values()))
    old.save(folder, 2)  # once there is room
    Run(seed=1).load(checkpoint.latest(folder))


def test_weights_that_are_not_finite_are_not_saved(run):
    old, folder = run
    with torch.no_grad():
        old.model.mask_token[0, 0, 3] = float("nan")
    with pytest.raises(RunError, match=r"step 3: .*mask_token in model.* finite.*00000002"):
        old.save(folder, 3)
    Run(seed=1).load(checkpoint.latest(folder))


def test_another_model_does_not_fit(run):
    _, folder = run
    with pytest.raises(UserError, match=r"does not fit the model: decoder.* and \d+ more"):
        Run(decoder_dim=16).load(checkpoint.latest(folder))


@pytest.mark.parametrize(
    "file", ["model.safetensors", "teacher.safetensors", "optimizer.safetensors", "state.json"]
)
@pytest.mark.parametrize("damage", ["cut", "gone", "garbage"])
def test_damage_is_one_line_that_names_the_file_or_folder(run, file, damage):
    _, folder = run
    path = checkpoint.latest(folder) / file
    content = path.read_bytes()
    path.unlink()
    if damage != "gone":
        path.write_bytes(content[: len(content) // 2] if damage == "cut" else b"\x80\x04garbage")
    with pytest.raises(UserError, match="step_00000002") as caught:
        Run(seed=1).load(checkpoint.latest(folder))
    assert "\n" not in str(caught.value)


def test_nothing_in_a_checkpoint_is_pickled(run):
    _, folder = run
    for path in checkpoint.latest(folder).iterdir():
        assert path.suffix in (".safetensors", ".json")
        if path.suffix == ".json":
            json.loads(path.read_text())
        else:
            with safe_open(path, "pt") as file:
                assert file.metadata().keys() == {"format", "tensor_checksums"}


def test_which_checkpoint_is_meant(run, tmp_path):
    _, folder = run
    assert checkpoint.to_resume(folder, "auto").name == "step_00000002"
    with pytest.raises(UserError, match=r"run\.resume: elsewhere/step cannot be used \("):
        checkpoint.to_resume(folder, "elsewhere/step")
    assert checkpoint.to_resume(tmp_path / "new", "auto") is None
    assert checkpoint.to_resume(tmp_path / "new", "never") is None
    with pytest.raises(UserError, match=r"run\.resume: never"):
        checkpoint.to_resume(folder, "never")


def test_the_same_command_again_goes_on_with_what_it_has_done(run, tmp_path):
    """A run that began from another's checkpoint, or went back to an older one of its own."""
    old, source = run
    one, two = (source / "checkpoints" / f"step_0000000{step}" for step in (1, 2))
    for folder, wish, first in (tmp_path / "mine", source, two), (source, one, one):
        assert checkpoint.to_resume(folder, str(wish)) == first
        old.wish = str(wish)
        old.save(folder, 3)
        done = folder / "checkpoints" / "step_00000003"
        assert checkpoint.to_resume(folder, str(wish)) == done
    assert checkpoint.to_resume(source, str(two)) == two  # another command


def test_what_was_just_written_is_kept_where_a_run_went_back(run):
    old, folder = run
    old.save(folder, 1, keep=1)
    assert [path.name for path in checkpoint.checkpoints(folder)] == ["step_00000001"]


def test_tidying_a_run_that_has_not_begun_does_nothing(tmp_path):
    folders.tidy(tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("what", ["encoder", "all"])
@pytest.mark.parametrize("weights", ["student", "teacher"])
def test_exports_hold_what_was_asked_for(run, tmp_path, what, weights, capsys):
    old, folder = run
    (checkpoint.latest(folder) / "optimizer.safetensors").unlink()  # it is never looked at
    out = tmp_path / "export"
    options = ["--what", what, "--weights", weights]
    assert main(["export", str(folder), str(out), *options]) == 0
    assert sorted(os.listdir(out)) == ["config.json", "model.safetensors"]
    source = old.model if weights == "student" else old.teacher.model
    assert same(videohpm.load_encoder(out), source.encoder)
    model = videohpm.load_model(out)
    assert isinstance(model, videohpm.VideoViT if what == "encoder" else MaskedAutoencoder)
    assert main(["export", str(folder), str(out)]) == 2
    assert "is not empty" in capsys.readouterr().err


@given(
    tensors=st.dictionaries(
        st.text("abc./_", min_size=1, max_size=6),
        st.tuples(
            st.sampled_from([torch.float32, torch.int64, torch.uint8, torch.bfloat16]),
            st.lists(st.integers(0, 4), max_size=3),
        ),
        max_size=6,
    ),
    order=st.randoms(),
)
@settings(max_examples=50, deadline=None)
def test_streamed_files_are_safetensors(tmp_path_factory, tensors, order):
    path = tmp_path_factory.mktemp("stream") / "file.safetensors"
    values = {
        name: torch.randint(0, 100, shape).to(dtype) for name, (dtype, shape) in tensors.items()
    }
    file = TensorFile(path, {name: (value.dtype, value.shape) for name, value in values.items()})
    names = list(values)
    order.shuffle(names)
    for name in names:
        file.add(name, values[name])
    file.close()
    read = load_file(path)
    assert read.keys() == values.keys()
    for name, value in values.items():
        assert read[name].dtype == value.dtype
        assert torch.equal(read[name], value)


def test_a_streamed_file_must_be_complete(tmp_path):
    file = TensorFile(tmp_path / "file", {"a": (torch.float32, (2,)), "b": (torch.float32, (2,))})
    file.add("a", torch.zeros(2))
    with pytest.raises(ValueError, match="announced"):
        file.add("b", torch.zeros(3))
    with pytest.raises(ValueError, match="b was not written"):
        file.close()
