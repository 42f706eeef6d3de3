"""The command line: what it declares, and that it answers without importing any model code."""

import inspect
import json
import os
import platform
import re
import subprocess
import sys
from dataclasses import fields, is_dataclass
from functools import cache
from importlib import metadata
from typing import get_type_hints

import pytest
import yaml

from videohpm import cli
from videohpm.compat import RENAMED_FIELDS
from videohpm.config import ReadOptions, convert
from videohpm.interop import WRITERS

ANSWER = """
import json, sys
from videohpm.cli import main
try:
    code = main(sys.argv[1:])
except SystemExit as exit:
    code = exit.code
heavy = ("torch", "torchvision", "timm", "videohpm.models", "videohpm.data", "videohpm.engine")
found = [name for name in sys.modules if name in heavy]
print(json.dumps([code, found]), file=sys.stderr)
"""

# What is typed, and a part of the answer.
QUICK_ERRORS = {
    "no such command": (["pretrian"], "did you mean pretrain?"),
    "unknown key": (["pretrain", "--optim.base_lrr", "1"], "did you mean optim.base_lr?"),
    "of another command": (
        ["plan", "--test_weights", "last"],
        "test_weights: is a field of videohpm finetune, not of videohpm plan",
    ),
    "one of a hundred": (["pretrain", "--foo", "1"], "foo: no such field; --help lists those"),
    "renamed key": (["plan", "--optim.lr", "1"], "was renamed to optim.base_lr"),
    "wrong type": (
        ["finetune", "--optim.base_lr", "fast"],
        "optim.base_lr: 'fast' is not a number",
    ),
    "unknown choice": (["pretrain", "--data.crop", "best"], "data.crop: 'best' is not one of"),
    "a section's check": (["pretrain", "--mask.ratio", "1"], "mask.ratio: 1"),
    "the grid": (["pretrain", "--model.frames", "5"], "model.frames: 5 is not a multiple"),
    "between sections": (["pretrain", "--engine.grad_accum_steps", "3"], "grad_accum_steps = 3"),
    "a policy": (["finetune", "--augment.rand_augment", "ran-m7"], "augment.rand_augment"),
    "evaluate": (["evaluate", "--device", "tpu"], "device: 'tpu' is not auto"),
    "probe": (["probe", "--probes", "[quadratic]"], "probes: 'quadratic' is not one of"),
    "plan": (["plan", "--gpu", "abacus"], "gpu: 'abacus' is not one of"),
    "features": (["features", "run", "out", "--what", "all"], "what: 'all' is not one of"),
    "predict": (["predict", "a.mp4", "--top", "0"], "top: 0; give at least 1"),
    "export": (["export", "run", "out", "--weights", "best"], "weights: 'best' is not one of"),
    "convert": (["convert", "a", "b", "--to", "onnx"], "to: 'onnx' is not one of"),
    "visualize": (["visualize", "run", "a.mp4", "-o", "a.jpg"], "output: a.jpg must end in"),
    "scan": (["data", "scan", "a", "--workers", "-1"], "workers: -1; give 0 or more"),
    "transcode": (["data", "transcode", "a", "b", "--quality", "52"], "quality: 52"),
    "prepare": (["data", "prepare", "mnist"], "prepare: no data set 'mnist'"),
    "explore": (["explore", "run", "--port", "70000"], "port: 70000"),
}


def answer(arguments: list[str]) -> tuple[int, list[str], str]:
    """Exit code, modules that should not have been imported, and what was printed."""
    done = subprocess.run(
        [sys.executable, "-c", ANSWER, *arguments], capture_output=True, text=True, check=True
    )
    *lines, last = done.stderr.splitlines()
    code, found = json.loads(last)
    return code, found, done.stdout + "\n".join(lines)


@pytest.mark.parametrize("name", ["", *cli.COMMANDS])
def test_help_imports_no_model_code(name):
    code, found, text = answer([*name.split(), "--help"])
    assert (code, found) == (0, [])
    assert f"usage: videohpm {name or 'COMMAND'}" in text


@pytest.mark.parametrize("kind", QUICK_ERRORS)
def test_errors_of_wrong_input_import_no_model_code(kind):
    typed, expected = QUICK_ERRORS[kind]
    code, found, text = answer(typed)
    assert (code, found) == (2, []), text
    assert expected in text and text.strip().count("\n") == 0


def test_a_group_of_commands_lists_its_own():
    code, found, text = answer(["data", "--help"])
    assert (code, found) == (0, []) and "data scan" in text and "pretrain" not in text
    assert answer(["data"])[0] == 2
    code, found, text = answer(["data", "scna"])
    assert (code, found) == (
        2,
        [],
    ) and "data scna: no such command; did you mean data scan?" in text


def test_versions_are_told_without_imports():
    code, found, text = answer(["--version"])
    assert (code, found) == (0, [])
    found = re.match(r"videohpm (\S+), torch (\S+), Python (\S+)\n?$", text)
    own, torch = (metadata.version(name) for name in ("videohpm", "torch"))
    assert found and found.groups() == (own, torch, platform.python_version())


def test_the_quick_answers_would_be_seen_to_be_slow():
    """The check above reports torch where a command does its work."""
    code, found, _ = answer(["export", "not/there", "out"])
    assert code == 2 and "torch" in found and "videohpm.models" in found


def test_whoever_reads_the_output_may_stop():
    """As in videohpm --help | head -1."""
    reads, writes = os.pipe()
    os.close(reads)
    try:
        command = [sys.executable, "-m", "videohpm", "--help"]
        done = subprocess.run(command, stdout=writes, stderr=subprocess.PIPE, text=True)
    finally:
        os.close(writes)
    assert (done.returncode, done.stderr) == (cli.NO_READER, "")


@pytest.mark.parametrize("name", [name for name in cli.COMMANDS if name != "data prepare"])
def test_the_declared_options_are_those_of_the_function(name):
    declared, target = cli.COMMANDS[name][:2]
    function = inspect.signature(cli._target(target)).parameters
    if is_dataclass(declared):
        hints = get_type_hints(cli._target(target))
        assert [hints[parameter] for parameter in function] == [declared]
        return
    named = {p: v for p, v in function.items() if v.kind is not v.VAR_KEYWORD}
    expected = {p: v.default for p, v in named.items()}
    if len(named) < len(function):  # **options: the fields of ReadOptions
        expected |= {field.name: field.default for field in fields(ReadOptions)}
    options_of = inspect.signature(declared).parameters
    assert {p: v.default for p, v in options_of.items()} == expected


def test_every_layout_that_can_be_written_is_declared():
    assert set(convert.LAYOUTS) == WRITERS.keys()


# --- keys of earlier versions ---------------------------------------------------------------------

CONFIG_COMMANDS = [name for name, command in cli.COMMANDS.items() if is_dataclass(command.options)]


@cache  # a parser takes a tenth of a second
def known_fields(name: str) -> set[str]:
    return {action.dest for action in cli.parser_of(name)._actions}


@cache
def renamed_fields() -> list[tuple[str, str, str]]:
    """(command, old, new) wherever the new name is an option of the command."""
    return [
        (name, old, new)
        for name in cli.COMMANDS
        if name != "data prepare"
        for old, new in RENAMED_FIELDS.items()
        if new in known_fields(name) and old not in known_fields(name)
    ]


def refuse(arguments: list[str], capsys) -> str:
    assert cli.main(arguments) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    return lines[0]


@pytest.mark.parametrize(("name", "old", "new"), renamed_fields())
def test_an_old_option_is_refused_with_its_new_name(name, old, new, capsys):
    needed = ["a"] * len(cli.parser_of(name)._get_positional_actions())
    line = refuse([*name.split(), *needed, f"--{old}", "1"], capsys)
    assert line == f"videohpm: {old}: was renamed to {new}; use that name"


@pytest.mark.parametrize("print_config", [[], ["--print_config"]], ids=["run", "print"])
@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("pretrain", "hpm: false", "hpm: False is not a section"),
        ("pretrain", "optim: []", "optim: [] is not a section"),
        ("pretrain", "data:", "data: None is not a section"),
        ("pretrain", "mask:\n  ratio:", "mask.ratio is empty"),
        ("finetune", "probe: off\nmask: .9\nmodel: vit_base", "model: 'vit_base' is not a section"),
        ("plan", "optim:\n  global_batch_size:", "optim.global_batch_size is empty"),
        ("evaluate", "test: 5", "test: 5 is not a section"),
    ],
)
def test_a_section_that_is_none_and_an_empty_field_are_named(
    name, text, said, print_config, tmp_path, capsys
):
    file = tmp_path / "config.yaml"
    file.write_text(text)
    line = refuse([name, "--config", str(file), *print_config], capsys)
    assert line.startswith(f"videohpm: {file}: {said}")


@pytest.mark.parametrize(
    ("name", "old", "new"), [row for row in renamed_fields() if row[0] in CONFIG_COMMANDS]
)
def test_an_old_key_in_a_file_is_refused_with_its_new_name(name, old, new, tmp_path, capsys):
    section, _, key = old.rpartition(".")
    (tmp_path / "config.yaml").write_text(
        yaml.safe_dump({section: {key: 1}} if section else {key: 1})
    )
    line = refuse([name, "--config", str(tmp_path / "config.yaml")], capsys)
    assert line == f"videohpm: {old}: was renamed to {new}; use that name"


def test_the_tests_above_cover_every_renamed_key():
    rows = renamed_fields()
    assert {old for _, old, _ in rows} == RENAMED_FIELDS.keys()
    for name in ("pretrain", "finetune", "evaluate", "plan"):
        assert any(command == name for command, _, _ in rows)


def test_a_new_name_that_a_command_lacks_is_not_offered(capsys):
    assert "no such field" in refuse(["evaluate", "--optim.lr", "1"], capsys)
    assert "no such field" in refuse(["pretrain", "--jobs", "1"], capsys)


def test_options_are_not_abbreviated(capsys):
    assert "data.short_videos" in refuse(["pretrain", "--data.short", "repeat"], capsys)


@pytest.mark.parametrize("joined", [False, True])
def test_recipes_are_found_from_every_folder(tmp_path, monkeypatch, capsys, joined):
    monkeypatch.chdir(tmp_path)
    recipe = "configs/pretrain/demo.yaml"
    given = [f"--config={recipe}"] if joined else ["--config", recipe]
    with pytest.raises(SystemExit):
        cli.main(["pretrain", *given, "--print_config"])
    assert "dir: runs/demo\n" in capsys.readouterr().out
