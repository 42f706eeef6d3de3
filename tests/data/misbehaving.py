"""What decoders do to the process they run in; light to import, for workers."""

import os
import signal
import time

import numpy as np


def misbehave(item):
    """Runs in a worker."""
    if item == "hang":
        while True:
            time.sleep(60)
    if item == "hang in native code":
        sum(range(10**12))
    if item == "die":
        os.kill(os.getpid(), signal.SIGSEGV)
    if isinstance(item, tuple) and item[0] == "killed":
        _, marker, times = item
        with open(marker, "a") as file:
            file.write(".")
        if os.path.getsize(marker) <= times:
            os.kill(os.getpid(), signal.SIGKILL)
        return os.path.getsize(marker)
    if item == "write to full memory":
        os.kill(os.getpid(), signal.SIGBUS)
    if item == "leave":
        os._exit(3)
    if item == "grow":
        return len(np.ones(2**30))
    if item == "raise":
        raise KeyError("two\nlines")
    return item * 2
