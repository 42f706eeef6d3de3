"""Labels of other tasks than one class a sample: several classes, or one number."""

from __future__ import annotations

import math
import re

from videohpm.data.class_labels import LINE, number_classes
from videohpm.errors import UserError

NONE = "-"
"""The label of a sample that has none of the classes."""
_PAIRS = ("[]", "()", "{}")
_NUMBERS = re.compile(r"[\[({]?\s*\d+(\s*[,/\s]\s*\d+)+\s*[\])}]?")


def number_sets(
    rows: dict[str, list], classes: list[str] | None, where: str, *, numbered: bool = False
) -> tuple[list[list[int]], list[str] | None]:
    """The class numbers of each row, ascending, and the names of the classes if labels are names.

    A label is ``a;b`` or ``a|b``, one of them in a file; numbers may also be ``3,7`` or ``[3, 7]``.
    A name may hold commas, spaces and brackets. ``-`` is none of the classes. ``classes`` and
    ``numbered`` are as in :func:`videohpm.data.find_samples`. Raises UserError, which names the
    line.
    """
    separator, sets = None, []
    for line, field in zip(rows[LINE], rows["label"], strict=True):
        at = f"{where} line {line}"
        if not field:
            raise UserError(f"{at}: the label is empty; write {NONE} for none of the classes")
        used = [mark for mark in ";|" if mark in field]
        if len(used) > 1 or (used and separator not in (None, used[0])):
            raise UserError(
                f"{at}: label {field!r}: classes are separated by ; and by | in this list; use one"
            )
        separator = used[0] if used else separator
        sets.append(_parts(field, used[0] if used else None, at))
    names = [name for part in sets for name in part]
    if not names:
        raise UserError(f"{where}: no sample has a label other than {NONE}")
    lines = [line for line, part in zip(rows[LINE], sets, strict=True) for _ in part]
    mend = f"write {NONE} for none of the classes"
    numbers, classes = number_classes(names, classes, where, lines, numbered=numbered, mend=mend)
    flat = iter(numbers)
    return [sorted({next(flat) for _ in part}) for part in sets], classes


def _parts(field: str, separator: str | None, at: str) -> list[str]:
    if field == NONE:
        return []
    inside = field[1:-1].strip() if _is_wrapped(field) else None
    if inside is not None and re.fullmatch(r"[\d.,;|/\s]*\d[\d.,;|/\s]*", inside):
        field = inside
    elif inside is not None and separator is not None:
        # Cut at the separators, its halves would be names with a bracket each.
        raise UserError(f"{at}: label {field!r}: write names without brackets, a{separator}b")
    if separator is None:
        return re.findall(r"\d+", field) if _NUMBERS.fullmatch(field) else [field]
    parts = [part.strip() for part in field.split(separator)]
    if not all(parts) or NONE in parts:
        raise UserError(f"{at}: label {field!r}: a class between two {separator} is empty")
    return parts


def _is_wrapped(field: str) -> bool:
    """Whether a pair of brackets encloses the whole field, as ``(a) b (c)`` is not."""
    pair = field[:1] + field[-1:]
    if pair not in _PAIRS:
        return False
    depth = 0
    for place, character in enumerate(field, 1):
        depth += (character == pair[0]) - (character == pair[1])
        if depth == 0:
            return place == len(field)
    return False


def numbers_of(rows: dict[str, list], where: str) -> list[float]:
    """The number of each row. Raises UserError, which names the line, where one is none."""
    values = []
    for line, field in zip(rows[LINE], rows["label"], strict=True):
        try:
            value = float(field)
        except ValueError:
            value = math.nan
        if not abs(value) < 1e30:
            raise UserError(
                f"{where} line {line}: label {field!r} is no number; task regress needs one, such "
                "as 3.5, in each row"
            )
        values.append(value)
    return values
