"""Lines of a list without a header: which words are the path, and which its label.

A path may hold spaces, and so may the name of a class. What tells where the path ends is the suffix
of a video or image, or a tab. Where neither does, and a guess may be wrong, the line is refused:
a wrong one would be a file that is not there, under a class that is not its own.
"""

import os
import re
from itertools import takewhile
from pathlib import Path

from videohpm.data.tables import NUMBER
from videohpm.errors import UserError

VIDEO_SUFFIXES = frozenset(
    [".mp4", ".avi", ".mkv", ".webm", ".mov", ".m4v", ".mpg", ".mpeg", ".flv", ".wmv", ".ts"]
    + [".3gp", ".ogv", ".mts", ".m2ts", ".vob"]
)
IMAGE_SUFFIXES = frozenset(
    [".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm"]
)
COLUMNS = ("path", "label", "frames", "reader", "height", "width")
"""Of a list, those that are read; a CSV file may have others."""
SLIPS = {
    **dict.fromkeys(("labels", "lable", "lables", "label_id"), "label"),
    **dict.fromkeys(("frame", "n_frames", "nframes", "num_frames"), "frames"),
    **dict.fromkeys(("readers",), "reader"),
    **dict.fromkeys(("heights", "hight", "heigth"), "height"),
    **dict.fromkeys(("widths", "widht", "witdh"), "width"),
}
"""Names that are a mistake for one of these columns, where it is not there itself."""
_TITLES = {*COLUMNS, *SLIPS, "paths", "video", "video_path", "filename", "file", "class"}
MOST_SHOWN = 60
"""So many characters of a line are in a message."""
_GAP = re.compile(r"([ \t]+)")


def has_media_suffix(path: str) -> bool:
    return os.path.splitext(path.strip())[1].lower() in VIDEO_SUFFIXES | IMAGE_SUFFIXES


def cut_lines(file: Path, numbered: list[tuple[int, str]]) -> list[tuple[int, list[str]]]:
    """Lines that tabs or spaces separate, each as its path and the values after it.

    ``numbered`` are the lines with their numbers, as are the results. How many values there should
    be is for the caller to check. Raises UserError, which names the line, where a path ends in more
    than one place, where some lines have a label and the first has none, and for a header.
    """
    first = _GAP.split(numbered[0][1].strip(" \t"))
    values = _count_values(first)
    usual = 1 + 2 * values if _path_end(first) else len(first)
    records = []
    for number, line in numbered:
        (path, *more), sure = _cut(_GAP.split(line.strip(" \t")), values, usual)
        if more and not values:
            raise UserError(
                f"data.manifest: {file} line {number}: a path and a label "
                f"({' '.join(more)[:MOST_SHOWN]}), the first line has a path only; label all lines "
                "or none"
            )
        if not sure:
            raise UserError(
                f"data.manifest: {file} line {number}: it is not clear where the path ends (path "
                f"{path[-MOST_SHOWN:]!r}, label {' '.join(more)[:MOST_SHOWN]!r}?); put a tab "
                "between them, or commas in all lines"
            )
        records.append((number, [path, *more]))
    _refuse_header(file, numbered[0][1], records)
    return records


def _path_end(words: list[str]) -> int:
    """How many of the words, and of the gaps between them, are the path; 0 where nothing tells.

    It ends in the last suffix of a video or image; without any, at the first tab.
    """
    for end in range(len(words), 0, -2):
        if has_media_suffix(f"a{words[end - 1]}"):  # "my .mp4" has a suffix, ".mp4" has none
            return end
    return next((end for end in range(1, len(words), 2) if "\t" in words[end]), 0)


def _count_values(words: list[str]) -> int:
    """How many values follow the path on a first line."""
    if len(words) == 1:
        return 0
    if _path_end(words):
        return len(_cut(words, 1, 0)[0]) - 1
    # A path of several words without a suffix may end in a number itself.
    numbers = list(takewhile(re.compile(r"-?\d+").fullmatch, reversed(words[2::2])))
    return min(max(len(numbers), 1), 2)


def _cut(words: list[str], values: int, usual: int) -> tuple[list[str], bool]:
    """A line as its path and the values after it, and whether that is sure.

    Args:
        words: of the line, and the gaps between them.
        values: how many the first line has.
        usual: how many words and gaps a line has whose path holds as many spaces as the first.
    """
    end = _path_end(words)
    if end == 0:
        end = max(len(words) - 2 * values, 1) if values else len(words)
        known = len(words) == usual or len(words) <= 2 * values  # these are too few for any path
        sure = values == 0 or known or NUMBER.fullmatch(words[-1]) is not None
        return ["".join(words[:end]), *words[end + 1 :: 2]], sure
    path, rest, text = "".join(words[:end]), words[end + 1 :: 2], "".join(words[end + 1 :])
    if all(map(NUMBER.fullmatch, rest)):
        return [path, *rest], True
    if "\t" in words[end]:
        return [path, *re.split(r" *\t[ \t]*", text)], True
    if values == 2 and len(rest) > 1:
        return [path, rest[0], "".join(words[end + 3 :])], True
    # The number may be the label of a longer path, or the frames; a slash may belong to a path.
    odd = "\t" in text or "/" in "".join(rest[:-1])
    odd = odd or any(NUMBER.fullmatch(rest[place]) for place in (0, -1))
    return [path, text], len(rest) == 1 or not odd


def _refuse_header(file: Path, first: str, records: list) -> None:
    """UserError where the first line names columns, which would be a sample and its class."""
    (line, (path, *more)), *others = records
    if has_media_suffix(f"a{path}") or "/" in path or any(map(NUMBER.fullmatch, more)):
        return
    suffixed = sum(has_media_suffix(fields[0]) for _, fields in others)
    titles = bool(more) and _TITLES.issuperset(first.lower().split())
    if (titles or 2 * suffixed > len(others)) and not os.path.exists(file.parent / path):
        raise UserError(
            f"data.manifest: {file} line {line} looks like a header "
            f"({first.strip()[:MOST_SHOWN]!r}); name the column of the files path; columns other "
            f"than {', '.join(COLUMNS)} need commas or tabs"
        )
