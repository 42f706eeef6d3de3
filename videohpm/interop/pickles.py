"""Pickles of weights, restricted to plain data: nothing of them is run."""

from __future__ import annotations

import argparse
import pickletools
import re
import warnings
import zipfile
from mmap import ACCESS_READ, mmap
from pathlib import Path
from pickle import UnpicklingError
from typing import IO, cast

import torch

from videohpm.errors import UserError

SHOWN_ERROR = 160
LEGACY_PICKLES = 5
"""A file of before torch 1.6 is so many pickles, one after the other, and then the values."""
MOST_HASHED = 10_000_000
"""Values that are hashed to make the dictionaries of a pickle: far more than any checkpoint has."""


def load_pickled(path: Path) -> object:
    """What a ``.pth`` or ``.bin`` file holds, its pickle restricted to plain data and tensors."""
    size = path.stat().st_size
    zipped = _is_sound_zip(path, size)
    _check_keys(path, zipped)
    try:
        allowed = torch.serialization.safe_globals([argparse.Namespace, *_numpy_scalars()])
        with allowed, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's remarks on what it will refuse
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except UnpicklingError as error:
        wanted = re.search(r"GLOBAL ([\w.]+)", str(error))
        if wanted is None:
            # torch's own text goes on to advise the unsafe way
            raise UserError(
                f"{path}: refused, nothing of it was run: its pickle is not one of plain weights, "
                "or it is damaged; get it as safetensors, or the weights alone"
            ) from None
        raise UserError(
            f"{path}: refused, nothing of it was run: its pickle asks for {wanted[1]}, which "
            "weights do not need (or it is damaged); get it as safetensors, or the weights alone"
        ) from None
    except MemoryError:
        raise UserError(f"{path}: asks for more memory than there is; it is damaged") from None
    except Exception as error:  # torch raises nearly anything for damaged files
        raise UserError(f"{path}: not a checkpoint, or damaged ({one_line(error)})") from None


def _is_sound_zip(path: Path, size: int) -> bool:
    """Whether it is a zip; UserError where it is a damaged one, or none that torch has written.

    torch stores tensors uncompressed, so what a file unpacks to can never exceed its size.
    """
    try:
        if not zipfile.is_zipfile(path):  # which raises for some that are damaged
            return False
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise UserError(f"{path}: damaged ({one_line(error)})") from None
    if unpacked > size:
        raise UserError(
            f"{path}: refused: {size} bytes that would unpack to {unpacked}; torch never "
            "compresses a checkpoint, so this is no checkpoint"
        )
    return True


def _numpy_scalars() -> list:
    """Accuracies and losses are often saved as NumPy scalars."""
    import numpy as np

    kinds = (np.float64, np.float32, np.int64, np.bool_)
    scalar = type(np.float64(0)).__reduce__(np.float64(0))[0]
    return [
        scalar,
        (scalar, "numpy.core.multiarray.scalar"),
        np.dtype,
        *(type(np.dtype(kind)) for kind in kinds),
    ]


def _check_keys(path: Path, zipped: bool) -> None:
    """Refuse keys made to take for ever: tuples of the same tuple, doubled at every level."""
    try:
        if zipped:
            with zipfile.ZipFile(path) as archive:
                names = [n for n in archive.namelist() if n.endswith("data.pkl")]
                nested = any(_hashed(archive.open(name)) > MOST_HASHED for name in names)
        else:
            # Mapped: a text that says it is 4 GB long is read as far as the file goes.
            with open(path, "rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as mapped:
                whole = cast(IO[bytes], mapped)
                nested = any(_hashed(whole) > MOST_HASHED for _ in range(LEGACY_PICKLES))
    except (ValueError, LookupError, OSError, zipfile.BadZipFile, NotImplementedError):
        return  # damaged, of which the unpickler tells more
    if nested:
        raise UserError(
            f"{path}: refused: its pickle nests keys that no checkpoint has; get it as safetensors"
        )


def _hashed(file: IO[bytes]) -> int:
    """How many values are hashed to load a pickle, from its opcodes alone, up to what is too many.

    Follows the stack as an unpickler does, but keeps for each value only what hashing it costs: a
    tuple costs what its items do, however often the same one is in it.
    """
    stack: list[int] = []
    marks: list[int] = []
    memo: dict[object, int] = {}
    total = 0
    for opcode, argument, _ in pickletools.genops(file):
        name = opcode.name
        if name == "MARK":
            marks.append(len(stack))
        elif name in ("MEMOIZE", "PUT", "BINPUT", "LONG_BINPUT"):
            memo[len(memo) if name == "MEMOIZE" else argument] = stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name == "DUP":
            stack.append(stack[-1])
        else:
            taken = _take(stack, marks, opcode)
            if name == "SETITEM":
                total += taken[1]
            elif name in ("SETITEMS", "DICT"):
                total += sum(taken[-2::-2])
            if name.startswith("TUPLE") or name in ("REDUCE", "BUILD", "NEWOBJ", "FROZENSET"):
                stack.append(min(1 + sum(taken), MOST_HASHED + 1))
            else:
                stack += [1] * len(opcode.stack_after)
        if total > MOST_HASHED:
            break
    return total


def _take(stack: list[int], marks: list[int], opcode: pickletools.OpcodeInfo) -> list[int]:
    """Pop what an opcode consumes: all after the newest mark, or as many values as it names."""
    names = opcode.stack_before
    if pickletools.markobject in names:
        begin = marks.pop() - names.index(pickletools.markobject)
    else:
        begin = len(stack) - len(names)
    if begin < 0:
        raise ValueError("takes more than there is")
    taken = stack[begin:]
    del stack[begin:]
    return taken


def one_line(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text[:SHOWN_ERROR]
