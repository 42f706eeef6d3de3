"""How a model's pixels are normalised and its frames resized: kept on the way in and out.

``Weights.extra`` holds ``mean`` and ``std`` of pixels in 0..1, and ``protocol``, of which Hugging
Face's processor states two fields: to what the shorter side is resized, and how.
"""

from __future__ import annotations

import math
from typing import Any

from videohpm.config.data import IMAGENET_MEAN, IMAGENET_STD
from videohpm.errors import UserError
from videohpm.grid import TokenGrid
from videohpm.interop.core import Weights
from videohpm.interop.files import Source
from videohpm.interop.report import ConversionReport

PROCESSOR_MEAN = PROCESSOR_STD = (0.5, 0.5, 0.5)
"""Of transformers' VideoMAEImageProcessor, where its file states none."""
RESAMPLING = {2: "bilinear", 3: "bicubic"}
"""As Pillow numbers them."""


def statistics(weights: Weights, report: ConversionReport) -> tuple[list[float], list[float]]:
    """Mean and standard deviation to state with ``weights``; a note where they are not known."""
    extra = weights.extra
    if "mean" not in extra or "std" not in extra:
        report.note("mean and std: ImageNet's are stated; the source does not say others")
    return list(extra.get("mean", IMAGENET_MEAN)), list(extra.get("std", IMAGENET_STD))


def read_processor(source: Source, grid: TokenGrid, report: ConversionReport) -> dict:
    """Entries of ``Weights.extra`` from the processor of a Hugging Face folder."""
    found = source.processor
    if not found:
        report.note("mean and std: ImageNet's are taken; no preprocessor_config.json says others")
        return {}
    factor = found.get("rescale_factor", 1 / 255) if found.get("do_rescale", True) else 1.0
    if type(factor) not in (int, float) or not 0 < factor < math.inf:
        raise UserError(f"{source.path}: rescale_factor is {factor!r}, not a number over 0")
    mean, std = (0.0,) * 3, (1.0,) * 3
    if found.get("do_normalize", True):
        mean = _channels(source, "image_mean", found.get("image_mean", PROCESSOR_MEAN))
        std = _channels(source, "image_std", found.get("image_std", PROCESSOR_STD), above=0.0)
    # There (p·factor − mean) / std of bytes p, here (p/255 − mean) / std.
    scale = factor * 255
    extra: dict = {"mean": _rounded(mean, scale), "std": _rounded(std, scale)}
    size = found.get("size")
    side = size.get("shortest_edge") if isinstance(size, dict) else None
    fits = type(side) is int and side >= max(grid.height, grid.width)
    if fits and found.get("do_resize", True):
        how = RESAMPLING.get(found.get("resample", 2), "bilinear")
        extra["protocol"] = {"resize": side, "interpolation": how}
    return extra


def processor(weights: Weights, report: ConversionReport) -> dict:
    """preprocessor_config.json of a Hugging Face folder."""
    grid, protocol = weights.grid, weights.extra.get("protocol") or {}
    mean, std = statistics(weights, report)
    how = protocol.get("interpolation")
    return {
        "image_processor_type": "VideoMAEImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": protocol.get("resize") or min(grid.height, grid.width)},
        "resample": next((n for n, name in RESAMPLING.items() if name == how), 2),
        "do_center_crop": True,
        "crop_size": {"height": grid.height, "width": grid.width},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": mean,
        "image_std": std,
    }


def read_pretrained_cfg(source: Source, report: ConversionReport) -> dict:
    """Entries of ``Weights.extra`` from a timm folder's config.json; older ones are flat."""
    found = source.config.get("pretrained_cfg", source.config)
    if not isinstance(found, dict) or not {"mean", "std"} <= found.keys():
        if source.config:
            report.note("mean and std: ImageNet's are taken; config.json does not say others")
        return {}
    mean = _channels(source, "mean", found["mean"])
    return {"mean": list(mean), "std": list(_channels(source, "std", found["std"], above=0.0))}


def _channels(
    source: Source, name: str, value: Any, above: float = -math.inf
) -> tuple[float, float, float]:
    """Three numbers, or one for all channels. UserError for anything else."""
    values = list(value) if isinstance(value, list | tuple) else [value] * 3
    right = len(values) == 3 and all(type(v) in (int, float) and math.isfinite(v) for v in values)
    if not right or min(values) <= above:
        raise UserError(f"{source.path}: {name} is {value!r}; three numbers for pixels in 0..1")
    red, green, blue = map(float, values)
    return red, green, blue


def _rounded(values: tuple[float, ...], scale: float) -> list[float]:
    """In 0..1; a factor of 1/255, which is not exact, leaves the very numbers."""
    return list(values) if abs(scale - 1) < 1e-9 else [value / scale for value in values]
