# pyright: reportPrivateImportUsage=false
# (torch.distributed documents its stores, and does not list them in __all__.)
"""Why processes did not find each other: a process that is lost, or settings that are wrong."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta

import torch.distributed as dist

from videohpm.config.machine import launched_world_size
from videohpm.errors import RunError, UserError, one_line

SETTINGS = "RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT"
TAKEN = ("EADDRINUSE", "address already in use", "EACCES", "permission denied")
"""What torch says of a port that cannot be listened at."""
PAUSE = 0.05
"""Seconds between two attempts to connect."""
TOGETHER = 20.0
"""Seconds between the first and the last process that gives up, because all see none."""


def wait_for_first_rank(seconds: float) -> None:
    """Wait until somebody listens at MASTER_ADDR, MASTER_PORT, where this is another rank.

    torch's own client would wait as long, pause and wait as long again. Settings that are no
    address are left to it.

    Raises RuntimeError where nobody listens after ``seconds``.
    """
    host, port = os.environ.get("MASTER_ADDR", ""), os.environ.get("MASTER_PORT", "")
    rank = os.environ.get("RANK", "0")
    known = rank.isdigit() and port.isdigit() and int(rank) < launched_world_size()
    if not known or int(rank) == 0 or not host or not 0 < int(port) < 2**16:
        return
    deadline = time.monotonic() + seconds
    while True:
        left = deadline - time.monotonic()
        try:
            socket.create_connection((host, int(port)), max(left, PAUSE)).close()
            return
        except socket.gaierror:  # no such host
            return
        except OSError as error:
            if left <= 0:
                raise RuntimeError(f"{host}:{port} does not answer: {one_line(error)}") from None
            time.sleep(PAUSE)


def unreached(
    error: Exception, store: dist.Store | None, seconds: float, lost: Callable[[], str]
) -> UserError | RunError:
    """The error that ends a process which could not join the others.

    Args:
        error: what torch says.
        store: what all ranks write to, where this one has reached it.
        seconds: that it waited for the others.
        lost: gives what is told where a process is gone.
    """
    text = one_line(error)[:200]
    wrong = UserError(
        f"{SETTINGS}: the other processes cannot be reached ({text}); see the README on starting "
        "several. On several machines GLOO_SOCKET_IFNAME names the network interface that leads to "
        "the others"
    )
    if isinstance(error, ValueError) or any(mark in str(error) for mark in TAKEN):
        return wrong
    if store is not None:
        return wrong if _all_give_up(store, min(TOGETHER, seconds)) else RunError(lost())
    if not _is_known(os.environ.get("MASTER_ADDR", "")):
        return wrong
    return RunError(f"{lost()}. Where they have never met: check {SETTINGS} ({text})")


def _all_give_up(store: dist.Store, seconds: float) -> bool:
    """Whether all processes are there and have reached the store, but not each other."""
    ranks = range(launched_world_size())
    with suppress(RuntimeError):
        store.set(f"unreached/{os.environ.get('RANK', '0')}", "")
        store.wait([f"unreached/{rank}" for rank in ranks], timedelta(seconds=seconds))
        return True
    return False


def _is_known(host: str) -> bool:
    try:
        return bool(socket.getaddrinfo(host, None))
    except OSError:
        return False
