"""Memory that a reading process keeps from clip to clip, and gives back now and then."""

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # malloc.h
_LARGEST_MMAP_THRESHOLD = 32 * 2**20  # that glibc takes
_KEPT = 256 * 2**20
GIVEN_BACK_AFTER = 200
"""Files read: a trim takes a millisecond or two, and the pages of a clip are then new once."""


def keep_memory() -> None:
    """On Linux with glibc, memory that is freed stays with this process, for its next clip.

    A clip takes and frees the same few megabytes as the one before it. What goes back to the system
    in between comes with new pages, found and cleared one by one: up to a fifth of what reading a
    clip of key frames takes, and by chance, since glibc moves its own limits as a process goes on.
    Threads that decoders start for each file share what is kept, as far as glibc lets them.
    """
    _call("mallopt", _M_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD)
    _call("mallopt", _M_TRIM_THRESHOLD, _KEPT)
    _call("mallopt", _M_ARENA_MAX, 1)


def give_memory_back() -> None:
    """What is free goes to the system after all: pieces that fit no clip would add up."""
    _call("malloc_trim", 0)


def _call(name: str, *numbers: int) -> None:
    function = getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None
    if function is not None:  # musl has neither
        function(*numbers)
