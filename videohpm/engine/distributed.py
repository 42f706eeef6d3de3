# pyright: reportPrivateImportUsage=false
# (torch.distributed documents its stores, and does not list them in __all__.)
"""The processes of a run: how they find each other, wait for each other, and end together.

torchrun, the ``deepspeed`` launcher or Slurm start them and say in the environment (``RANK``,
``WORLD_SIZE``, ``LOCAL_RANK``, ``MASTER_ADDR``, ``MASTER_PORT``) who each of them is. Everything
here also works, and costs nothing, in a single process that no launcher started.
What they exchange is in :mod:`videohpm.engine.collectives`.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from contextlib import AbstractContextManager, nullcontext, suppress
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed import distributed_c10d

from videohpm import stopping
from videohpm.config.machine import launched_world_size
from videohpm.engine.meeting import Meeting, ask
from videohpm.engine.rendezvous import unreached, wait_for_first_rank
from videohpm.engine.watch import PeerWatch, leave_now
from videohpm.errors import LostProcess, exit_code

NCCL_LATER = 60.0
"""Seconds that NCCL waits longer than ``engine.timeout``."""
LAST_WORD = 2.0
"""Seconds that rank 0 waits for the others to ask whether they should report an error."""


_REPORTING = threading.RLock()
"""The training and the thread that watches the other processes both end a run."""


class _Group:
    """What :func:`init_process_group` sets up for the functions below."""

    store: dist.Store | None = None
    """Where ranks exchange short texts; outlives a dead rank under torchrun."""
    control_group: dist.ProcessGroup | None = None
    """The gloo group for flags and metrics."""
    timeout: float = 0.0
    field: str = "engine.timeout"
    """Where the user gives the timeout."""
    meeting: Meeting | None = None
    """Where ranks wait for each other as long as they work."""
    watch: PeerWatch | None = None
    """Ends this process when another one has ended."""
    reporter = 0
    """The local rank that reports why the run ends, before the processes have joined."""
    first: bool | None = None
    """Whether this process reports why the run ends, once it has asked."""


def local_rank() -> int:
    """The number of this process on its machine."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def rank() -> int:
    """The number of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """The number of processes in the group."""
    return dist.get_world_size() if dist.is_initialized() else 1


def init_process_group(device: torch.device, seconds: float, field: str = "engine.timeout") -> None:
    """Join the other processes; collective calls wait ``seconds`` at most.

    A second call in the same process changes nothing. Raises UserError where what the environment
    says of the other processes is wrong, and RunError where one of them does not come.

    Args:
        field: of the configuration that ``seconds`` comes from.
    """
    if dist.is_initialized():
        return
    limit = min(timedelta(days=365), timedelta(seconds=min(seconds, 1e9)))
    on_gpu = device.type == "cuda"
    # NCCL ends the process when its time is over: the control group comes first, and says why.
    device_limit = limit + timedelta(seconds=NCCL_LATER) if on_gpu else limit
    # The groups that DeepSpeed makes for itself take the defaults, of up to half an hour.
    distributed_c10d.default_pg_timeout = limit
    distributed_c10d.default_pg_nccl_timeout = device_limit
    backend = "nccl" if on_gpu else "gloo"
    _Group.timeout, _Group.field = seconds, field
    store = None
    try:
        if launched_world_size() > 1:
            store, number, total = _find_first_rank(limit)
        else:
            store, number, total = dist.HashStore(), 0, 1
        store.set_timeout(limit)
        if on_gpu:
            torch.cuda.set_device(device)
        _Group.store = dist.PrefixStore("videohpm", store)
        dist.init_process_group(
            backend, store=store, rank=number, world_size=total, timeout=device_limit
        )
        group: Any = dist.new_group(backend="gloo", timeout=limit)  # of all ranks: this one too
        _Group.control_group = group
        if total > 1:
            _Group.meeting = Meeting(_Group.store, total, seconds)
            _Group.watch = PeerWatch(_report_lost, limit)
            stopping.before_leaving(_leave_all)
    except (ValueError, RuntimeError) as error:
        raise unreached(error, store, seconds, lambda: lost_process(rank())) from error


def _find_first_rank(limit: timedelta) -> tuple[dist.Store, int, int]:
    """The store that rank 0 holds, the number of this process, and the number of all."""
    try:
        wait_for_first_rank(limit.total_seconds())
        return next(dist.rendezvous("env://", timeout=limit))
    except RuntimeError:
        # On rank 0's machine, whose first process is the one that is missing, the second reports.
        _Group.reporter = int(rank() == local_rank() > 0)
        raise


def destroy_process_group() -> None:
    """Leave the other processes at the end of a run, when all have come to it."""
    if _Group.watch is not None:
        wait_for_all()
        _Group.watch.bye(_Group.timeout)
    if _Group.meeting is not None:
        _Group.meeting.close()
    if dist.is_initialized():
        dist.destroy_process_group()
    _Group.store = _Group.control_group = _Group.watch = _Group.meeting = _Group.first = None


def working() -> AbstractContextManager[None]:
    """Around what one process does, lawfully long, while others wait in :func:`wait_for_all`."""
    return nullcontext() if _Group.meeting is None else _Group.meeting.working()


def progress() -> None:
    """This process gets on: others go on waiting for it in :func:`wait_for_all`. Costs nothing."""
    if _Group.meeting is not None:
        _Group.meeting.beat()


def wait_for_all() -> None:
    """Wait for every rank to call this, longer than ``engine.timeout`` where one is at work.

    Raises LostProcess where none of them has given a sign of life for so long.
    """
    try:
        if _Group.meeting is not None:
            _Group.meeting.wait_for_all()
    except LostProcess as error:
        raise LostProcess(lost_process(rank())) from error


def control_group() -> dist.ProcessGroup | None:
    """The gloo group of all processes for flags and metrics; None before they have joined."""
    return _Group.control_group


def store() -> dist.Store | None:
    """Where ranks exchange short texts; None before they have joined."""
    return _Group.store


def timeout() -> float:
    """Seconds that collective calls wait."""
    return _Group.timeout


def first_to_report() -> bool:
    """Whether this process should print why the run ends: true once over all ranks.

    Before they have joined, one process of each machine prints.
    """
    store = _Group.store
    if store is None:
        return local_rank() == _Group.reporter
    with _REPORTING:
        if _Group.first is None:
            # A store that is gone, or does not answer: better twice than never.
            _Group.first = ask(lambda: store.add("reported", 1), 1, LAST_WORD) == 1
        return _Group.first


def report_once(message: str) -> None:
    """Print why the run ends, unless another process, or another thread of this one, does."""
    with _REPORTING:  # and printed before another thread, told that it need not, ends the process
        if first_to_report():
            with suppress(OSError):  # its disk may be the one that is full
                print(f"videohpm: {message}", file=sys.stderr, flush=True)


def announce_failure(error: BaseException) -> int:
    """Have all ranks end with the exit code of ``error``, promptly and whatever they wait for.

    Call it where this process is about to end so; nothing happens where all have left.

    Returns:
        that code: where another process is lost, what that one ended with.
    """
    code = exit_code(error)
    if isinstance(error, LostProcess) and _Group.watch is not None:
        code = _Group.watch.code_of_first()
    _tell_others(code)
    return code


def _tell_others(code: int) -> None:
    if _Group.watch is not None:
        first_to_report()  # before the others are told: they would be the first to ask
        _Group.watch.failed(code)


def leave(code: int) -> int:
    """The exit code; of several processes that have joined, this one ends here instead.

    It does not clean up, which would wait for the others. Rank 0, which may hold the store, waits a
    moment for them to ask whether they should report an error: once it has ended none can know.
    """
    if _Group.watch is None:
        return code
    store, deadline = _Group.store, time.monotonic() + LAST_WORD
    while rank() == 0 and store is not None and time.monotonic() < deadline:
        if ask(lambda: store.add("reported", 0), world_size(), LAST_WORD) >= world_size():
            break
        time.sleep(0.05)
    leave_now(code)
    return code


def lost_process(noticed_by: int) -> str:
    """What is told where another process is gone."""
    count = max(world_size(), launched_world_size())
    return (
        f"another of the {count} processes of this run died, or did not answer for "
        f"{_Group.field} = {timeout():g} seconds (noticed by rank {noticed_by}); all end, "
        "checkpoints are kept, and the same command goes on from the newest"
    )


def _report_lost(_gone: int) -> None:
    report_once(lost_process(rank()))


def _leave_all(code: int, message: str | None) -> None:
    """A signal ends this process wherever it is: the others end with it."""
    if message is not None:
        report_once(message)
    _tell_others(code)
