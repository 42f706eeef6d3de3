"""Files of a run folder, of which nothing is trusted: neither where they lead, nor size nor form.

What is read is bounded, so that a page is made in seconds whatever the folder holds. ValueError
and OSError say in a few words why a file is left out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

MOST_BYTES = {".json": 1 << 20, ".yaml": 1 << 16}
MOST_BRACKETS = 4096
MOST_LINE = 1 << 18
MOST_LINES_BYTES = 1 << 29
MOST_ROWS, MOST_RARE, MOST_KINDS = 20_000, 2_000, 64
NUMBER = re.compile(r"[-+]?(\d{1,40}(\.\d{0,40})?|\.\d{1,40})([eE][-+]?\d{1,3})?")
WORDS = {"": None, "~": None, "null": None, "true": True, "false": False}

READ = (
    "metrics.jsonl", "config.yaml", "evaluation*.json", "environment.json", "bad_files.jsonl",
    "confusion.png", "evaluation*/*.json", "evaluation*/confusion.png", "pictures/*.png",
    "diagnostics/*.json", "checkpoints/*/state.json",
)  # fmt: skip
"""The files of a run that a report reads."""


def is_run(folder: Path) -> bool:
    """Whether a folder holds at least one file of a run, in whatever state."""
    return any(True for pattern in READ for _ in folder.glob(pattern))


def inside(folder: Path, file: Path) -> Path:
    """``file``. ValueError where a link leads out of the run folder: the page may be published."""
    if not file.resolve().is_relative_to(folder.resolve()):
        raise ValueError("a link that leads out of the run folder, not followed")
    if file.exists() and not file.is_file():
        raise ValueError("no file")
    return file


def read_structure(folder: Path, file: Path) -> dict | list:
    """What a JSON or YAML file holds. ValueError where that is no table or list, or too large."""
    with inside(folder, file).open("rb") as opened:
        content = opened.read(MOST_BYTES[file.suffix] + 1)
    if len(content) > MOST_BYTES[file.suffix]:
        raise ValueError("too large")
    text = content.decode("utf-8")
    if file.suffix == ".yaml" and text.count("[") + text.count("{") > MOST_BRACKETS:
        raise ValueError("too deeply nested")  # would take the parser minutes
    try:
        value = yaml.load(text, _PlainLoader) if file.suffix == ".yaml" else json.loads(text)
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(" ".join(str(error).split())) from None
    if not isinstance(value, (dict, list)):
        raise ValueError("empty or no table")
    return value


class _PlainLoader(yaml.BaseLoader):
    """Tables, lists, texts, numbers, true, false and null; tags, merges and dates mean nothing.

    What YAML makes of others can fail in many ways, or take hours.
    """

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        if isinstance(node, yaml.ScalarNode) and node.style is None:
            if node.value in WORDS:
                return WORDS[node.value]
            if NUMBER.fullmatch(node.value):
                return int(node.value) if node.value.lstrip("+-").isdigit() else float(node.value)
        return super().construct_object(node, deep=deep)


class Lines:
    """The objects of a JSON-lines file; of a very long one as many of each kind as are drawn.

    Lines are of one kind where they differ in digits only. Rare kinds (a validation now and then)
    are read in full, others evenly.

    Attributes:
        notes: what was left out, and why, once all lines have been iterated over.
    """

    def __init__(self, folder: Path, file: Path):
        self.file, self.notes = inside(folder, file), []

    def __iter__(self) -> Iterator[dict]:
        counts, total = self._count()
        stride = -(-total // MOST_ROWS)
        seen: dict[bytes, int] = {}
        torn = []
        for number, line in self._read():
            kind = self._kind(line, counts)
            seen[kind] = seen.get(kind, -1) + 1
            last = seen[kind] == counts.get(kind, 0) - 1
            if counts.get(kind, 0) > MOST_RARE and seen[kind] % stride and not last:
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                row = None
            if isinstance(row, dict):
                yield row
            elif line.strip():
                torn.append(number)
        if torn:
            lines = ", ".join(map(str, torn[:5])) + (" …" if len(torn) > 5 else "")
            self.notes.append(f"damaged line {lines} left out ({len(torn)} in all)")
        if stride > 1:
            self.notes.append(f"{total:,} lines, of which every {stride}th is read")

    def _count(self) -> tuple[dict[bytes, int], int]:
        counts: dict[bytes, int] = {}
        total = 0
        for _, line in self._read():
            kind = self._kind(line, counts)
            counts[kind] = counts.get(kind, 0) + 1
            total += 1
        return counts, total

    @staticmethod
    def _kind(line: bytes, known: dict[bytes, int]) -> bytes:
        kind = line[:4096].translate(None, b"0123456789.-+eE \r\n")
        return kind if kind in known or len(known) < MOST_KINDS else b""

    def _read(self) -> Iterator[tuple[int, bytes]]:
        """Lines with their numbers; one that is too long is cut, and so damaged."""
        number = size = 0
        with self.file.open("rb") as opened:
            while line := opened.readline(MOST_LINE):
                number += 1
                size += len(line)
                more = line
                while len(more) == MOST_LINE and not more.endswith(b"\n"):
                    more = opened.readline(MOST_LINE)
                    size += len(more)
                yield number, line
                if size > MOST_LINES_BYTES:
                    note = f"more than {MOST_LINES_BYTES >> 20} MB; the rest is left out"
                    if note not in self.notes:
                        self.notes.append(note)
                    return
