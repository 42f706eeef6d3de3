"""Files that appear when they are complete: where writing fails, nothing of it is left."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FULL = [getattr(errno, name) for name in ("ENOSPC", "EDQUOT", "EFBIG") if hasattr(errno, name)]
"""No room: the disk is full, or what this user, or one file, may take is used up."""
FULL_TEXTS = (
    "PytorchStreamWriter failed writing",
    "iostream error",
    *(f"(os error {number})" for number in FULL),
)
"""What libraries say of it that are not written in Python."""


@contextmanager
def complete(path: Path) -> Iterator[Path]:
    """A name beside ``path`` to write a file or fill a folder under, which is then moved there.

    An error inside removes what was written. A folder may replace an empty one alone.
    """
    partial = path.with_name(f".{path.stem[:200]}.partial{path.suffix}")
    _remove(partial)
    try:
        yield partial
        os.replace(partial, path)
    finally:
        _remove(partial)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def make_room(where: str) -> str:
    """What is told where writing failed; ``where`` is what :func:`full_disk` says."""
    return f"{where}; no half file is left. Make room and start it again"


def full_disk(error: BaseException | None) -> str | None:
    """Where ``error``, or what it came from, is that there is no room: one line. Else None."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in FULL:
            return f"{error.filename or 'the disk'}: {error.strerror}"
        text = " ".join(str(error).split())
        if any(mark in text for mark in FULL_TEXTS):
            return f"no room to write ({text[:160]})"
        error = error.__cause__ or error.__context__
    return None
