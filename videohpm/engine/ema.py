"""Moving averages of weights that DeepSpeed's ZeRO-3 divides over the processes."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from videohpm.hpm import Ema


class ShardedEma(Ema):
    """The moving average of a divided model: each rank moves the shards that it holds.

    That needs no communication, because the copy is divided as the model is.

    Args:
        device: the engine's, where collectives are done; shards may be kept in main memory.
    """

    def __init__(self, device: torch.device):
        self.device = device

    def update(self, ema_module: nn.Module, model: nn.Module, momentum: float) -> None:
        """As of one process; when it returns, the copy may be gathered.

        DeepSpeed gathers on a stream of its own, which does not wait for this one.
        """
        super().update(ema_module, model, momentum)
        if self.device.type == "cuda":
            torch.cuda.current_stream(self.device).synchronize()

    def local_part(self, parameter: Tensor) -> Tensor:
        return shard_of(parameter)[1]

    def over_ranks(self, norms: Tensor) -> Tensor:
        squares = norms.to(self.device).square()
        dist.all_reduce(squares)
        return squares.sqrt()


def shard_of(parameter: Tensor) -> tuple[int, Tensor]:
    """Where in the flat parameter this process's shard begins, and the shard, in place.

    ZeRO-3 divides every parameter evenly over the ranks: a piece (1-D, without what was added to
    make the pieces equal). Of a parameter that is not divided, all of it.
    """
    divided: Any = parameter
    shard = getattr(divided, "ds_tensor", None)
    if shard is None:
        return 0, parameter
    start = dist.get_rank() * shard.numel()
    return start, shard[: max(0, min(shard.numel(), divided.ds_numel - start))]
