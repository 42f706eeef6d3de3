"""The command line: ``videohpm COMMAND …``, the only place that parses arguments.

:mod:`videohpm.commands` has what there is to be typed.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import io
import os
import re
import select
import sys
import traceback
from argparse import ArgumentError
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import is_dataclass
from importlib import metadata
from pathlib import Path
from typing import get_args, get_origin, get_type_hints

from jsonargparse import (
    ActionConfigFile,  # pyright: ignore[reportPrivateImportUsage]: documented, not in __all__
    ArgumentParser,
    Namespace,
    set_parsing_settings,
)

from videohpm import stopping
from videohpm.commands import COMMANDS, Command
from videohpm.compat import RENAMED_FIELDS
from videohpm.config.machine import launched_world_size
from videohpm.config.places import find
from videohpm.config.plain import check_yaml
from videohpm.config.type_words import type_of, unfit
from videohpm.errors import Preempted, RunError, UserError, exit_code, one_line
from videohpm.writing import full_disk, make_room

SHORT = {"output": "-o"}
NO_READER = 141
"""As of a program that SIGPIPE ended: whoever read the output, such as head, has enough."""
MISFITS = "Does not validate|Expected a|Unable to load config"
"""How the parser's errors begin where a value does not fit its field."""
MOST_NAMES = 30
"""Of fields or commands in one error."""
LAUNCHERS = ("--local_rank=", "--local-rank=")
"""What launchers put before the command; the environment (``LOCAL_RANK``) holds it too."""

set_parsing_settings(docstring_parse_attribute_docstrings=True)


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code.

    0, 1 (the run failed), 2 (wrong input) or 75 (stopped by a signal: start it again).
    """
    code = 0
    try:
        code = _answer(sys.argv[1:] if arguments is None else arguments)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        if not _reader_is_gone():
            raise
        return NO_READER
    except OSError as error:  # a log on a disk that is full
        full = full_disk(error)
        if full is None:
            raise
        _drop_output()
        return code or _failed(RunError(f"standard output: {make_room(full)}"))


def _answer(arguments: list[str]) -> int:
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # names of files may hold what it cannot encode
            stream.reconfigure(errors="backslashreplace")
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_overview())
        return 0 if arguments else 2
    if arguments[0] in ("-V", "--version"):
        print(_version())
        return 0
    if arguments[0].startswith(LAUNCHERS) and len(arguments) > 1:
        arguments = arguments[1:]
    name, *rest = arguments
    if f"{name} {' '.join(rest[:1])}" in COMMANDS:  # as in: data scan
        name, rest = f"{name} {rest[0]}", rest[1:]
    try:
        if name not in COMMANDS:
            group = [each for each in COMMANDS if each.startswith(f"{name} ")]
            if group and rest[:1] in ([], ["-h"], ["--help"]):
                print(_overview(group))
                return 0 if rest else 2
            typed = f"{name} {rest[0]}" if group else name
            raise UserError(f"{typed}: no such command{_nearest(typed, group or COMMANDS)}")
        return _run(name, rest)
    except (Preempted, KeyboardInterrupt) as error:
        return _failed(error)
    except Exception as error:
        told = stopping.lost() or error
        if told is error and not isinstance(error, (UserError, RunError)):
            return _unexpected(error)
        return _failed(told)


def parser_of(name: str) -> ArgumentParser:
    """The parser of a command: one option for each parameter, or for each field of its config."""
    declared = COMMANDS[name].options
    parser = ArgumentParser(
        prog=f"videohpm {name}",
        description=COMMANDS[name].summary,
        exit_on_error=False,
        allow_abbrev=False,
    )
    if isinstance(declared, type) and is_dataclass(declared):
        parser.add_argument(
            "--config", action=ActionConfigFile, help="YAML file; later ones win over earlier ones"
        )
        parser.add_class_arguments(declared, as_group=False)
        return parser
    lists = _lists(declared)
    parser.add_function_arguments(declared, as_group=False, as_positional=True, skip=set(lists))
    for parameter, optional in lists.items():
        name = f"--{parameter}" if optional else parameter
        parser.add_argument(name, nargs="+", help=_documented(declared, parameter))
    for action in parser._actions:
        if action.dest in SHORT:
            action.option_strings = [SHORT[action.dest], *action.option_strings]
            parser._option_string_actions[SHORT[action.dest]] = action
    return parser


def _run(name: str, arguments: list[str]) -> int:
    command = COMMANDS[name]
    declared, target = command.options, command.target
    if any(p.kind is p.VAR_POSITIONAL for p in inspect.signature(declared).parameters.values()):
        function = _target(target)
        with stopping.raising():
            return function(*arguments)  # a script of its own parses them
    parser = parser_of(name)
    for file in _config_files(arguments):
        check_yaml(file, declared)
    try:
        values = vars(parser.instantiate(_parse(parser, command, arguments)))
        values.pop("config", None)
        checked = declared(**values)
    except ArgumentError as error:
        raise UserError(_explain(error, parser, arguments, declared)) from None
    function = _target(target)
    with stopping.raising():
        result = function(checked) if is_dataclass(declared) else function(**values)
    if result is not None and not isinstance(result, (int, Path)):
        print(result)
    return result if isinstance(result, int) else 0


def _parse(parser: ArgumentParser, command: Command, arguments: list[str]) -> Namespace:
    """What is typed, over what config files say, over what follows from the weights they start
    from and from the data set they name."""
    arguments = _find_recipes(arguments)
    # --print_config prints while it is parsed: not before the defaults are known.
    silent = [argument for argument in arguments if not argument.startswith("--print_config")]
    parsed = parser.parse_args(silent)
    of_dataset, defaults = getattr(command.options, "dataset_defaults", None), {}
    if of_dataset is not None and parsed.dataset:
        defaults |= of_dataset(parsed.dataset)
    if command.init_defaults and parsed.model.init:
        defaults |= _target(command.init_defaults)(parsed)
    if defaults:
        parser.set_defaults(defaults)
    elif silent == arguments:
        return parsed
    return parser.parse_args(arguments)


def _find_recipes(arguments: list[str]) -> list[str]:
    """``--config configs/…`` is found from every folder, and where no checkout is."""
    found = list(arguments)
    for at, each in enumerate(arguments):
        option, equals, file = each.partition("=")
        if option == "--config" and equals:
            found[at] = f"--config={find(file)}"
        elif arguments[:at][-1:] == ["--config"]:
            found[at] = str(find(each))
    return found


def _reader_is_gone() -> bool:
    """Whether standard output is a pipe without a reader; then what is left of it goes nowhere."""
    asked = select.poll()
    asked.register(sys.stdout.fileno(), 0)
    gone = any(event & select.POLLERR for _, event in asked.poll(0))
    if gone:
        _drop_output()
    return gone


def _drop_output() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _target(target: str) -> Callable:
    module, _, attribute = target.partition(":")
    return getattr(importlib.import_module(module), attribute)


def _unexpected(error: Exception) -> int:
    """Too little memory, a full disk: one line. Others: a traceback, which then ends all ranks."""
    from videohpm.engine import distributed
    from videohpm.engine.failures import is_out_of_memory, last_words
    from videohpm.engine.preemption import told_between_processes

    if is_out_of_memory(error):
        return _failed(
            RunError(f"out of memory ({last_words(error)}); a smaller batch (--batch) needs less")
        )
    full = full_disk(error)
    if full is not None:
        return _failed(RunError(make_room(full)))
    told = told_between_processes(error)
    if told is not None:
        return _failed(told)
    if distributed.world_size() == 1:
        raise error
    traceback.print_exception(error)
    return distributed.leave(distributed.announce_failure(error))


def _failed(error: BaseException) -> int:
    """Print why this process ends, or leave that to another one of several; the exit code."""
    message = "interrupted" if isinstance(error, KeyboardInterrupt) else one_line(error)
    by_signal = isinstance(error, (KeyboardInterrupt, Preempted))
    silent = by_signal and not stopping.first_to_tell()
    alone = not os.environ.get("WORLD_SIZE", "1").isdigit() or launched_world_size() == 1
    # Not imported here: a signal that fell into torch's import leaves it unusable.
    distributed = None if alone else sys.modules.get("videohpm.engine.distributed")
    if distributed is None:  # they have not joined: the first of each machine says why
        silent |= not alone and os.environ.get("LOCAL_RANK", "0") != "0"
        with suppress(OSError):  # its disk may be the one that is full
            sys.stderr.write("" if silent else f"videohpm: {message}\n")
        return exit_code(error)
    code = distributed.announce_failure(error)
    if not silent:
        distributed.report_once(message)
    return distributed.leave(code)


def _lists(function: Callable) -> dict[str, bool]:
    """Parameters that are lists, and whether they may be left out."""
    hints, found = get_type_hints(function), {}
    for name, parameter in inspect.signature(function).parameters.items():
        kinds = (hints.get(name), *get_args(hints.get(name)))
        if any(get_origin(kind) is list for kind in kinds):
            found[name] = parameter.default is not parameter.empty
    return found


def _documented(function: Callable, parameter: str) -> str:
    """What the docstring says of a parameter."""
    text = inspect.getdoc(function) or ""
    found = re.search(rf"^    {parameter}: (.*(?:\n {{8}}.*)*)", text, re.MULTILINE)
    return " ".join(found[1].split()) if found else "one or more"


def _version() -> str:
    """Of the package, and of what its numbers depend on; nothing is imported for it."""
    torch = "without torch"
    with suppress(metadata.PackageNotFoundError):
        torch = f"torch {metadata.version('torch')}"
    return f"videohpm {metadata.version('videohpm')}, {torch}, Python {sys.version.split()[0]}"


def _overview(names: Iterable[str] = COMMANDS) -> str:
    width = max(map(len, names))
    lines = [f"  {name:<{width}}  {COMMANDS[name].summary}" for name in names]
    return "\n".join(
        ["usage: videohpm COMMAND [options]", "", *lines, "", "videohpm COMMAND --help says more."]
    )


def _explain(
    error: ArgumentError, parser: ArgumentParser, arguments: list[str], declared: Callable
) -> str:
    """The parser's error as one line: which field, what is wrong, what was perhaps meant."""
    text = one_line(error)
    known = [action.dest for action in parser._actions if action.dest != "help"]
    inside = re.search(r"Group '([\w.]+)' does not accept option '([\w.]+)'", text)
    typed = re.search(r"(?:unrecognized arguments: --|(?:[Oo]ption|[Kk]ey) ')([\w.]+)", text)
    field = f"{inside[1]}.{inside[2]}" if inside else typed[1] if typed else None
    if field and field not in known:
        if RENAMED_FIELDS.get(field) in known:
            return f"{field}: was renamed to {RENAMED_FIELDS[field]}; use that name"
        if owner := _owner(field):
            return f"{field}: is a field of videohpm {owner}, not of {parser.prog}"
        return f"{field}: no such field{_nearest(field, known)}"
    if "onfig" in text.partition(":")[0]:  # a file that is no YAML, or no mapping
        return f"{', '.join(_config_files(arguments))}: {text}"
    text = re.sub(r'^Parser key "([^"]+)": ?', r"\1: ", text)
    field, _, why = text.partition(": ")
    if field in known and re.match(MISFITS, why):
        given = re.search(r".*(?:Got|Given) value: ?(.*)$|load config '(.*?)' - ", why)
        shown = (given[1] or given[2] or "") if given else ""
        default = next(action.default for action in parser._actions if action.dest == field)
        return f"{field}: {unfit(type_of(declared, field), shown, default)}"
    return text


def _owner(field: str) -> str | None:
    """A command with that field, perhaps the one that a configuration was written for."""
    for name in ("pretrain", "finetune"):
        if any(action.dest == field for action in parser_of(name)._actions):
            return name
    return None


def _config_files(arguments: list[str]) -> list[str]:
    follows = zip(arguments, arguments[1:], strict=False)
    equals = [a.removeprefix("--config=") for a in arguments if a.startswith("--config=")]
    return [b for a, b in follows if a == "--config"] + equals


def _nearest(name: str, known) -> str:
    whole = {each.partition(".")[0] for each in known if "." in each}  # sections
    near = difflib.get_close_matches(name, set(known) - whole, 1)
    if near:
        return f"; did you mean {near[0]}?"
    section = name.partition(".")[0]
    fields = [each for each in known if each.startswith(f"{section}.")] or known
    shown = [each for each in fields if not each.startswith("print_")]
    if len(shown) > MOST_NAMES:
        return "; --help lists those that there are"
    return f"; there are: {', '.join(shown)}"
