"""timm's image ViTs, whose names MAE's encoders and fine-tuned models share; image mode only."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from videohpm.config.architecture import Architecture
from videohpm.errors import UserError
from videohpm.interop.core import (
    ENCODER_HEADS,
    HEADLESS,
    ReadOptions,
    Weights,
    depth_of,
    heads_of,
    is_table,
    note_eps,
    ratio_of,
    refuse_unless,
    shape_of,
    table_of,
    verify_all_accounted,
)
from videohpm.interop.files import Source, is_plain, strip_prefix
from videohpm.interop.pixels import read_pretrained_cfg, statistics
from videohpm.interop.report import ConversionReport
from videohpm.interop.rules import CONV2D, IDENTITY, Rule, module_rules, read_by, write_by
from videohpm.interop.videomae import block_rules
from videohpm.models import VideoClassifierConfig, ViTConfig
from videohpm.models.bounds import expected_shapes, grid_of
from videohpm.models.vit import position_table

NAME = "timm"


def recognise(source: Source) -> str | None:
    """What of this layout ``source`` holds; None when it is another's."""
    strip_prefix(source, "encoder.", "backbone.")
    patch = source.tensors.get("patch_embed.proj.weight")
    names = source.tensors
    if patch is None or patch.ndim != 4 or "pos_embed" not in names or "mask_token" in names:
        return None
    family = "MAE" if source.entry else "timm"
    return f"{family} image {'classifier' if 'head.weight' in names else 'encoder'}"


def encoder_rules(prefix: str) -> list[Rule]:
    """Which of an image ViT's tensors make up the encoder's, whose names begin with ``prefix``."""
    return [
        Rule(f"{prefix}patch_embed.proj.weight", ("patch_embed.proj.weight",), CONV2D),
        Rule(f"{prefix}patch_embed.proj.bias", ("patch_embed.proj.bias",), IDENTITY),
        Rule(f"{prefix}cls_token", ("cls_token",), IDENTITY),
        *block_rules(f"{prefix}blocks.{{n}}", "blocks.{n}", "joined"),
        *module_rules(f"{prefix}norm", "norm"),
    ]


def rules_for(kind: str) -> list[Rule]:
    """The rules for an encoder or a classifier."""
    if kind == "VideoViT":
        return encoder_rules("")
    return [
        *encoder_rules("encoder."),
        *module_rules("fc_norm", "fc_norm"),
        *module_rules("head", "head"),
    ]


def read(source: Source, report: ConversionReport, options: ReadOptions) -> Weights:
    """The image model in a timm file or folder, or in MAE's ``.pth`` of an encoder."""
    tensors = source.tensors
    kind = "VideoClassifier" if "head.weight" in tensors else "VideoViT"
    encoder = encoder_config(source, report, options)
    encoder = replace(encoder, final_norm="norm.weight" in tensors)
    prefix = "" if kind == "VideoViT" else "encoder."
    encoder, positions = read_positions(source, tensors, prefix, encoder, report)
    config: Architecture = encoder
    if kind == "VideoClassifier":
        classes = shape_of(tensors, "head.weight", source.path, 2)[0]
        config = VideoClassifierConfig(encoder=encoder, classes=classes, pool=_pool(source))
    else:
        headless = tensors.keys() & {"fc_norm.weight", "fc_norm.bias"}
        report.left_over |= dict.fromkeys(headless, HEADLESS)
    shapes, grid = expected_shapes(config), grid_of(config)
    found = read_by(rules_for(kind), tensors, shapes, grid, report)
    extra = read_pretrained_cfg(source, report) | _labels(source, config)
    weights = Weights(config, found | positions, extra=extra)
    weights.tensors = verify_all_accounted(weights, set(tensors), report, options)
    return weights


def encoder_config(source: Source, report: ConversionReport, options: ReadOptions) -> ViTConfig:
    """An image encoder's configuration, from its shapes; its positions are still to be found."""
    tensors = source.tensors
    name = "patch_embed.proj.weight"
    dim, channels, patch, width = shape_of(tensors, name, source.path, 4)
    if channels != 3 or patch != width:
        raise UserError(f"{source.path}: {name} is not for square patches of RGB")
    hidden = shape_of(tensors, "blocks.0.mlp.fc1.weight", source.path, 2)[0]
    rows = shape_of(tensors, "pos_embed", source.path, 3)[1]
    heads = options.heads or source.hint.get("heads")
    if heads is None and isinstance(given := _argument(source, "num_heads"), int):
        heads = given
    return ViTConfig(
        frames=1,
        image_size=_image_size(source, rows, patch, options),
        patch=patch,
        tubelet=1,
        dim=dim,
        depth=depth_of(tensors, "blocks"),
        heads=heads_of(dim, heads, ENCODER_HEADS, "heads", report),
        mlp_ratio=ratio_of(hidden, dim),
        class_token="cls_token" in tensors,
    )


def _image_size(
    source: Source, rows: int, patch: int, options: ReadOptions
) -> int | tuple[int, int]:
    """From the rows of the position table, of which one may be the class token's."""
    given = options.image_size or source.hint.get("image_size") or _argument(source, "img_size")
    if isinstance(given, (list, tuple)):
        height, width = given
        return height if height == width else (height, width)
    if given is not None:
        return given
    for count in (rows, rows - 1):
        side = math.isqrt(max(0, count))
        if side * side == count > 0:
            return side * patch
    raise UserError(f"{source.path}: pos_embed has {rows} rows, no square; give --image_size")


def _argument(source: Source, name: str) -> int | list[int] | None:
    """One of the sizes that a timm folder's config.json gives, if it is one."""
    arguments = source.config.get("model_args")
    value = arguments.get(name) if isinstance(arguments, dict) else None
    return value if is_plain(value) and not isinstance(value, str | bool) else None


def _pool(source: Source) -> str:
    arguments = source.config.get("model_args")
    arguments = arguments if isinstance(arguments, dict) else {}
    pool = arguments.get("global_pool") or source.config.get("global_pool")
    if "fc_norm.weight" in source.tensors:
        return "mean"
    if "cls_token" not in source.tensors or pool not in (None, "", "token"):
        raise UserError(
            f"{source.path}: pools by {pool or 'the mean'} behind the final norm, which no model "
            "here does; convert the encoder alone (leave out head.weight and head.bias)"
        )
    return "class_token"


def read_positions(
    source: Source,
    tensors: dict[str, Tensor],
    prefix: str,
    encoder: ViTConfig,
    report: ConversionReport,
) -> tuple[ViTConfig, dict[str, Tensor]]:
    """The position table: dropped where the same is computed here, else kept as learned.

    A class token has no position here; what the file adds to it is added to the token itself.

    Returns:
        ``encoder`` with its kind of positions, and the tensors that are not as in the file.
    """
    grid, found, prefixed = grid_of(encoder), {}, encoder.num_prefix_tokens
    table = table_of(tensors, "pos_embed", source.path, encoder.dim)
    if prefixed and len(table) == grid.num_tokens + prefixed:
        first, table = table[:prefixed], table[prefixed:]
        if first.any():
            report.note("the class token's position is added to the class token")
            found[f"{prefix}cls_token"] = tensors["cls_token"] + first
            report.loaded[f"{prefix}cls_token"] = "cls_token + pos_embed"
    if is_table(table, "sincos_2d", grid, "pos_embed", report):
        return replace(encoder, position="sincos_2d"), found
    report.loaded[f"{prefix}positions"] = "pos_embed"
    return replace(encoder, position="learned"), found | {f"{prefix}positions": table}


def table_for(weights: Weights) -> Tensor:
    """The position table [1, (1 +) N, D] that an image layout stores, class token's row zero."""
    encoder = weights.encoder_config
    table = weights.tensors.get(f"{weights.prefix}positions")
    if table is None:
        table = position_table(encoder.position, weights.grid, encoder.dim)
    return torch.cat([torch.zeros(encoder.num_prefix_tokens, encoder.dim), table])[None]


def encoder_tensors(weights: Weights, layout: str, report: ConversionReport) -> dict[str, Tensor]:
    """An encoder's or classifier's tensors under timm's names, position table included.

    Raises UserError for a model that sees more than one time step.
    """
    grid, tensors = weights.grid, dict(weights.tensors)
    refuse_unless(grid.t == 1, layout, "frames", "it is for images, one time step")
    refuse_unless(
        _pool_of(weights) != "first_token", layout, "pool", "it pools by mean or class token"
    )
    if grid.tubelet > 1:
        report.note("the patch embedding is summed over its frames: a repeated frame is an image")
    tensors.pop(f"{weights.prefix}positions", None)
    rules = rules_for(weights.kind)
    return write_by(rules, tensors, grid, report) | {"pos_embed": table_for(weights)}


def write(weights: Weights, folder: Path, report: ConversionReport) -> None:
    """model.safetensors and config.json, for ``timm.create_model("local-dir:FOLDER")``."""
    if weights.kind == "MaskedAutoencoder":
        weights = weights.encoder(report)
    tensors = encoder_tensors(weights, NAME, report)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    report.written = len(tensors)
    note_eps(weights.config, NAME, report)
    (folder / "config.json").write_text(json.dumps(_config(weights, report), indent=2) + "\n")


def _pool_of(weights: Weights) -> str | None:
    """How a classifier pools; None for an encoder."""
    return weights.config.pool if isinstance(weights.config, VideoClassifierConfig) else None


def _labels(source: Source, config: Architecture) -> dict:
    """Class names, where the folder has one for each class."""
    inner = source.config.get("pretrained_cfg")
    for place in (source.config, inner if isinstance(inner, dict) else {}):
        for names in (place.get("label_names"), place.get("labels")):
            if not isinstance(names, list) or not isinstance(config, VideoClassifierConfig):
                continue
            if len(names) == config.classes:
                return {"labels": [str(name) for name in names]}
    return {}


def _config(weights: Weights, report: ConversionReport) -> dict:
    encoder, grid = weights.encoder_config, weights.grid
    mean, std = statistics(weights, report)
    labels = weights.extra.get("labels") if _pool_of(weights) is not None else None
    pools_mean = _pool_of(weights) == "mean"
    classes = weights.config.classes if isinstance(weights.config, VideoClassifierConfig) else 0
    normed = f"{weights.prefix}norm.weight" in weights.tensors
    arguments = {
        "img_size": [grid.height, grid.width],
        "patch_size": grid.patch,
        "embed_dim": encoder.dim,
        "depth": encoder.depth,
        "num_heads": encoder.heads,
        "mlp_ratio": encoder.mlp_ratio,
        "class_token": encoder.class_token,
        "global_pool": "avg" if pools_mean or not encoder.class_token else "token",
        "fc_norm": pools_mean,
        "final_norm": normed or pools_mean,
    }
    return {
        "architecture": "vit_base_patch16_224",
        "num_classes": classes,
        "num_features": encoder.dim,
        "global_pool": arguments["global_pool"],
        "model_args": arguments,
        "pretrained_cfg": {
            "num_classes": classes,
            "input_size": [3, grid.height, grid.width],
            "fixed_input_size": True,
            "interpolation": "bicubic",
            "crop_pct": 0.9,
            "mean": mean,
            "std": std,
            "first_conv": "patch_embed.proj",
            "classifier": "head",
        },
        **({"label_names": labels} if labels else {}),
    }
