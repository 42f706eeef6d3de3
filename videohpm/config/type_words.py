"""What a field may hold, in words: for the errors of who wrote something else there."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

WORDS = {
    int: ("a whole number", "whole numbers"),
    float: ("a number", "numbers"),
    bool: ("true or false", "true or false"),
    str: ("text", "names"),
    Path: ("a path", "paths"),
    dict: ("a mapping", "mappings"),
    NoneType: ("null", "null"),
}
"""One, and several."""


def type_of(declared: Callable[..., Any], field: str) -> Any:
    """The annotation of a field, ``section.name`` or ``name``; Any where there is no such field.

    Args:
        declared: a dataclass of sections, or a function with parameters.
    """
    for name in field.split("."):
        declared = get_type_hints(declared).get(name, Any)
    return declared


def type_words(kind: Any, several: bool = False) -> str:
    """A type annotation in words.

    >>> type_words(int | None), type_words(tuple[float, float]), type_words(Literal["a", "b"])
    ('a whole number or null', 'a list of 2 numbers', 'one of a, b')
    """
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        *others, last = (word for each in inner for word in _alternatives(each))
        return f"{', '.join(others)} or {last}"
    if origin is Literal:
        return f"{'any' if several else 'one'} of {', '.join(map(str, inner))}"
    if origin in (list, tuple):
        count = f"{len(inner)} " if origin is tuple and inner[-1] is not Ellipsis else ""
        return f"a list of {count}{type_words(inner[0], several=True)}"
    if kind in WORDS:
        return WORDS[kind][several]
    if is_dataclass(kind):
        return f"a section of fields, such as {fields(kind)[0].name}"
    return getattr(kind, "__name__", str(kind)).lower()


def _alternatives(kind: Any) -> list[str]:
    """What a part of a union may be."""
    if kind is bool:
        return ["true", "false"]
    return list(map(str, get_args(kind))) if get_origin(kind) is Literal else [type_words(kind)]


def unfit(kind: Any, value: str, default: Any = None) -> str:
    """Why what was typed as ``value`` does not fit, and what would.

    >>> unfit(int, "1e3")
    "'1e3' is not a whole number; write 1000"
    """
    shown = value if value.startswith(("[", "{")) else repr(value)
    text = f"{shown} is not {type_words(kind)}"
    kinds = get_args(kind) or (kind,)
    if int in kinds:
        with suppress(ValueError):
            if float(value).is_integer():
                return f"{text}; write {float(value):.0f}"
    if isinstance(default, (list, tuple)) and default:
        text += f", such as {list(default)}"
    return text
