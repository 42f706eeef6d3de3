"""Dataclasses as plain dicts and lists, as YAML and JSON hold them, and back, checked by type."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import MISSING, asdict, fields, is_dataclass
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from videohpm.config.type_words import type_words
from videohpm.errors import ConfigError, UserError, one_line

Config = TypeVar("Config")
ODD_YAML = (LookupError, AttributeError, ValueError, RecursionError, OverflowError)
"""What a YAML parser raises for ``!!int ''``, ``!!bool x``, no text, or deep nesting."""


def as_plain(config: Any) -> dict[str, Any]:
    """A dataclass instance as nested dicts, lists and numbers; :func:`from_plain` reads them."""
    return _lists(asdict(config))


def from_plain(
    kind: type[Config], values: Mapping[str, Any], *, strict: bool = True, name: str = ""
) -> Config:
    """The inverse of :func:`as_plain`; fields that ``values`` lacks keep their defaults.

    Args:
        kind: the dataclass to build; its sections are built likewise, lists become tuples and
            whole numbers floats where the field is one.
        values: fields by name.
        strict: refuse a name that is no field; False leaves it out.
        name: what errors call ``values``: the field ``a`` is then ``name.a``.

    Raises ConfigError naming the field, for an unknown name, a missing field, a value of another
    type, and what the dataclasses' own checks refuse.
    """
    if not isinstance(values, Mapping):
        raise ConfigError(f"{name or kind.__name__}: {values!r} is not a mapping of fields")
    known = {field.name: field for field in fields(kind) if field.init}  # pyright: ignore
    prefix, hints = f"{name}." if name else "", get_type_hints(kind)
    for unknown in [] if not strict else sorted(values.keys() - known):
        raise ConfigError(f"{prefix}{unknown}: {kind.__name__} has no such field")
    for each, field in known.items():
        if each not in values and field.default is field.default_factory is MISSING:
            raise ConfigError(f"{prefix}{each}: missing")
    given = {each: value for each, value in values.items() if each in known}
    return kind(
        **{each: _value(hints[each], v, strict, f"{prefix}{each}") for each, v in given.items()}
    )


def _value(hint: Any, value: Any, strict: bool, name: str) -> Any:
    """``value`` as the type ``hint``. ConfigError where it is another."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any or (origin is Literal and value in arguments):
        return value
    if origin in (Union, UnionType):
        return _one_of(arguments, value, strict, name)
    if is_dataclass(hint) and isinstance(hint, type):
        return from_plain(hint, value, strict=strict, name=name)
    if isinstance(value, list | tuple):
        if origin is list:
            return [_value(arguments[0], each, strict, name) for each in value]
        if origin is tuple and arguments[-1] is Ellipsis:
            return tuple(_value(arguments[0], each, strict, name) for each in value)
        if origin is tuple and len(arguments) == len(value):
            pairs = zip(arguments, value, strict=True)
            return tuple(_value(kind, each, strict, name) for kind, each in pairs)
    if hint is float and type(value) is int:
        return float(value)
    if type(value) is hint:
        return value
    raise ConfigError(f"{name}: {value!r} is not {type_words(hint)}")


def _one_of(hints: tuple[Any, ...], value: Any, strict: bool, name: str) -> Any:
    if value is None and type(None) in hints:
        return None
    hints = tuple(hint for hint in hints if hint is not type(None))
    for hint in hints:
        try:
            return _value(hint, value, strict, name)
        except ConfigError:
            if len(hints) == 1:
                raise
    raise ConfigError(f"{name}: {value!r} is not {' or '.join(map(type_words, hints))}")


def _lists(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _lists(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_lists(each) for each in value]
    return value


def check_yaml(file: str, kind: Callable[..., Any]) -> None:
    """UserError where a YAML file holds what its parser, or who builds ``kind``, does not tell.

    That is odd YAML, a section that is none, and a field that is left empty. What they do tell is
    left to them, and so is a file that is not there.
    """
    import yaml

    try:
        with open(file, encoding="utf-8") as opened:
            text = opened.read()
        if (twice := _given_twice(yaml.compose(text, yaml.SafeLoader), set())) is not None:
            line = twice.start_mark.line + 1
            raise UserError(f"{file} line {line}: {twice.value} is given twice; give it once")
        values = yaml.safe_load(text)
    except (OSError, yaml.YAMLError):
        return
    except ODD_YAML as error:
        reason = f"{type(error).__name__}: {one_line(error)}"
        raise UserError(f"{file}: cannot be read as YAML ({reason})") from None
    if isinstance(values, dict):
        _check_sections(kind, values, file, "")


def _given_twice(node: Any, seen: set[int]) -> Any:
    """The second of two like keys of a mapping in a tree of YAML nodes; None where there is none.

    Args:
        seen: nodes that were looked at: an alias is the same node in several places.
    """
    if node is None or isinstance(node.value, str) or id(node) in seen:
        return None
    seen.add(id(node))
    keys = set()
    for child in node.value:  # of a mapping a pair, of a list an entry
        key, value = child if isinstance(child, tuple) else (None, child)
        name = getattr(key, "value", None)
        if isinstance(name, str):
            if name in keys:
                return key
            keys.add(name)
        if (found := _given_twice(value, seen)) is not None:
            return found
    return None


def _check_sections(kind: Callable[..., Any], values: dict, file: str, prefix: str) -> None:
    hints = get_type_hints(kind)
    for name, value in values.items():
        hint = hints.get(name) if isinstance(name, str) else None
        field = f"{prefix}{name}"
        if is_dataclass(hint) and isinstance(hint, type):
            if not isinstance(value, dict):
                first = fields(hint)[0].name
                raise UserError(
                    f"{file}: {field}: {value!r} is not a section; write its fields below it, such "
                    f"as {first}, or leave it out"
                )
            _check_sections(hint, value, file, f"{field}.")
        elif value is None and hint not in (None, Any) and type(None) not in get_args(hint):
            raise UserError(f"{file}: {field} is empty; give a value, or leave the line out")
