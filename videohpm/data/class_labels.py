"""Class numbers of the labels that a manifest or class folders give, as numbers or as names.

A label that is a whole number is the name of a class where class names are numbers themselves
("0", "10", "2", in the order of their folders), and else the position of the class. So neither
the order of the names nor the classes that happen to be there change what a label means.
"""

import logging
import re
from collections.abc import Sequence

from videohpm.errors import UserError

LINE = "\0line"
"""The line numbers of the rows, beside the columns of a manifest: no header has this name."""
MAX_LABEL = 2**31
_NUMBER = re.compile(r"\d+(\.0*)?")  # tables of floats write 3 as 3.0
_NEGATIVE = re.compile(r"-\d+(\.0*)?")
_MISSING = re.compile(r"na|n/a|<na>|nan|none|null", re.IGNORECASE)  # as tables write a gap
_SEVERAL = re.compile(r"[\[({]?\s*\d+(\s*[;|,/\s]\s*\d+)+\s*[\])}]?")
_log = logging.getLogger(__name__)


def whole_number(text: str) -> int | None:
    """The number that a label is (3 and 3.0 are 3), or None."""
    return int(text.partition(".")[0]) if _NUMBER.fullmatch(text) else None


def number_labels(
    rows: dict[str, list],
    classes: list[str] | None,
    where: str,
    *,
    required: bool,
    numbered: bool = False,
) -> tuple[list[int | None] | None, list[str] | None]:
    """The class number of each row, and the names of the classes where labels are names.

    A blank label is an error that names the row where labels are ``required``; else its row is
    unlabelled (None), which is reported once, and so is one of -1, and among numbers one of NA, nan
    or the like. Without any label both results are None.
    ``classes`` and ``numbered`` are as in :func:`videohpm.data.find_samples`.
    """
    if not required:
        rows = rows | {"label": _without_missing(rows["label"], classes or [])}
    lines, fields = rows[LINE], rows["label"]
    blank = [row for row, field in enumerate(fields) if not field]
    if blank and required:
        raise UserError(f"{where} line {lines[blank[0]]}: the label is empty{_others(blank)}")
    labelled = [row for row, field in enumerate(fields) if field]
    if not labelled:
        return None, None
    report_unlabelled(rows, where)
    names, lines = [fields[row] for row in labelled], [lines[row] for row in labelled]
    numbers, classes = number_classes(names, classes, where, lines, numbered=numbered)
    labels: list[int | None] = [None] * len(fields)
    for row, number in zip(labelled, numbers, strict=True):
        labels[row] = number
    return labels, classes


def number_classes(
    names: list[str],
    classes: list[str] | None,
    where: str,
    lines: list[int],
    *,
    numbered: bool = False,
    mend: str = "leave it blank for unlabelled, or remove the row",
) -> tuple[list[int], list[str] | None]:
    """The class number of each name, and the names of the classes where names are no numbers.

    ``lines`` are those of the names, ``mend`` says how a sample without a class is written; the
    rest is as in :func:`videohpm.data.find_samples`. Raises UserError, which names the line.
    """
    if numbered:
        return number_only(names, where, lines), None
    if classes is None:
        _refuse_missing(names, where, lines, mend)
    return _by_name_or_position(names, classes, where, lines)


def _missing(names: list[str]) -> set[str]:
    """Those of the labels that stand for none: -1, and where all others are numbers NA or nan.

    Among names, "none" may be the name of a class; -1 is what many lists write for no class.
    """
    seen = set(names)
    negative = {name for name in seen if _NEGATIVE.fullmatch(name)}
    gaps = {name for name in seen if _MISSING.fullmatch(name)}
    others = seen - negative - gaps
    among_numbers = bool(others) and all(whole_number(name) is not None for name in others)
    return negative | gaps if among_numbers else negative


def _without_missing(fields: list[str], classes: list[str]) -> list[str]:
    """The labels with blanks for those that stand for none and are not the name of a class."""
    missing = _missing([field for field in fields if field]).difference(classes)
    return ["" if field in missing else field for field in fields]


def _refuse_missing(names: list[str], where: str, lines: list[int], mend: str) -> None:
    missing = _missing(names)
    rows = [row for row, name in enumerate(names) if name in missing]
    if rows:
        raise UserError(
            f"{where} line {lines[rows[0]]}: label {names[rows[0]]!r} is neither a whole number "
            f"from 0 nor the name of a class{_others(rows)}; {mend}"
        )


def _by_name_or_position(
    names: list[str], classes: list[str] | None, where: str, lines: list[int]
) -> tuple[list[int], list[str] | None]:
    numbers = [whole_number(name) for name in names]
    odd = next((i for i, number in enumerate(numbers) if number is None), None)
    if classes is not None and any(whole_number(name) is not None for name in classes):
        return number_names(names, classes, where, lines)
    if odd is None:
        found = [number for number in numbers if number is not None]
        _check_limit(found, len(classes) if classes is not None else MAX_LABEL, where, lines)
        return found, classes
    if classes is None:
        _check_new_names(names, numbers, where, lines)
        _warn_of_sets(names, where, lines)
    return number_names(names, classes, where, lines)


def _check_new_names(
    names: list[str], numbers: list[int | None], where: str, lines: list[int]
) -> None:
    """UserError where labels that are to name the classes are mistaken numbers."""
    odd = numbers.index(None)
    for line, name in zip(lines, names, strict=True):
        if _SEVERAL.fullmatch(name):
            raise UserError(
                f"{where} line {line}: label {name!r} holds several numbers; a sample has one "
                "class: keep one, or give task multi_label"
            )
    if sum(number is not None for number in numbers) * 2 > len(names):
        raise UserError(
            f"{where} line {lines[odd]}: label {names[odd]!r} is not a whole number from 0, as "
            "most others are"
        )
    number = next((i for i, number in enumerate(numbers) if number is not None), None)
    if number is not None:
        _log.warning(
            "%s: labels are taken for names of classes: some are numbers (line %d: %s), others are "
            "not (line %d: %s)",
            *(where, lines[number], names[number], lines[odd], names[odd]),
        )


def _warn_of_sets(names: list[str], where: str, lines: list[int]) -> None:
    """Warns where names look as if each were several, of which others have some, too."""
    seen = set(names)
    for line, name in zip(lines, names, strict=True):
        parts = {part.strip() for part in re.split("[;|]", name)}
        if len(parts) > 1 and parts & seen:
            _log.warning(
                "%s line %d: label %r is taken for the name of one class; if it is several, give "
                "task multi_label",
                *(where, line, name),
            )
            return


def number_only(names: Sequence[str], where: str, lines: list[int] | None = None) -> list[int]:
    """The numbers that all ``names`` are, for classes known by number only. Raises UserError."""
    numbers = []
    for row, name in enumerate(names):
        number = whole_number(name)
        if number is None:
            at = f" line {lines[row]}" if lines else ""
            raise UserError(
                f"{where}{at}: class {name!r} is no number, and the classes are known by number "
                "only; give labels that are the numbers of the training data"
            )
        numbers.append(number)
    _check_limit(numbers, MAX_LABEL, where, lines)
    return numbers


def number_names(
    names: list[str], classes: list[str] | None, where: str, lines: list[int] | None = None
) -> tuple[list[int], list[str]]:
    """The position of each name in ``classes`` (None: the names in order), and the classes.

    Names of numbers are also found written in another way (7, 7.0 and 007), where only one class
    can be meant. Raises UserError for a name that is not there.
    """
    classes = sorted(set(names)) if classes is None else list(classes)
    known = {name: i for i, name in enumerate(classes)}
    by_value: dict[int, list[int]] = {}
    for i, name in enumerate(classes):
        value = whole_number(name)
        if value is not None:
            by_value.setdefault(value, []).append(i)
    found = []
    for row, name in enumerate(names):
        position = known.get(name)
        if position is None:
            value = whole_number(name)
            same = by_value.get(value, []) if value is not None else []
            if len(same) != 1:
                at = f" line {lines[row]}" if lines else ""
                raise UserError(
                    f"{where}{at}: class {name!r} is not among the {len(classes)} known"
                )
            position = same[0]
        found.append(position)
    return found, classes


def report_unlabelled(rows: dict[str, list], where: str) -> None:
    """Warns, once, of rows with a blank label among labelled ones."""
    fields = rows.get("label", ())
    blank = [row for row, field in enumerate(fields) if not field]
    if 0 < len(blank) < len(fields):
        _log.warning(
            "%s: %d of %d rows have no label (first: line %d, %s); they count as unlabelled",
            *(where, len(blank), len(fields), rows[LINE][blank[0]], rows["path"][blank[0]]),
        )


def _check_limit(numbers: list[int], limit: int, where: str, lines: list[int] | None) -> None:
    for row, number in enumerate(numbers):
        if number >= limit:
            at = f" line {lines[row]}" if lines else ""
            raise UserError(f"{where}{at}: label {number} of {limit} classes (from 0)")


def _others(rows: list[int]) -> str:
    return f" (and {len(rows) - 1} more)" if len(rows) > 1 else ""
