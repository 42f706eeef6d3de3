"""The teacher: a slow copy of the student that says which tubes will be hard (HPM, section 3.2)."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn

from videohpm.models.mae import MaskedAutoencoder


class LossTeacher(nn.Module):
    """EMA of the student's encoder and loss predictor, in fp32; it has no pixel decoder.

    Args:
        student: the model to follow; it must have a loss predictor.
        steps: at how many of its time steps each tube is looked at. None for all, the published
            way; 1 of 8, which costs an eighth, ranks the tubes nearly as well.
        read: ``query`` or ``visible``, see :meth:`MaskedAutoencoder.score`.
    """

    def __init__(self, student: MaskedAutoencoder, steps: int | None = None, read: str = "query"):
        super().__init__()
        if student.predictor is None:
            raise ValueError("predictor: the teacher needs a student with a loss predictor")
        if read not in ("query", "visible"):
            raise ValueError(f"score_readout: {read!r} is neither query nor visible")
        self.steps, self.read = steps, read
        lean = student.config | {"pixel_decoder": False, "drop_path": 0.0, "checkpoint": False}
        self.model = MaskedAutoencoder(**lean).to(student.mask_token.device)
        self.requires_grad_(False).eval()
        names = [name for name, _ in self.model.named_parameters()]
        weights = student.state_dict()
        self.model.load_state_dict({name: weights[name] for name in names})

    def train(self, mode: bool = True) -> LossTeacher:
        """A teacher is never in training mode."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, clips: Tensor) -> Tensor:
        """Predicted hardness with nothing masked: (B, L) by tube or (B, N) by token."""
        return self.model.score(clips, self.steps, self.read)

    @torch.no_grad()
    def update(self, student: MaskedAutoencoder, momentum: float) -> None:
        """θ_teacher ← momentum·θ_teacher + (1 − momentum)·θ_student, once an optimiser step."""
        mine, theirs = self._pairs(student)
        torch._foreach_lerp_(mine, theirs, 1.0 - momentum)

    @torch.no_grad()
    def distance(self, student: MaskedAutoencoder) -> Tensor:
        """‖θ_student − θ_teacher‖ / ‖θ_student‖ over what both have."""
        mine, theirs = self._pairs(student)
        apart = torch._foreach_norm(torch._foreach_sub(theirs, mine))
        norms = torch.stack([torch.stack(apart), torch.stack(torch._foreach_norm(theirs))]).norm(
            dim=1
        )
        if hasattr(self.model.mask_token, "ds_tensor"):  # these were shards: all must ask
            squares = norms.square()
            dist.all_reduce(squares)
            norms = squares.sqrt()
        return norms[0] / norms[1]

    def _pairs(self, student: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
        theirs = dict(student.named_parameters())
        mine = dict(self.model.named_parameters())
        held = [shard_of(parameter)[1] for parameter in mine.values()]
        return held, [shard_of(theirs[name])[1].float() for name in mine]


def shard_of(parameter: Tensor) -> tuple[int, Tensor]:
    """What this process holds of a parameter, in place, and where in the flat whole it begins.

    All of it; under DeepSpeed's ZeRO-3, which divides every parameter evenly over the ranks, a
    piece (1-D, without what was added to make the pieces equal).
    """
    shard = getattr(parameter, "ds_tensor", None)
    if shard is None:
        return 0, parameter
    start = dist.get_rank() * shard.numel()
    return start, shard[: max(0, min(shard.numel(), parameter.ds_numel - start))]
