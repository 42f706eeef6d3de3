"""What every layout reads into and writes from, and the account that must close."""

from __future__ import annotations

import inspect
import json
from dataclasses import dataclass, field
from functools import lru_cache

import torch
from torch import Tensor, nn

from videohpm.config import ReadOptions
from videohpm.errors import UserError
from videohpm.grid import TokenGrid
from videohpm.hpm import LossTeacher
from videohpm.interop.report import ConversionReport
from videohpm.models import SIZES, MaskedAutoencoder, VideoClassifier, VideoViT
from videohpm.models.vit import position_table

KINDS = {kind.__name__: kind for kind in (MaskedAutoencoder, VideoClassifier, VideoViT)}
TOKEN_LIMIT, WIDTH_LIMIT, DEPTH_LIMIT = 1 << 18, 1 << 15, 1 << 9
"""Beyond any model; sizes from a foreign file may not make us allocate without end."""


@dataclass
class Weights:
    """A model as plain data."""

    kind: str
    model: dict
    """Constructor arguments."""
    tensors: dict[str, Tensor]
    teacher: dict[str, Tensor] | None = None
    teacher_about: dict = field(default_factory=lambda: {"steps": None, "read": "visible"})
    extra: dict = field(default_factory=dict)
    """Plain values kept in config.json: labels, mean and std, data, metrics."""

    def encoder(self, report: ConversionReport) -> Weights:
        """The encoder alone, as a VideoViT; what is left out is entered in the report."""
        if self.kind == "VideoViT":
            return self
        known = inspect.signature(VideoViT).parameters
        model = {name: value for name, value in self.model.items() if name in known}
        size = SIZES[self.model.get("arch", "vit_base")]
        for name in ("dim", "depth", "heads", "mlp_ratio"):
            model[name] = self.model.get(name) or getattr(size, name)
        model["final_norm"] = "encoder.norm.weight" in self.tensors
        tensors, prefix = {}, "encoder."
        for name, tensor in self.tensors.items():
            if name.startswith(prefix):
                tensors[name.removeprefix(prefix)] = tensor
            else:
                report.not_written[name] = "only the encoder is written"
        for name in self.teacher or ():
            report.not_written[f"teacher: {name}"] = "only the encoder is written"
        return Weights("VideoViT", model, tensors, extra=self.extra)

    @property
    def grid(self) -> TokenGrid:
        """The grid of the model."""
        return grid_of(self.model)

    @property
    def prefix(self) -> str:
        """What stands before the encoder's names."""
        return "" if self.kind == "VideoViT" else "encoder."

    def build(self) -> nn.Module:
        """The model itself, in evaluation mode."""
        model = KINDS[self.kind](**self.model)
        model.load_state_dict(self.tensors)
        return model.eval()

    def build_teacher(self) -> LossTeacher | None:
        """The teacher of a model that has one."""
        if self.teacher is None:
            return None
        teacher = LossTeacher(MaskedAutoencoder(**self.model), **self.teacher_about)
        teacher.model.load_state_dict(self.teacher)
        return teacher


def grid_of(model: dict) -> TokenGrid:
    """The grid that constructor arguments describe. UserError when the sizes do not fit."""
    size = model.get("image_size", 224)
    height, width = (size, size) if isinstance(size, int) else size
    try:
        grid = TokenGrid.of_clip(
            model.get("frames", 16), height, width, model.get("tubelet", 2), model.get("patch", 16)
        )
    except (ValueError, TypeError, ZeroDivisionError) as error:
        raise UserError(f"model.{error}") from None
    if grid.num_tokens > TOKEN_LIMIT:
        raise UserError(
            f"model.image_size: {height}x{width} makes {grid.num_tokens} tokens, too many"
        )
    return grid


def empty_model(kind: str, model: dict) -> nn.Module:
    """The model without memory for its weights: names and shapes only.

    Raises UserError when the arguments do not make a model.
    """
    grid_of(model)
    limits = {"dim": WIDTH_LIMIT, "decoder_dim": WIDTH_LIMIT, "depth": DEPTH_LIMIT,
              "decoder_depth": DEPTH_LIMIT, "predictor_depth": DEPTH_LIMIT}  # fmt: skip
    for name, limit in limits.items():
        if (model.get(name) or 0) > limit:
            raise UserError(f"model.{name}: {model[name]} is beyond the limit of {limit}")
    try:
        with torch.device("meta"):
            return KINDS[kind](**model)
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"model: {' '.join(str(error).split())}") from None


def expected_shapes(kind: str, model: dict) -> dict[str, torch.Size]:
    """Names and shapes of the model's tensors, in its order."""
    return dict(_shapes(kind, json.dumps(model)))


@lru_cache(maxsize=8)
def _shapes(kind: str, model: str) -> tuple[tuple[str, torch.Size], ...]:
    tensors = empty_model(kind, json.loads(model)).state_dict()
    return tuple((name, tensor.shape) for name, tensor in tensors.items())


def verify_all_accounted(
    weights: Weights, names: set[str], report: ConversionReport, options: ReadOptions
) -> dict[str, Tensor]:
    """Close the account of ``weights.tensors``; fill what may be missing; return it in our order.

    Args:
        names: the source's tensors; each must have been loaded or explained.

    Raises UserError for anything unexplained that ``allow_missing`` does not name.
    """
    expected = expected_shapes(weights.kind, weights.model)
    used = {part for parts in report.loaded.values() for part in parts.split(" + ")}
    surplus = sorted(names - used - report.left_over.keys())
    absent = [name for name in expected if name not in weights.tensors]
    unexplained = [_some(absent, "missing", options), _some(surplus, "without place", options)]
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
    if absent:
        reason = "keeps its initial value, allowed by allow_missing"
        report.missing |= dict.fromkeys(absent, reason)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            fresh = KINDS[weights.kind](**weights.model).state_dict()
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


def note_eps(model: dict, layout: str, report: ConversionReport) -> None:
    """Say so when the layout's code will norm with another eps than the model does."""
    eps = {model.get("norm_eps", 1e-6), model.get("head_norm_eps") or model.get("norm_eps", 1e-6)}
    if eps != {1e-6}:
        report.note(
            f"the model norms with eps {', '.join(f'{e:g}' for e in sorted(eps))}, the code that "
            f"reads {layout} files with 1e-06: outputs differ slightly"
        )


# Sizes from shapes --------------------------------------------------------------------------


def shape_of(tensors: dict[str, Tensor], name: str, source: str, rank: int) -> torch.Size:
    """The shape of a tensor a layout cannot do without. UserError when it is absent or odd."""
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

    Raises UserError when none of these says.
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


def size_name(dim: int, depth: int) -> str:
    """The named size of that width and depth; otherwise vit_base, whose numbers are overridden."""
    for name, size in SIZES.items():
        if (size.dim, size.depth) == (dim, depth):
            return name
    return "vit_base"


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
            f"{grid.num_tokens} "
            "tokens; give --frames and --image_size"
        )
    if kind == "sincos_2d" and found.shape[1] % 4:
        return False
    table = position_table(kind, grid, found.shape[1])
    apart = float((found.float() - table.to(found.dtype).float()).abs().max())
    if apart > 1e-5:
        return False
    report.left_over[name] = f"a fixed table that we compute too (largest difference {apart:.1e})"
    return True
