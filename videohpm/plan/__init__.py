"""``videohpm plan``: the resources that a pre-training run will need.

Everything is counted from the configuration: parameters, tokens and matrix products exactly, memory
and communication from how the engine works. Nothing is run and no data is read.
"""

from videohpm.config import PlanConfig
from videohpm.config.engine import STAGES
from videohpm.config.plan import GPUS
from videohpm.plan.count import (
    flops_of,
    parameters_of,
    traffic_of,
    work_of,
)
from videohpm.plan.memory import Memory, memory_of
from videohpm.plan.text import describe

__all__ = [
    "GPUS",
    "STAGES",
    "Memory",
    "PlanConfig",
    "flops_of",
    "memory_of",
    "parameters_of",
    "plan",
    "traffic_of",
    "work_of",
]


def plan(config: PlanConfig) -> str:
    """Parameters, FLOPs, memory, communication, time and energy of a pre-training run."""
    return describe(config)
