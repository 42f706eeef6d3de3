"""What earlier versions wrote: the same results under today's names."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file
from test_pretrain import metrics, settings

import videohpm
from videohpm import compat, evaluate, visualize
from videohpm.cli import main
from videohpm.config import RunConfig
from videohpm.pretrain import pretrain
from videohpm.report import load_runs


def backward(renamed: dict[str, str]) -> dict[str, str]:
    """new → old."""
    return {new: old for old, new in renamed.items()}


def old_config(config: dict) -> dict:
    """A run's configuration as an earlier version wrote it."""
    names = backward(compat.RENAMED_FIELDS)
    return {
        section: {
            names.get(f"{section}.{field}", f"{section}.{field}").partition(".")[2]: value
            for field, value in fields.items()
        }
        if isinstance(fields, dict)
        else fields
        for section, fields in config.items()
    }


def rewrite(file: Path, change) -> None:
    """Apply ``change`` to the JSON in a file; it must change something."""
    before = json.loads(file.read_text())
    after = change(json.loads(file.read_text()))
    assert after != before, file
    file.write_text(json.dumps(after))


def make_old(run: Path) -> None:
    """Give everything in a run folder the names of the version before."""

    def weights(config: dict) -> dict:
        """The model's arguments in one flat table."""
        parts = config["model"]
        decoder = dict(parts["decoder"])
        shared = {name: decoder.pop(name) for name in ("projection_bias", "head_norm_eps")}
        assert decoder.pop("norm_eps") == parts["encoder"]["norm_eps"]
        flat = parts["encoder"] | {f"decoder_{name}": value for name, value in decoder.items()}
        flat |= {f"predictor_{name}": value for name, value in parts["predictor"].items()}
        flat |= {name: parts[name] for name in ("target", "pixel_decoder")} | shared
        flat |= {"arch": "vit_tiny", "checkpoint": True}
        names = backward(compat.RENAMED_MODEL_ARGUMENTS)
        return config | {"version": 1, "model": compat.upgrade_names(flat, names)}

    def state(values: dict) -> dict:
        values = compat.upgrade_names(values, backward(compat.RENAMED_STATE))
        values.pop("crc32")  # it did not have one
        return values | {"config": old_config(values["config"])}

    for folder in (run / "checkpoints").iterdir():
        rewrite(folder / "config.json", weights)
        rewrite(folder / "state.json", state)
    config = yaml.safe_load((run / "config.yaml").read_text())
    (run / "config.yaml").write_text(yaml.safe_dump(old_config(config)))
    rows = [compat.upgrade_names(row, backward(compat.RENAMED_METRICS)) for row in metrics(run)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(scope="module")
def runs(shapes, tmp_path_factory) -> tuple[Path, Path]:
    """The same run of 3 steps, as it is written today and as an earlier version wrote it."""
    folder = tmp_path_factory.mktemp("runs")
    new, old = folder / "new", folder / "old"
    pretrain(settings(shapes, new, steps=3))
    shutil.copytree(new, old)
    make_old(old)
    text = (
        "".join(file.read_text() for file in old.rglob("*.json*"))
        + (old / "config.yaml").read_text()
    )
    for name in ("base_lr", "global_batch_size", "arch", "predictor_unit", "ema_modules"):
        assert f'"{name}"' not in text and f"{name}:" not in text
    return new, old


def test_an_old_checkpoint_loads_to_the_same_models(runs):
    clips = torch.randn(2, 3, 4, 32, 32, generator=torch.Generator().manual_seed(0))
    new, old = (videohpm.load_model(run) for run in runs)
    assert torch.equal(new.score(clips), old.score(clips))
    new, old = (videohpm.load_teacher(run) for run in runs)
    assert torch.equal(new(clips), old(clips))
    new, old = (evaluate.load(run) for run in runs)
    assert new.protocol == old.protocol and new.protocol.stride == 2


def test_an_old_run_goes_on_to_the_same_weights(runs, shapes, tmp_path):
    ended = []
    for run in runs:
        folder = tmp_path / run.name
        shutil.copytree(run, folder)
        pretrain(settings(shapes, folder, steps=6))
        last = folder / "checkpoints" / "step_00000006"
        ended.append({file.name: load_file(file) for file in sorted(last.glob("*.safetensors"))})
    new, old = ended
    assert new.keys() == old.keys() and len(new) == 3
    for file in new:
        assert new[file].keys() == old[file].keys()
        assert all(torch.equal(new[file][name], old[file][name]) for name in new[file]), file


def test_an_old_checkpoint_is_drawn_alike(runs, shapes):
    video = next((shapes / "train").rglob("*.mp4"))
    new, old = (visualize.inspect_videos(run, [str(video)]) for run in runs)
    assert new.hard.any()
    for name in ("input", "mask", "reconstruction", "loss", "scores", "hardness", "hard"):
        np.testing.assert_array_equal(getattr(new, name), getattr(old, name))


def test_a_run_can_begin_from_an_old_checkpoint(runs, shapes, tmp_path):
    config = settings(shapes, tmp_path / "run")
    run = RunConfig(dir=str(tmp_path / "run"), steps=4, log_every=1, resume=str(runs[1]))
    pretrain(replace(config, run=run))
    assert metrics(tmp_path / "run")[-1]["step"] == 4


def test_an_old_run_is_reported_under_the_new_names(runs):
    new, old = load_runs([str(run) for run in runs])
    assert old.config == new.config and "optim.base_lr" in new.config
    assert "hard_ratio" in new.metrics[-1] and old.metrics == new.metrics


def test_the_settings_of_an_old_run_are_refused_as_a_config_with_the_new_name(runs, capsys):
    assert main(["pretrain", "--config", str(runs[1] / "config.yaml")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    old = line.removeprefix("videohpm: ").partition(":")[0]
    assert line.endswith(f"{old}: was renamed to {compat.RENAMED_FIELDS[old]}; use that name")
