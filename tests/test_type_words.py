"""Errors say in words what a field may hold, whatever is typed there instead."""

import doctest
import inspect
import re
from pathlib import Path
from typing import Literal

import pytest
from jsonargparse import ArgumentError

from videohpm import cli, errors
from videohpm.config import type_words
from videohpm.config.type_words import unfit
from videohpm.errors import UserError

TEXT_ALONE = ("report", "export", "data readers")
"""Commands whose options take any text."""
MISFITS = ("%x", "1e3", "[x, 1]", "{a: 1}", "-1", "")


def parses(options):
    """Whether a command's options are parsed here, and not by a script of its own."""
    kinds = [parameter.kind for parameter in inspect.signature(options).parameters.values()]
    return inspect.Parameter.VAR_POSITIONAL not in kinds


PARSED = [name for name, command in cli.COMMANDS.items() if parses(command.options)]


@pytest.mark.parametrize("module", [type_words, errors])
def test_examples_of_docstrings(module):
    done = doctest.testmod(module)
    assert done.attempted and not done.failed


@pytest.mark.parametrize(
    ("kind", "value", "default", "said"),
    [
        (int, "abc", None, "'abc' is not a whole number"),
        (int | None, "1e3", None, "'1e3' is not a whole number or null; write 1000"),
        (int | Literal["auto"], "all", "auto", "'all' is not a whole number or auto"),
        (bool | None, "2", None, "'2' is not true, false or null"),
        (Literal["a", "b"], "c", "a", "'c' is not one of a, b"),
        (Literal["a", "b"] | None, "c", None, "'c' is not a, b or null"),
        (tuple[Literal["a", "b"], ...], "c", (), "'c' is not a list of any of a, b"),
        (tuple[str, ...], "a", ("b",), "'a' is not a list of names, such as ['b']"),
        (tuple[float, float], "[1]", (0.9, 0.95), "[1] is not a list of 2 numbers, such as [0.9, "),
        (list[int] | int, "x", 224, "'x' is not a list of whole numbers or a whole number"),
        (Path, "", None, "'' is not a path"),
        (dict | None, "x", None, "'x' is not a mapping or null"),
    ],
)  # fmt: skip
def test_what_would_fit_is_said(kind, value, default, said):
    assert unfit(kind, value, default).startswith(said)


@pytest.mark.parametrize("name", PARSED)
def test_no_error_of_an_option_is_in_the_words_of_the_parser(name):
    parser, declared = cli.parser_of(name), cli.COMMANDS[name].options
    needed = ["x" for action in parser._actions if not action.option_strings]
    refused = 0
    for action in parser._actions:
        if not action.option_strings or re.match("help|config|print_", action.dest):
            continue
        for value in MISFITS:
            typed = [f"{action.option_strings[-1]}={value}"]
            try:
                parser.parse_args([*needed, *typed])
            except ArgumentError as error:
                said = cli._explain(error, parser, typed, declared)
                refused += 1
                assert said.startswith((f"{action.dest}: ", f"{action.dest}.a: ")), said
                assert not re.search("<class|Union|typing|ubtypes|Parser key|Expected", said), said
    assert bool(refused) == (name not in TEXT_ALONE)


@pytest.mark.parametrize("name", ["pretrain", "finetune", "evaluate"])
def test_an_unknown_field_is_never_taken_for_a_section(name):
    known = [action.dest for action in cli.parser_of(name)._actions]
    with pytest.raises(UserError) as caught:
        cli._run(name, ["--data.a", "1"])
    near = re.search(r"did you mean (data\.\w+)\?", str(caught.value))
    assert near and near[1] in known
