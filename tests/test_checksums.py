"""Checksums of tensors: beside a literal loop, and what of a file they notice."""

import zlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from videohpm.checkpoint.checksums import COLUMNS, checksum

LARGE = 3 * COLUMNS * 2 + 11
"""Numbers of four bytes: three rows of words, and some that fill none."""


def literal(name, tensor):
    data = tensor.numpy().tobytes()
    sums, rows = [0] * COLUMNS, len(data) // (8 * COLUMNS)
    for word in range(rows * COLUMNS):
        value = int.from_bytes(data[8 * word : 8 * word + 8], "little", signed=True)
        sums[word % COLUMNS] += value
    begin = f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode()
    packed = b"".join((value % 2**64).to_bytes(8, "little") for value in sums)
    return f"{zlib.crc32(begin + packed + data[8 * rows * COLUMNS :]):08x}"


@pytest.mark.parametrize("shape", [(), (0,), (5,), (LARGE,), (LARGE // 7, 7)])
def test_it_is_what_a_literal_loop_says(shape):
    tensor = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    assert checksum("a", tensor) == literal("a", tensor)
    assert checksum("a", tensor) != checksum("b", tensor)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 4 * LARGE - 1), st.integers(0, 7))
def test_any_flipped_bit_changes_it(byte, bit):
    tensor = torch.randn(LARGE, generator=torch.Generator().manual_seed(1))
    before = checksum("a", tensor)
    tensor.numpy().view(np.uint8)[byte] ^= 1 << bit
    assert checksum("a", tensor) != before


@pytest.mark.parametrize("page", [512, 4096, 1 << 15])
def test_pages_that_are_exchanged_zeroed_or_written_twice_change_it(page):
    tensor = torch.randn(1 << 16, generator=torch.Generator().manual_seed(2))
    before, data = checksum("a", tensor), tensor.numpy().view(np.uint8)
    first, last = data[:page].copy(), data[2 * page : 3 * page].copy()
    for one, other in ((last, first), (np.zeros_like(first), last), (last, last)):
        data[:page], data[2 * page : 3 * page] = one, other
        assert checksum("a", tensor) != before
    data[:page], data[2 * page : 3 * page] = first, last
    assert checksum("a", tensor) == before
