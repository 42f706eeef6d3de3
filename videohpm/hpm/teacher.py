"""The teacher: a slow copy of the student that predicts which tubes are hard (HPM, section 3.2)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from videohpm.hpm.ema import Ema
from videohpm.models.mae import MaskedAutoencoder


class LossTeacher(nn.Module):
    """EMA of the student's encoder and loss predictor, in fp32; it has no pixel decoder.

    ``ema`` is how it follows the student; an engine that divides weights puts its own there.

    Args:
        student: the model to follow; it must have a loss predictor.
        steps: at how many of its time steps each tube is seen. None for all, the published
            way; 1 of 8, which costs an eighth, ranks the tubes nearly as well. Below 1 it sees so
            many of the tubes, and still tells the hardness of all.
        read: ``query`` or ``visible``, see :meth:`MaskedAutoencoder.score`.
    """

    def __init__(self, student: MaskedAutoencoder, steps: float | None = None, read: str = "query"):
        super().__init__()
        if student.predictor is None:
            raise ValueError("predictor: the teacher needs a student with a loss predictor")
        if read not in ("query", "visible"):
            raise ValueError(f"score_readout: {read!r} is neither query nor visible")
        if read == "visible" and steps is not None and steps < 1:
            raise ValueError("score_readout: visible has no score for the tubes that are not seen")
        self.steps, self.read, self.ema = steps, read, Ema()
        self.model = MaskedAutoencoder(student.config.for_teacher()).to(student.mask_token.device)
        self.requires_grad_(False).eval()
        names = [name for name, _ in self.model.named_parameters()]
        weights = student.state_dict()
        self.model.load_state_dict({name: weights[name] for name in names})

    @property
    def config(self) -> dict[str, float | str | None]:
        """What a teacher is made from beside its student, as plain values."""
        return {"steps": self.steps, "read": self.read}

    @property
    def external_parameters(self) -> tuple[nn.Parameter, ...]:
        """What is read outside the forward pass of the module that owns it.

        An engine that divides weights has to gather these for the teacher's own forward pass.
        """
        return (self.model.mask_token,)

    def train(self, mode: bool = True) -> LossTeacher:
        """A teacher is never in training mode."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, clips: Tensor, shuffle_ids: Tensor | None = None) -> Tensor:
        """Predicted hardness with nothing masked: (B, L) by tube or (B, N) by token.

        ``shuffle_ids`` is what every :class:`videohpm.hpm.Scorer` gets; a teacher draws nothing.
        """
        return self.model.score(clips, self.steps, self.read)

    @torch.no_grad()
    def features(self, clips: Tensor) -> Tensor:
        """What the encoder makes of whole clips, (B, 3, T, H, W) normalised: (B, N, D)."""
        encoder = self.model.encoder
        return encoder(clips)[:, encoder.num_prefix_tokens :]

    def update(self, student: nn.Module, momentum: float) -> None:
        """θ_teacher ← momentum·θ_teacher + (1 − momentum)·θ_student, once an optimiser step."""
        self.ema.update(self.model, student, momentum)

    def after_step(self, student: nn.Module, momentum: float) -> None:
        """Follow the student; see :class:`videohpm.hpm.Scorer`."""
        self.update(student, momentum)

    def distance(self, student: nn.Module) -> Tensor:
        """‖θ_student − θ_teacher‖ / ‖θ_student‖ over what both have."""
        return self.ema.distance(self.model, student)
