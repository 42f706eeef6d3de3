"""Checks of single fields, each with one message: the field, its value, and what to give instead.

All raise ConfigError. None passes where a number is expected: the field was left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal

from videohpm.errors import ConfigError

Number = int | float
AUTO: Literal["auto"] = "auto"
"""The value of fields that follow from the machine."""


def choice(field: str, value: object, known: Iterable) -> None:
    """``value`` must be one of ``known``; where None is among them, the field may be left out."""
    known = tuple(known)
    if value not in known:
        names = ", ".join(str(name) for name in known if name is not None)
        raise ConfigError(f"{field}: {value!r} is not one of {names}")


def at_least(field: str, value: Number | None, least: Number, *, finite: bool = True) -> None:
    """``value`` must be ``least`` or more, and no infinity unless ``finite`` is False."""
    if value is not None and not (value >= least and (value < math.inf or not finite)):
        wanted = f"at least {least}" if least else "0 or more"
        raise ConfigError(f"{field}: {value}; give {wanted}")


def above_zero(field: str, value: Number | None, *, finite: bool = True) -> None:
    """``value`` must be more than 0, and no infinity unless ``finite`` is False."""
    if value is not None and not (value > 0 and (value < math.inf or not finite)):
        raise ConfigError(f"{field}: {value}; give a number above 0")


def fraction(field: str, value: Number | None, *, zero: bool = True, one: bool = True) -> None:
    """``value`` must lie between 0 and 1; ``zero`` and ``one`` say whether the ends belong."""
    if value is None:
        return
    if not ((value >= 0 if zero else value > 0) and (value <= 1 if one else value < 1)):
        wanted = "0 to 1"
        if not (zero and one):
            low = "0 or more" if zero else "more than 0"
            wanted = f"{low}, {'at most' if one else 'less than'} 1"
        raise ConfigError(f"{field}: {value}; give {wanted}")


def text_path(field: str, value: str) -> None:
    """``value`` must be UTF-8 text: libraries that write weights and logs take no other paths."""
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ConfigError(f"{field}: {value!r} is no UTF-8 text; give another name") from None


def image_size(field: str, value: object) -> None:
    """``value`` must be one number, two, or None."""
    if isinstance(value, list | tuple) and len(value) != 2:
        raise ConfigError(f"{field}: give one number, or [height, width]")


class Section:
    """The checks above for several fields of one config at a time.

    Args:
        config: the dataclass instance to check.
        name: of its section; empty for fields of no section.
    """

    def __init__(self, config: object, name: str = ""):
        self.config, self.prefix = config, f"{name}." if name else ""

    def choice(self, field: str, known: Iterable) -> None:
        """See :func:`choice`."""
        choice(self.prefix + field, getattr(self.config, field), known)

    def at_least(self, least: Number, *fields: str, finite: bool = True) -> None:
        """See :func:`at_least`."""
        for field in fields:
            at_least(self.prefix + field, getattr(self.config, field), least, finite=finite)

    def above_zero(self, *fields: str, finite: bool = True) -> None:
        """See :func:`above_zero`."""
        for field in fields:
            above_zero(self.prefix + field, getattr(self.config, field), finite=finite)

    def fraction(self, *fields: str, zero: bool = True, one: bool = True) -> None:
        """See :func:`fraction`."""
        for field in fields:
            fraction(self.prefix + field, getattr(self.config, field), zero=zero, one=one)

    def image_size(self, field: str) -> None:
        """See :func:`image_size`."""
        image_size(self.prefix + field, getattr(self.config, field))


def auto_or_at_least(section: Section, least: int, field: str) -> None:
    """The field must be auto, or a number of ``least`` or more."""
    value = getattr(section.config, field)
    if value == AUTO:
        return
    if isinstance(value, str):
        raise ConfigError(f"{section.prefix}{field}: {value!r} is neither auto nor a number")
    section.at_least(least, field)
