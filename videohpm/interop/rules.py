"""Rules: which of a layout's tensors make up which of a model's, applied in both directions.

Names are templates: ``{n}`` stands for a block's number. A layout is a list of rules, a few lines
of inference and nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from videohpm.errors import UserError
from videohpm.grid import TokenGrid
from videohpm.interop.report import ConversionReport

KEY_BIAS = (
    "the layout has no key bias; dropping it changes no output, softmax does not see a constant"
)


@dataclass(frozen=True)
class Codec:
    """How several of a layout's tensors become one of the model's, and the way back."""

    read: Callable[[list[Tensor], TokenGrid], Tensor]
    write: Callable[[Tensor, TokenGrid], list[Tensor]]


@dataclass(frozen=True)
class Rule:
    """The tensor ``model`` is made of the layout's tensors ``layout`` by ``codec``."""

    model: str
    layout: tuple[str, ...]
    codec: Codec
    zeros: str | None = None
    """Why a file may lack it in every block, which makes the model's zero; None: it may not."""


def _only(parts: list[Tensor], grid: TokenGrid) -> Tensor:
    return parts[0]


def _alone(tensor: Tensor, grid: TokenGrid) -> list[Tensor]:
    return [tensor]


def _flatten(parts: list[Tensor], grid: TokenGrid) -> Tensor:
    """Convolution weight [D, 3, (tubelet,) patch, patch] → linear weight [D, P]."""
    return parts[0].flatten(1)


def _conv3d(tensor: Tensor, grid: TokenGrid) -> list[Tensor]:
    return [tensor.reshape(-1, 3, grid.tubelet, grid.patch, grid.patch)]


def _conv2d(tensor: Tensor, grid: TokenGrid) -> list[Tensor]:
    """For an image; a tubelet of a repeated frame is the sum over its frames."""
    weight = _conv3d(tensor, grid)[0]
    return [weight[:, :, 0] if grid.tubelet == 1 else weight.sum(2)]


def _join_query_value(parts: list[Tensor], grid: TokenGrid) -> Tensor:
    query, value = parts
    return torch.cat([query, torch.zeros_like(query), value])


def _split_query_value(tensor: Tensor, grid: TokenGrid) -> list[Tensor]:
    query, _, value = tensor.chunk(3)
    return [query, value]


def _join(parts: list[Tensor], grid: TokenGrid) -> Tensor:
    return torch.cat(parts)


def _thirds(tensor: Tensor, grid: TokenGrid) -> list[Tensor]:
    return list(tensor.chunk(3))


def _fold_rows(parts: list[Tensor], grid: TokenGrid) -> Tensor:
    """A head whose outputs are averaged is a 1-wide head; float64 makes the way back exact."""
    return parts[0].double().mean(0, keepdim=True).to(parts[0].dtype)


def _repeat_rows(tensor: Tensor, grid: TokenGrid) -> list[Tensor]:
    return [tensor.expand(grid.patch_dim, *tensor.shape[1:])]


IDENTITY = Codec(_only, _alone)
CONV3D = Codec(_flatten, _conv3d)
CONV2D = Codec(_flatten, _conv2d)
QUERY_VALUE = Codec(_join_query_value, _split_query_value)
THIRDS = Codec(_join, _thirds)
AVERAGED_HEAD = Codec(_fold_rows, _repeat_rows)


def module_rules(model: str, layout: str, *leaves: str) -> list[Rule]:
    """Rules for a module whose leaves (by default weight and bias) keep their names."""
    leaves = leaves or ("weight", "bias")
    return [Rule(f"{model}.{leaf}", (f"{layout}.{leaf}",), IDENTITY) for leaf in leaves]


def template(name: str) -> str:
    """``encoder.blocks.3.norm1.bias`` → ``encoder.blocks.{n}.norm1.bias``."""
    return re.sub(r"blocks\.\d+\.", "blocks.{n}.", name)


def read_by(
    rules: list[Rule],
    tensors: dict[str, Tensor],
    expected: dict[str, torch.Size],
    grid: TokenGrid,
    report: ConversionReport,
) -> dict[str, Tensor]:
    """The model's tensors out of a layout's. What is absent is simply not in the result."""
    by_name = {rule.model: rule for rule in rules}
    made = {}
    for name, shape in expected.items():
        rule = by_name.get(template(name))
        if rule is None:
            continue
        sources = _in_block(rule.layout, name)
        found = [tensors[source] for source in sources if source in tensors]
        if len(found) == len(sources):
            _check_sizes(sources, found, rule.codec, shape, grid, report)
            made[name] = rule.codec.read(found, grid).contiguous()
            report.loaded[name] = " + ".join(sources)
        elif rule.zeros and not any(template(n) in rule.layout for n in tensors):
            made[name] = torch.zeros(shape)
            report.missing[name] = f"set to zero: {rule.zeros}"
    return made


def _in_block(templates: tuple[str, ...], name: str) -> list[str]:
    """Templates with the number of the block that ``name`` is in."""
    number = re.search(r"blocks\.(\d+)\.", name)
    return [each.replace("{n}", number[1] if number else "") for each in templates]


def _check_sizes(
    names: list[str],
    found: list[Tensor],
    codec: Codec,
    shape: torch.Size,
    grid: TokenGrid,
    report: ConversionReport,
) -> None:
    """A layout's shapes must be those that the model's tensor would be written with."""
    wanted = codec.write(torch.empty(shape, device="meta"), grid)
    for name, tensor, like in zip(names, found, wanted, strict=True):
        if not tensor.is_floating_point():
            raise UserError(f"{report.source}: {name} holds {tensor.dtype}, not weights")
        if tensor.shape != like.shape:
            raise UserError(
                f"{report.source}: {name} has the wrong size: {tuple(tensor.shape)} where the "
                f"model needs {tuple(like.shape)}"
            )


def write_by(
    rules: list[Rule], tensors: dict[str, Tensor], grid: TokenGrid, report: ConversionReport
) -> dict[str, Tensor]:
    """A layout's tensors out of the model's. What no rule names is put under ``not_written``."""
    by_name = {rule.model: rule for rule in rules}
    made = {}
    for name, tensor in tensors.items():
        rule = by_name.get(template(name))
        if rule is None:
            report.not_written.setdefault(name, "the layout cannot hold it")
            continue
        if rule.codec is QUERY_VALUE and tensor.chunk(3)[1].any():
            report.not_written[f"{name} (key part)"] = KEY_BIAS
        targets, parts = _in_block(rule.layout, name), rule.codec.write(tensor, grid)
        made |= {t: part.contiguous() for t, part in zip(targets, parts, strict=True)}
    return made
