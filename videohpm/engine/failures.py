"""What ended a run, told by what torch, NCCL and gloo say of it."""

from __future__ import annotations

import re

import torch.distributed as dist

OUT_OF_MEMORY = (
    "out of memory",  # CUDA's own, also within NCCL and in a thread that pins memory
    "CUBLAS_STATUS_ALLOC_FAILED",
    "can't allocate memory",  # torch on a CPU
)
LOST = (
    # gloo
    "Connection closed by peer",
    "Connection reset by peer",
    "Broken pipe",
    "Read error",
    "Write error",
    "Timed out waiting",
    "Application timeout caused pair closure",
    # NCCL
    "ncclRemoteError",
    "remote process exit",
    "Watchdog caught collective operation timeout",
    "NCCL communicator was aborted",
    # the store
    "failed to recv",
    "recvValue failed",
    "sendBytes failed",
    "Socket Timeout",
    "wait timeout after",
)
"""What the messages have where another process died or does not answer."""

OTHERS = (
    # What a message of NCCL has, what it means, what to do.
    (
        r"Duplicate GPU detected",
        "two processes of this run have the same GPU",
        "start one for each GPU, on each machine, and let CUDA_VISIBLE_DEVICES name all of them",
    ),
    (
        r"/dev/shm/nccl|No space left on device|shared memory segment",
        "NCCL found no room in /dev/shm",
        "make it larger (docker run --shm-size 16g, or --ipc host)",
    ),
    (
        r"no socket interface found|Bootstrap : ",
        "NCCL found no network to the others",
        "name the interface that leads to them in NCCL_SOCKET_IFNAME",
    ),
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a GPU's memory, or the machine's, did not suffice."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(mark in str(error) for mark in OUT_OF_MEMORY)
    )


def is_lost_process(error: RuntimeError) -> bool:
    """Whether an error means that another process died or does not answer."""
    return _is_communication(error) and any(mark in str(error) for mark in LOST)


def explain_communication(error: RuntimeError) -> str | None:
    """What failed between the processes, other than a lost one, and what helps; None: nothing."""
    if not _is_communication(error):
        return None
    text = str(error)
    for mark, meaning, mend in OTHERS:
        if re.search(mark, text):
            return f"{meaning} ({last_words(error)}); {mend}"
    return (
        f"the processes of this run cannot exchange tensors ({last_words(error)}); with "
        "NCCL_DEBUG=INFO in the environment NCCL says more"
    )


def _is_communication(error: RuntimeError) -> bool:
    named = re.search("NCCL|nccl|gloo|Gloo|Socket Timeout", str(error))
    return isinstance(error, dist.DistError) or named is not None


def last_words(error: BaseException, most: int = 240) -> str:
    """The telling part of an error in one line: what NCCL calls its last error, else the first."""
    text = str(error)
    text = text.partition("Last error:")[2] or text
    line = next((line.strip() for line in text.splitlines() if line.strip()), type(error).__name__)
    return line[:most]
