"""What a run leaves behind and shows while it works.

============== ==============================================================================
logger         what every logger is
loggers        one class for each place: metrics.jsonl, pictures/, tensorboard/, the console
remote         those that others read: Weights & Biases, trackio, MLflow
tracker        all loggers of a run, as one
stopwatch      clips a second, and the share of the time spent waiting for data
environment    the versions and devices a run depends on
============== ==============================================================================
"""

from videohpm.progress import make_screen
from videohpm.tracking.environment import describe_machine
from videohpm.tracking.logger import LoggedRun, Logger
from videohpm.tracking.loggers import (
    LOGGERS,
    Console,
    drop_lines_after,
    make_loggers,
)
from videohpm.tracking.stopwatch import Stopwatch
from videohpm.tracking.tracker import Tracker

__all__ = [
    "LOGGERS",
    "Console",
    "LoggedRun",
    "Logger",
    "Stopwatch",
    "Tracker",
    "describe_machine",
    "drop_lines_after",
    "make_loggers",
    "make_screen",
]
