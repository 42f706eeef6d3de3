"""Config dataclasses as plain dicts and lists, as YAML and JSON hold them, and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields, is_dataclass
from types import UnionType
from typing import TYPE_CHECKING, Any, TypeVar, Union, get_args, get_origin, get_type_hints

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Config = TypeVar("Config", bound="DataclassInstance")


def as_plain(config: DataclassInstance) -> dict[str, Any]:
    """A dataclass instance as nested dicts, lists and numbers."""
    return _lists(asdict(config))


def from_plain(kind: type[Config], values: Mapping[str, Any], *, strict: bool = True) -> Config:
    """The inverse of :func:`as_plain`; fields that ``values`` lacks keep their defaults.

    Args:
        kind: the dataclass to build; its sections are built likewise, lists become tuples where
            the field is one.
        values: fields by name.
        strict: raise TypeError for a name that is no field; False leaves it out.

    Raises ConfigError for what the dataclasses' own checks refuse.
    """
    known = {field.name for field in fields(kind) if field.init}
    unknown = sorted(values.keys() - known)
    if unknown and strict:
        raise TypeError(f"{kind.__name__} has no field {', '.join(unknown)}")
    hints = get_type_hints(kind)
    given = {name: value for name, value in values.items() if name in known}
    return kind(**{name: _value(hints[name], value, strict) for name, value in given.items()})


def _value(hint: Any, value: Any, strict: bool) -> Any:
    if get_origin(hint) in (Union, UnionType):
        kinds = [kind for kind in get_args(hint) if kind is not type(None)]
        hint = kinds[0] if len(kinds) == 1 else Any
    if isinstance(hint, type) and is_dataclass(hint) and isinstance(value, Mapping):
        return from_plain(hint, value, strict=strict)
    if get_origin(hint) is tuple and isinstance(value, list):
        return tuple(value)
    return value


def _lists(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _lists(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_lists(each) for each in value]
    return value
