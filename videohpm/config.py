"""What a run is told: the sections' dataclasses put together, and the checks between them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

from videohpm.data import DataConfig
from videohpm.engine import EngineConfig
from videohpm.errors import UserError
from videohpm.grid import TokenGrid
from videohpm.hpm import masked_count, unit_count
from videohpm.hpm.losses import TARGETS
from videohpm.hpm.masking import UNITS
from videohpm.models.mae import PREDICTORS
from videohpm.models.sizes import SIZES
from videohpm.models.vit import POSITIONS
from videohpm.optim import OptimConfig
from videohpm.tracking import RunConfig


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The masked autoencoder.

    Args:
        arch: vit_tiny, vit_small, vit_base, vit_large, vit_huge or vit_giant.
        frames: frames of a clip; 1, with tubelet 1, is the image mode.
        image_size: pixels; one number for squares, or [height, width].
        patch: pixels, side of a patch.
        tubelet: frames one token spans.
        dim: encoder width, instead of the size's.
        depth: encoder blocks, instead of the size's.
        heads: encoder attention heads, instead of the size's.
        decoder_dim: decoder width, instead of the size's.
        decoder_depth: decoder blocks, instead of the size's.
        decoder_heads: decoder attention heads, instead of the size's.
        position: sincos_1d over the flat token number (VideoMAE) or sincos_2d (MAE, HPM).
        class_token: put a class token before the tokens (MAE, HPM).
        projection_bias: bias in the encoder-to-decoder projection (MAE, HPM).
        patch_init: default (VideoMAE) or xavier (MAE, HPM) weights of the embedding.
        drop_path: stochastic depth of the last encoder block.
        target: pixels to predict: raw (HPM as published), per_channel (VideoMAE) or joint (MAE
            with normalised pixels).
    """

    arch: str = "vit_base"
    frames: int = 16
    image_size: int | list[int] = 224
    patch: int = 16
    tubelet: int = 2
    dim: int | None = None
    depth: int | None = None
    heads: int | None = None
    decoder_dim: int | None = None
    decoder_depth: int | None = None
    decoder_heads: int | None = None
    position: str = "sincos_1d"
    class_token: bool = False
    projection_bias: bool = False
    patch_init: str = "default"
    drop_path: float = 0.0
    target: str = "per_channel"

    def __post_init__(self):
        _choice("model.arch", self.arch, SIZES)
        _choice("model.position", self.position, POSITIONS)
        _choice("model.target", self.target, TARGETS)
        _choice("model.patch_init", self.patch_init, ("default", "xavier"))
        for name in ("frames", "patch", "tubelet", "dim", "depth", "heads"):
            _at_least_one(f"model.{name}", getattr(self, name))
        for name in ("decoder_dim", "decoder_depth", "decoder_heads"):
            _at_least_one(f"model.{name}", getattr(self, name))
        if not 0 <= self.drop_path < 1:
            raise ValueError(f"model.drop_path: {self.drop_path}; give 0 or more, below 1")
        if not isinstance(self.image_size, int) and len(self.image_size) != 2:
            raise ValueError("model.image_size: give one number, or [height, width]")
        size = SIZES[self.arch]
        for width, heads in (("dim", "heads"), ("decoder_dim", "decoder_heads")):
            wide = getattr(self, width) or getattr(size, width)
            many = getattr(self, heads) or getattr(size, heads)
            if wide % many or (self.position == "sincos_2d" and wide % 4):
                raise ValueError(
                    f"model.{width}: {wide} must be a multiple of model.{heads} ({many}), and of "
                    "4 for sincos_2d"
                )
        try:
            self.grid()
        except ValueError as error:
            raise ValueError(f"model.{error}; change one of them") from None

    def grid(self) -> TokenGrid:
        """The grid of tokens of one clip."""
        size = self.image_size
        height, width = (size, size) if isinstance(size, int) else size
        return TokenGrid.of_clip(self.frames, height, width, self.tubelet, self.patch)


@dataclass(frozen=True, kw_only=True)
class MaskConfig:
    """What is hidden.

    Args:
        ratio: share of the units that is masked; int(ratio x units) of them.
        unit: tube (one place over all time steps) or token.
        decode_ratio: share of what is masked that is reconstructed: of a tube, that share of its
            time steps (VideoMAEv2: 0.5). Below 1 steps are faster.
    """

    ratio: float = 0.9
    unit: str = "tube"
    decode_ratio: float = 1.0

    def __post_init__(self):
        _choice("mask.unit", self.unit, UNITS)
        if not 0 < self.ratio < 1:
            raise ValueError(f"mask.ratio: {self.ratio}; give more than 0 and less than 1")
        if not 0 < self.decode_ratio <= 1:
            raise ValueError(f"mask.decode_ratio: {self.decode_ratio}; give more than 0, at most 1")


@dataclass(frozen=True, kw_only=True)
class HPMConfig:
    """Hard Patches Mining: the loss predictor, its teacher, and from easy to hard.

    Args:
        enabled: false is VideoMAE (in image mode MAE): no predictor, no teacher, random masks.
        predictor_unit: one score a tube, or one a token (as published).
        predictor_depth: blocks of the predictor; empty for as many as the pixel decoder.
        predictor_detach: keep the predictor's gradient from the encoder (the paper does not).
        objective: relative (which of two is harder) or absolute (how hard).
        weight: of the predictor's loss beside the reconstruction loss.
        hard_ratio_start: share of the masked units that the teacher chooses, at the start.
        hard_ratio_end: the same at the end; linear in between.
        teacher_samples_per_tube: at how many of its time steps the teacher sees each tube; 0 for
            all of them (as published).
        score_readout: scores read at a mask query for each tube, or at its visible tokens (as
            published).
        momentum_start: of the teacher's moving average, at the start.
        momentum_end: the same once the ramp is over.
        momentum_epochs: length of the ramp in epochs.
        momentum_steps: the same in optimiser steps; wins over momentum_epochs where given.
    """

    enabled: bool = True
    predictor_unit: str = "tube"
    predictor_depth: int | None = None
    predictor_detach: bool = False
    objective: str = "relative"
    weight: float = 1.0
    hard_ratio_start: float = 0.0
    hard_ratio_end: float = 0.5
    teacher_samples_per_tube: int = 1
    score_readout: str = "query"
    momentum_start: float = 0.999
    momentum_end: float = 0.9999
    momentum_epochs: float = 100.0
    momentum_steps: int | None = None

    def __post_init__(self):
        _choice("hpm.predictor_unit", self.predictor_unit, PREDICTORS)
        _choice("hpm.objective", self.objective, ("relative", "absolute"))
        _choice("hpm.score_readout", self.score_readout, ("query", "visible"))
        _at_least_one("hpm.predictor_depth", self.predictor_depth)
        _at_least_one("hpm.momentum_steps", self.momentum_steps)
        names = ("hard_ratio_start", "hard_ratio_end", "momentum_start", "momentum_end")
        for name in names:
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"hpm.{name}: {getattr(self, name)}; give 0 to 1")
        for name in ("weight", "teacher_samples_per_tube", "momentum_epochs"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"hpm.{name}: {getattr(self, name)}; give 0 or more")

    def momentum_progress(self, step: int, steps_per_epoch: float) -> float:
        """How far the teacher's momentum has risen by optimiser step ``step``, in [0, 1]."""
        ramp = self.momentum_steps or self.momentum_epochs * steps_per_epoch
        return min(1.0, step / ramp) if ramp else 1.0


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """All of a pre-training run."""

    run: RunConfig = field(default_factory=RunConfig)
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    mask: MaskConfig = field(default_factory=MaskConfig)
    hpm: HPMConfig = field(default_factory=HPMConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)

    def __post_init__(self):
        """What no section can see alone. Raises UserError naming the fields."""
        grid, hpm = self.model.grid(), self.hpm
        try:
            masked_count(unit_count(grid, self.mask.unit), self.mask.ratio)
        except ValueError as error:
            raise UserError(f"mask.{error}") from None
        micro_batches = self.engine.grad_accum_steps
        if self.optim.global_batch_size % micro_batches:
            raise UserError(
                f"optim.global_batch_size: {self.optim.global_batch_size} clips cannot be "
                "divided into "
                f"engine.grad_accum_steps = {micro_batches} equal parts"
            )
        if self.mask.decode_ratio < 1 and grid.t == 1 and self.mask.unit == "tube":
            raise UserError(
                "mask.decode_ratio: a tube of one time step is decoded whole or not at all; give 1"
            )
        by_token = hpm.enabled and self.mask.unit == "token" and grid.t > 1
        if by_token and hpm.predictor_unit == "tube":
            raise UserError(
                "hpm.predictor_unit: a score a tube cannot choose tokens; with mask.unit token set "
                "hpm.predictor_unit token"
            )
        if by_token and 0 < hpm.teacher_samples_per_tube < grid.t:
            raise UserError(
                "hpm.teacher_samples_per_tube: with mask.unit token the teacher must see "
                "every time step; "
                "set hpm.teacher_samples_per_tube 0"
            )

    def model_arguments(self) -> dict:
        """The arguments of :class:`videohpm.MaskedAutoencoder`."""
        hpm = self.hpm
        size = self.model.image_size
        # In image mode tube and token are one: the published, token-level form covers both.
        return asdict(self.model) | {
            "image_size": size if isinstance(size, int) else tuple(size),
            "predictor_unit": hpm.predictor_unit if hpm.enabled else None,
            "predictor_depth": hpm.predictor_depth,
            "predictor_detach": hpm.predictor_detach,
            "checkpoint": self.engine.checkpoint_activations,
        }


def _choice(name: str, value: str, choices) -> None:
    if value not in choices:
        raise ValueError(f"{name}: {value!r} is not one of {', '.join(choices)}")


def _at_least_one(name: str, value: int | None) -> None:
    if value is not None and value < 1:
        raise ValueError(f"{name}: {value}; give at least 1")


def as_plain(config: object) -> dict:
    """A config dataclass as nested dicts, lists and numbers, as YAML and JSON hold them."""
    plain = asdict(config)
    for section in plain.values():
        if isinstance(section, dict):
            section |= {k: list(v) for k, v in section.items() if isinstance(v, tuple)}
    return plain
