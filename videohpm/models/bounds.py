"""What a configuration from a file may ask for: sizes are checked before a model is built."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from functools import lru_cache
from typing import Any

import torch

from videohpm.config.architecture import Architecture, MAEConfig, VideoClassifierConfig, encoder_of
from videohpm.errors import UserError
from videohpm.grid import TokenGrid
from videohpm.models.build import Model, build_model

TOKEN_LIMIT, WIDTH_LIMIT, DEPTH_LIMIT, CLASS_LIMIT = 1 << 18, 1 << 15, 1 << 9, 1 << 20
"""Beyond any model: sizes from a foreign file may not allocate memory without bound."""
TABLE_LIMIT = 1 << 27
"""Values in a table of positions."""
RATIO_LIMIT = 64.0
"""Width of an MLP over that of the model."""


def grid_of(config: Architecture) -> TokenGrid:
    """The grid of a model. UserError when the sizes do not fit each other, or are too large."""
    try:
        grid = encoder_of(config).grid
    except (ValueError, TypeError, ZeroDivisionError) as error:
        raise UserError(f"model.{error}") from None
    if grid.num_tokens > TOKEN_LIMIT:
        raise UserError(
            f"model.image_size: {grid.height}x{grid.width} makes {grid.num_tokens} tokens, too many"
        )
    return grid


def check_sizes(config: Architecture) -> None:
    """UserError, naming the field, for sizes that no model has: zero, negative or beyond bounds."""
    for name, value in _numbers(config):
        least = 0 if name.endswith(("depth", "drop_path", "dropout", "eps", "scale")) else 1
        if isinstance(value, int) and value < least:
            raise UserError(f"model.{name}: {value} is less than {least}")
        if isinstance(value, float) and not (math.isfinite(value) and value >= 0):
            raise UserError(f"model.{name}: {value} is not a number of at least 0")
        if name.endswith("mlp_ratio") and not 0 < value <= RATIO_LIMIT:
            raise UserError(f"model.{name}: {value} is not between 0 and {RATIO_LIMIT:g}")
    encoder, widest = encoder_of(config), encoder_of(config).dim
    sizes = [("dim", encoder.dim, WIDTH_LIMIT), ("depth", encoder.depth, DEPTH_LIMIT)]
    if isinstance(config, MAEConfig):
        widest = max(widest, config.decoder.dim)
        sizes += [
            ("decoder_dim", config.decoder.dim, WIDTH_LIMIT),
            ("decoder_depth", config.decoder.depth, DEPTH_LIMIT),
            ("predictor_depth", config.predictor_depth, DEPTH_LIMIT),
            ("target_dim", config.target_dim or 1, CLASS_LIMIT),
        ]
    if isinstance(config, VideoClassifierConfig):
        sizes += [("classes", config.classes, CLASS_LIMIT)]
    for name, size, limit in sizes:
        if size > limit:
            raise UserError(f"model.{name}: {size} is beyond the limit of {limit}")
    tokens = grid_of(config).num_tokens
    if tokens * widest > TABLE_LIMIT:
        raise UserError(f"model.image_size: {tokens} tokens {widest} wide are too many")


def _numbers(config: Any, prefix: str = "") -> Iterator[tuple[str, int | float]]:
    for field in fields(config):
        value, name = getattr(config, field.name), f"{prefix}{field.name}"
        if is_dataclass(value):
            yield from _numbers(value, "" if field.name == "encoder" else f"{name}.")
        for each in value if isinstance(value, tuple) else (value,):
            if isinstance(each, (int, float)) and not isinstance(each, bool):
                yield name, each


def empty_model(config: Architecture) -> Model:
    """The model without memory for its weights: names and shapes only.

    Raises UserError when the configuration makes no model.
    """
    check_sizes(config)
    try:
        with torch.device("meta"):
            return build_model(config)
    except (ValueError, TypeError, OverflowError, RuntimeError, ZeroDivisionError) as error:
        raise UserError(f"model: {' '.join(str(error).split())}") from None


def expected_shapes(config: Architecture) -> dict[str, torch.Size]:
    """Names and shapes of the model's tensors, in its order. UserError as :func:`empty_model`."""
    check_sizes(config)  # refuses sizes that cannot even be hashed
    return dict(_shapes(config))


def misfits(expected: Mapping[str, torch.Size], found: Mapping[str, torch.Size]) -> list[str]:
    """What a file has that the model does not, and the other way round: name and shape of each."""
    wrong = []
    for name in sorted(expected.keys() | found.keys()):
        if name not in found:
            wrong.append(f"{name} missing")
        elif expected.get(name) != found[name]:
            wrong.append(f"{name} {list(found[name])}")
    return wrong


@lru_cache(maxsize=8)
def _shapes(config: Architecture) -> tuple[tuple[str, torch.Size], ...]:
    tensors = empty_model(config).state_dict()
    return tuple((name, tensor.shape) for name, tensor in tensors.items())
