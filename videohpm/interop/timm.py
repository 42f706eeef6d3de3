"""timm's image ViTs, whose names MAE's encoders and fine-tuned models share; image mode only."""

from __future__ import annotations

import json
import math
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from videohpm.config.data import IMAGENET_MEAN, IMAGENET_STD
from videohpm.errors import UserError
from videohpm.interop.core import (
    ENCODER_HEADS,
    HEADLESS,
    ReadOptions,
    Weights,
    depth_of,
    expected_shapes,
    grid_of,
    heads_of,
    is_table,
    note_eps,
    ratio_of,
    refuse_unless,
    shape_of,
    size_name,
    table_of,
    verify_all_accounted,
)
from videohpm.interop.files import Source, is_plain, strip_prefix
from videohpm.interop.report import ConversionReport
from videohpm.interop.rules import CONV2D, SAME, Rule, read_by, same, write_by
from videohpm.interop.videomae import block_rules
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


def encoder_rules(ours: str) -> list[Rule]:
    """Which of an image ViT's tensors make up our encoder's, whose names begin with ``ours``."""
    return [
        Rule(f"{ours}patch_embed.proj.weight", ("patch_embed.proj.weight",), CONV2D),
        Rule(f"{ours}patch_embed.proj.bias", ("patch_embed.proj.bias",), SAME),
        Rule(f"{ours}cls_token", ("cls_token",), SAME),
        *block_rules(f"{ours}blocks.{{n}}", "blocks.{n}", "joined"),
        *same(f"{ours}norm", "norm"),
    ]


def rules_for(kind: str) -> list[Rule]:
    """The rules for an encoder or a classifier."""
    if kind == "VideoViT":
        return encoder_rules("")
    return [*encoder_rules("encoder."), *same("fc_norm", "fc_norm"), *same("head", "head")]


def read(source: Source, report: ConversionReport, options: ReadOptions) -> Weights:
    """The image model in a timm file or folder, or in MAE's ``.pth`` of an encoder."""
    tensors = source.tensors
    kind = "VideoClassifier" if "head.weight" in tensors else "VideoViT"
    model = encoder_arguments(source, report, options)
    if kind == "VideoClassifier":
        model["classes"] = shape_of(tensors, "head.weight", source.path, 2)[0]
        model["pool"] = _pool(source)
    else:
        model.pop("arch")
        model["final_norm"] = "norm.weight" in tensors
        headless = tensors.keys() & {"fc_norm.weight", "fc_norm.bias"}
        report.left_over |= dict.fromkeys(headless, HEADLESS)
    prefix = "" if kind == "VideoViT" else "encoder."
    places = read_positions(source, tensors, prefix, model, report)
    mine = read_by(rules_for(kind), tensors, expected_shapes(kind, model), grid_of(model), report)
    weights = Weights(kind, model, mine | places)
    weights.tensors = verify_all_accounted(weights, set(tensors), report, options)
    return weights


def encoder_arguments(source: Source, report: ConversionReport, options: ReadOptions) -> dict:
    """Constructor arguments of an image encoder, from its shapes."""
    tensors = source.tensors
    name = "patch_embed.proj.weight"
    dim, channels, patch, width = shape_of(tensors, name, source.path, 4)
    if channels != 3 or patch != width:
        raise UserError(f"{source.path}: {name} is not for square patches of RGB")
    depth = depth_of(tensors, "blocks")
    hidden = shape_of(tensors, "blocks.0.mlp.fc1.weight", source.path, 2)[0]
    rows = shape_of(tensors, "pos_embed", source.path, 3)[1]
    heads = options.heads or source.hint.get("heads") or _argument(source, "num_heads")
    return {
        "arch": size_name(dim, depth),
        "dim": dim,
        "depth": depth,
        "heads": heads_of(dim, heads, ENCODER_HEADS, "heads", report),
        "mlp_ratio": ratio_of(hidden, dim),
        "patch": patch,
        "tubelet": 1,
        "frames": 1,
        "image_size": _image_size(source, rows, patch, options),
        "class_token": "cls_token" in tensors,
    }


def _image_size(source: Source, rows: int, patch: int, options: ReadOptions) -> int | list[int]:
    """From the rows of the position table, of which one may be the class token's."""
    given = options.image_size or source.hint.get("image_size") or _argument(source, "img_size")
    if given is not None:
        square = isinstance(given, list) and given[0] == given[1]
        return given[0] if square else given
    for places in (rows, rows - 1):
        side = math.isqrt(max(0, places))
        if side * side == places > 0:
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
    source: Source, tensors: dict[str, Tensor], prefix: str, model: dict, report: ConversionReport
) -> dict[str, Tensor]:
    """The position table: dropped where we compute the same, else kept as learned.

    The class token has no place in ours; what the file adds to it is added to the token itself.
    Sets ``model["position"]``; returns the tensors that are not as they stand in the file.
    """
    grid, mine = grid_of(model), {}
    table = table_of(tensors, "pos_embed", source.path, model["dim"])
    if model["class_token"] and len(table) == grid.num_tokens + 1:
        first, table = table[0], table[1:]
        if first.any():
            report.note("the class token's position is added to the class token")
            mine[f"{prefix}cls_token"] = tensors["cls_token"] + first
            report.loaded[f"{prefix}cls_token"] = "cls_token + pos_embed"
    if is_table(table, "sincos_2d", grid, "pos_embed", report):
        model["position"] = "sincos_2d"
        return mine
    model["position"] = "learned"
    report.loaded[f"{prefix}positions"] = "pos_embed"
    return mine | {f"{prefix}positions": table}


def table_for(weights: Weights) -> Tensor:
    """The position table [1, (1 +) N, D] that an image layout stores, class token's row zero."""
    grid, prefix = weights.grid, weights.prefix
    table = weights.tensors.get(f"{prefix}positions")
    if table is None:
        table = position_table(weights.model["position"], grid, weights.model["dim"])
    if f"{prefix}cls_token" in weights.tensors:
        table = torch.cat([torch.zeros(1, table.shape[1]), table])
    return table[None]


def encoder_tensors(weights: Weights, layout: str, report: ConversionReport) -> dict[str, Tensor]:
    """An encoder's or classifier's tensors under timm's names, position table included.

    Raises UserError for a model that sees more than one time step.
    """
    grid, tensors = weights.grid, dict(weights.tensors)
    refuse_unless(grid.t == 1, layout, "frames", "it is for images, one time step")
    pool = weights.model.get("pool")
    refuse_unless(pool != "first_token", layout, "pool", "it pools by mean or class token")
    if grid.tubelet > 1:
        report.note("the patch embedding is summed over its frames: a repeated frame is an image")
    tensors.pop(f"{weights.prefix}positions", None)
    rules = rules_for(weights.kind)
    return write_by(rules, tensors, grid, report) | {"pos_embed": table_for(weights)}


def write(weights: Weights, folder: Path, report: ConversionReport) -> None:
    """model.safetensors and config.json, for ``timm.create_model("local-dir:FOLDER")``."""
    if weights.kind == "MaskedAutoencoder":
        weights = weights.encoder(report)
    theirs = encoder_tensors(weights, NAME, report)
    save_file(theirs, folder / "model.safetensors", {"format": "pt"})
    report.written = len(theirs)
    note_eps(weights.model, NAME, report)
    (folder / "config.json").write_text(json.dumps(_config(weights), indent=2) + "\n")


def _config(weights: Weights) -> dict:
    model, grid = weights.model, weights.grid
    class_token = bool(model.get("class_token"))
    pools_mean = model.get("pool") == "mean"
    classes = model.get("classes", 0)
    normed = f"{weights.prefix}norm.weight" in weights.tensors
    arguments = {
        "img_size": [grid.height, grid.width],
        "patch_size": grid.patch,
        "embed_dim": model["dim"],
        "depth": model["depth"],
        "num_heads": model["heads"],
        "mlp_ratio": model.get("mlp_ratio", 4.0),
        "class_token": class_token,
        "global_pool": "avg" if pools_mean or not class_token else "token",
        "fc_norm": pools_mean,
        "final_norm": normed or pools_mean,
    }
    return {
        "architecture": "vit_base_patch16_224",
        "num_classes": classes,
        "num_features": model["dim"],
        "global_pool": arguments["global_pool"],
        "model_args": arguments,
        "pretrained_cfg": {
            "num_classes": classes,
            "input_size": [3, grid.height, grid.width],
            "fixed_input_size": True,
            "interpolation": "bicubic",
            "crop_pct": 0.9,
            "mean": list(weights.extra.get("mean", IMAGENET_MEAN)),
            "std": list(weights.extra.get("std", IMAGENET_STD)),
            "first_conv": "patch_embed.proj",
            "classifier": "head",
        },
    }
