"""What every layout reads into and writes from; every tensor must be accounted for."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from videohpm.checkpoint.checksums import is_finite
from videohpm.config import ReadOptions
from videohpm.config.architecture import Architecture, encoder_of
from videohpm.errors import UserError
from videohpm.grid import TokenGrid
from videohpm.hpm import LossTeacher
from videohpm.interop.report import ConversionReport
from videohpm.models import SIZES, MAEConfig, MaskedAutoencoder, VideoClassifierConfig, ViTConfig
from videohpm.models.bounds import expected_shapes, grid_of
from videohpm.models.build import Model, build_model, kind_of
from videohpm.models.vit import position_table

OF_CLASSIFIER = ("labels", "metrics", "step", "task")
"""Values of ``Weights.extra`` that say nothing of an encoder alone."""


@dataclass
class Weights:
    """A model as its configuration and its tensors."""

    config: Architecture
    tensors: dict[str, Tensor]
    teacher: dict[str, Tensor] | None = None
    teacher_settings: dict = field(default_factory=lambda: {"steps": None, "read": "visible"})
    """Arguments of :class:`videohpm.LossTeacher`."""
    extra: dict = field(default_factory=dict)
    """Plain values kept in config.json: labels, mean and std of pixels in 0..1, protocol (how
    clips are cut for a test), data, metrics."""

    def encoder(self, report: ConversionReport) -> Weights:
        """The encoder alone, as a VideoViT; what is left out is entered in the report."""
        if isinstance(self.config, ViTConfig):
            return self
        has_norm = "encoder.norm.weight" in self.tensors
        config = replace(self.encoder_config, final_norm=has_norm)
        tensors, prefix = {}, "encoder."
        for name, tensor in self.tensors.items():
            if name.startswith(prefix):
                tensors[name.removeprefix(prefix)] = tensor
            else:
                report.not_written[name] = "only the encoder is written"
        for name in self.teacher or ():
            report.not_written[f"teacher: {name}"] = "only the encoder is written"
        extra = {name: value for name, value in self.extra.items() if name not in OF_CLASSIFIER}
        return Weights(config, tensors, extra=extra)

    @property
    def kind(self) -> str:
        """MaskedAutoencoder, VideoClassifier or VideoViT."""
        return kind_of(self.config)

    @property
    def encoder_config(self) -> ViTConfig:
        """The encoder's part of the configuration."""
        return encoder_of(self.config)

    @property
    def grid(self) -> TokenGrid:
        """The grid of the model."""
        return grid_of(self.config)

    @property
    def prefix(self) -> str:
        """What precedes the names of the encoder's tensors."""
        return "" if isinstance(self.config, ViTConfig) else "encoder."

    def build(self) -> Model:
        """The model itself, in evaluation mode."""
        model = build_model(self.config)
        model.load_state_dict(self.tensors)
        return model.eval()

    def build_teacher(self) -> LossTeacher | None:
        """The teacher of a model that has one."""
        if self.teacher is None or not isinstance(self.config, MAEConfig):
            return None
        teacher = LossTeacher(MaskedAutoencoder(self.config), **self.teacher_settings)
        teacher.model.load_state_dict(self.teacher)
        return teacher


def verify_all_accounted(
    weights: Weights, names: set[str], report: ConversionReport, options: ReadOptions
) -> dict[str, Tensor]:
    """Check that every tensor is accounted for; fill what may be missing.

    Args:
        names: the source's tensors; each must have been loaded, or entered under ``left_over``.

    Returns:
        The model's tensors in fp32, in its order.

    Raises UserError for anything unexplained that ``allow_missing`` does not name.
    """
    expected = expected_shapes(weights.config)
    used = {part for parts in report.loaded.values() for part in parts.split(" + ")}
    surplus = sorted(names - used - report.left_over.keys())
    absent = [name for name in expected if name not in weights.tensors]
    unexplained = [_some(absent, "missing", options), _some(surplus, "not in the model", options)]
    if any(unexplained):
        raise UserError(
            f"{report.source}: read as {report.layout or 'a model'}, but "
            f"{'; '.join(filter(None, unexplained))}; allow_missing can name what may be"
        )
    report.left_over |= dict.fromkeys(surplus, "allowed by allow_missing")
    for name, shape in expected.items():
        if name in weights.tensors and weights.tensors[name].shape != shape:
            raise UserError(
                f"{report.source}: {report.loaded.get(name, name)} has the wrong size: "
                f"{tuple(weights.tensors[name].shape)} where the model needs {tuple(shape)}"
            )
    for name, tensor in weights.tensors.items():
        if not tensor.is_floating_point():
            raise UserError(f"{report.source}: {report.loaded.get(name, name)} is {tensor.dtype}")
        if not is_finite(tensor.float()):
            raise UserError(
                f"{report.source}: not every value of {report.loaded.get(name, name)} is finite"
            )
    if absent:
        reason = "keeps its initial value, allowed by allow_missing"
        report.missing |= dict.fromkeys(absent, reason)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            fresh = build_model(weights.config).state_dict()
        weights.tensors |= {name: fresh[name] for name in absent}
    return {name: weights.tensors[name].float() for name in expected}


def _some(names: list[str], what: str, options: ReadOptions) -> str:
    names = [name for name in names if not options.allows(name)]
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{', '.join(names[:3])}{more}: {what}" if names else ""


def refuse_unless(holds: bool, layout: str, field_name: str, why: str) -> None:
    """UserError when a layout cannot hold a model."""
    if not holds:
        raise UserError(f"{field_name}: {layout} cannot hold this model: {why}")


def refuse_features(config: MAEConfig, layout: str) -> None:
    """UserError where the decoder predicts anything but pixels, which no other layout holds."""
    own = config.encoder.grid.patch_dim
    why = f"its decoder predicts {own} pixels a token, not {config.target_dim} features"
    holds = config.target_dim in (None, own)
    refuse_unless(holds, layout, "target_dim", f"{why}; convert the encoder alone")


def head_eps(config: Architecture) -> float:
    """eps of the norm before the head, or of all norms where there is no head."""
    eps = None
    if isinstance(config, MAEConfig):
        eps = config.decoder.head_norm_eps
    elif isinstance(config, VideoClassifierConfig):
        eps = config.head_norm_eps
    return eps or encoder_of(config).norm_eps


def note_eps(config: Architecture, layout: str, report: ConversionReport) -> None:
    """Note where the layout's own code norms with another eps than the model does."""
    eps = {encoder_of(config).norm_eps, head_eps(config)}
    if eps != {1e-6}:
        report.note(
            f"the model norms with eps {', '.join(f'{e:g}' for e in sorted(eps))}, the code that "
            f"reads {layout} files with 1e-06: outputs differ slightly"
        )


# Sizes from shapes --------------------------------------------------------------------------


def shape_of(tensors: dict[str, Tensor], name: str, source: str, rank: int) -> torch.Size:
    """The shape of a tensor that the layout must have. UserError when it is absent or malformed."""
    if name not in tensors:
        raise UserError(f"{source}: {name} is missing; is this a checkpoint of another model?")
    if tensors[name].ndim != rank:
        raise UserError(f"{source}: {name} has {tensors[name].ndim} dimensions, not {rank}")
    if not tensors[name].numel():
        raise UserError(f"{source}: {name} is empty")
    return tensors[name].shape


def depth_of(tensors: dict[str, Tensor], prefix: str) -> int:
    """How many blocks there are: the highest number + 1, so that a gap shows as missing."""
    numbers = [name[len(prefix) + 1 :].partition(".")[0] for name in tensors
               if name.startswith(f"{prefix}.")]  # fmt: skip
    return max((int(n) for n in numbers if n.isdigit()), default=-1) + 1


def ratio_of(hidden: int, dim: int) -> float:
    """The MLP ratio for which int(dim·ratio) is ``hidden``."""
    ratio = hidden / dim
    return ratio if int(dim * ratio) == hidden else (hidden + 0.5) / dim


def heads_of(
    dim: int, given: int | None, known: dict[int, int], field_name: str, report: ConversionReport
) -> int:
    """Attention heads: as given, as published for the width, or 64 values each.

    Raises UserError when none of these gives it.
    """
    heads = given or known.get(dim) or (dim // 64 if dim % 64 == 0 else None)
    if heads is None:
        raise UserError(
            f"{report.source}: weights do not show the number of heads of a model {dim} wide; "
            f"give --{field_name}"
        )
    if dim % heads:
        raise UserError(f"{field_name}: {heads} does not divide the width {dim}; give another")
    if given is None:
        report.note(f"{field_name}: {heads} taken for a width of {dim}; the weights do not show it")
    return heads


HEADLESS = "the norm of a classification head that the file does not have"
ENCODER_HEADS = {size.dim: size.heads for size in SIZES.values()}
DECODER_HEADS = {size.decoder_dim: size.decoder_heads for size in SIZES.values()}


# Position tables ----------------------------------------------------------------------------


def table_of(tensors: dict[str, Tensor], name: str, source: str, dim: int) -> Tensor:
    """The table stored as [1, rows, dim]: (rows, dim). UserError when it is something else."""
    shape = shape_of(tensors, name, source, 3)
    if shape[0] != 1 or shape[2] != dim or not tensors[name].is_floating_point():
        raise UserError(
            f"{source}: {name} has the wrong size or type: {tuple(shape)} of {tensors[name].dtype} "
            f"where a table of {dim} wide rows belongs"
        )
    return tensors[name][0]


def is_table(
    found: Tensor, kind: str, grid: TokenGrid, name: str, report: ConversionReport
) -> bool:
    """Whether a stored table [N, D] is the computed one, to 1e-5 in its own precision."""
    if found.shape[0] != grid.num_tokens:
        raise UserError(
            f"{report.source}: {name} has {found.shape[0]} rows where the model has "
            f"{grid.num_tokens} tokens; give --frames and --image_size"
        )
    if kind == "sincos_2d" and found.shape[1] % 4:
        return False
    table = position_table(kind, grid, found.shape[1])
    apart = float((found.float() - table.to(found.dtype).float()).abs().max())
    if apart > 1e-5:
        return False
    report.left_over[name] = f"a fixed table, computed here too (largest difference {apart:.1e})"
    return True
