"""Bytes made wrong at random: what fuzzers do, and what the formats here are sensitive to."""

from __future__ import annotations

import json
import random

WORDS = [
    b"\x00", b"\xff\xfe", b"\n", b"\r", b'"', b"'", b",", b":", b"- ", b"{", b"[", b"]", b"}",
    b"!!bool x", b"!!int ''", b"!!float .", b"!!timestamp 1", b"!!python/object:os.system ",
    b"&a [*a]", b"<<: *a", b"1:" * 60 + b"1", b"[" * 2000, b"{" * 2000, b"../../", b"/etc/passwd",
    b"http://127.0.0.1/x", b"concat:a|b", b"#EXTM3U\n", b"ffconcat version 1.0\n", b"NaN",
    b"-Infinity", b"1e999", b"null", b"true", b"-1", b"0", b"9" * 40, b"\xed\xa0\x80", b"=1+1",
    b"\xe2\x80\xa8", b"cos\nsystem\n", b"PK\x03\x04", b"\x89PNG", b"ftyp", b"moov", b"RIFF",
]  # fmt: skip
NUMBERS = [0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 2**63 - 1, 2**64 - 1]
VALUES = [
    None, True, False, 0, -1, 1, 2**31, 2**63, 10**30, 0.5, -0.0, 1e308, float("nan"),
    float("inf"), "", "a", "\x00", "../x", [], {}, [[]], [1, 2, 3], {"a": 1}, "F32", "BF16", "I64",
    [0, 0], [0, 2**40], [-1, 4], [4, 0], "9" * 30,
]  # fmt: skip


def mutated(chance: random.Random, data: bytes, others: list[bytes]) -> bytes:
    """``data`` after a few changes; pieces of ``others`` may get into it."""
    found = bytearray(data)
    for _ in range(1 + min(int(chance.expovariate(0.5)), 12)):
        chance.choice(CHANGES)(chance, found, others)
    return bytes(found)


def mutated_json(chance: random.Random, text: bytes) -> bytes:
    """A JSON text, a few of its values replaced, removed, doubled or renamed."""
    tree = json.loads(text)
    for _ in range(1 + min(int(chance.expovariate(0.7)), 6)):
        tree = _changed(chance, tree, 0)
    return json.dumps(tree).encode()


def _changed(chance: random.Random, tree, depth: int):
    if not isinstance(tree, (dict, list)) or not tree or chance.random() < 0.15 * depth:
        return chance.choice(VALUES)
    if isinstance(tree, dict):
        key = chance.choice(list(tree))
        what = chance.random()
        rest = {name: value for name, value in tree.items() if name != key}
        if what < 0.1:
            return rest
        if what < 0.2:
            return rest | {str(chance.choice(VALUES)): tree[key]}
        return tree | {key: _changed(chance, tree[key], depth + 1)}
    at = chance.randrange(len(tree))
    if chance.random() < 0.1:
        return tree[:at] + tree[at + 1 :]
    return [*tree[:at], _changed(chance, tree[at], depth + 1), *tree[at + 1 :]]


def _place(chance: random.Random, data: bytearray) -> int:
    """Anywhere; the first bytes as often as all others, for headers are there."""
    most = min(len(data), 64) if chance.random() < 0.5 else len(data)
    return chance.randrange(most + 1) if most else 0


def _flip(chance: random.Random, data: bytearray, _) -> None:
    if data:
        data[min(_place(chance, data), len(data) - 1)] ^= 1 << chance.randrange(8)


def _number(chance: random.Random, data: bytearray, _) -> None:
    at, size = _place(chance, data), chance.choice([1, 2, 4, 8])
    value = chance.choice(NUMBERS) % 2 ** (8 * size)
    data[at : at + size] = value.to_bytes(size, chance.choice(["little", "big"]))


def _cut(chance: random.Random, data: bytearray, _) -> None:
    at = _place(chance, data)
    del data[at : at + int(10 ** chance.uniform(0, 4))]


def _end(chance: random.Random, data: bytearray, _) -> None:
    del data[_place(chance, data) :]


def _double(chance: random.Random, data: bytearray, _) -> None:
    at = _place(chance, data)
    data[at:at] = data[at : at + int(10 ** chance.uniform(0, 3))] * chance.choice([1, 2, 20])


def _word(chance: random.Random, data: bytearray, _) -> None:
    at, over = _place(chance, data), chance.random() < 0.5
    word = chance.choice(WORDS)
    data[at : at + len(word) * over] = word


def _piece(chance: random.Random, data: bytearray, others: list[bytes]) -> None:
    other = chance.choice(others)
    begin = chance.randrange(len(other) + 1)
    at = _place(chance, data)
    data[at : at + chance.choice([0, 16])] = other[begin : begin + int(10 ** chance.uniform(0, 3))]


CHANGES = [_flip, _flip, _number, _cut, _end, _double, _word, _word, _piece]
