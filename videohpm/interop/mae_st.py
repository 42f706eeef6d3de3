"""mae_st ``.pth`` (MAE on space and time): the encoder, or a fine-tuned classifier; in only."""

from __future__ import annotations

import math

from torch import Tensor

from videohpm.errors import UserError
from videohpm.interop.core import (
    ENCODER_HEADS,
    ReadOptions,
    Weights,
    depth_of,
    expected_shapes,
    grid_of,
    heads_of,
    ratio_of,
    shape_of,
    size_name,
    table_of,
    verify_all_accounted,
)
from videohpm.interop.files import Source
from videohpm.interop.report import ConversionReport
from videohpm.interop.rules import CONV3D, SAME, THIRDS, Rule, read_by, same

NAME = "mae_st"
DECODER = (
    "mae_st's decoder has a class token and learned positions of its own and predicts only some "
    "frames; only the encoder is kept"
)


def recognise(source: Source) -> str | None:
    """What of this layout ``source`` holds; None when it is another's."""
    patch = source.tensors.get("patch_embed.proj.weight")
    if patch is None or patch.ndim != 5 or "blocks.0.attn.q.weight" not in source.tensors:
        return None
    return f"mae_st {'fine-tuning' if 'head.weight' in source.tensors else 'pre-training'}"


def rules_for(kind: str) -> list[Rule]:
    """Which of mae_st's tensors make up which of ours."""
    ours = "" if kind == "VideoViT" else "encoder."
    block, attention = f"{ours}blocks.{{n}}", "blocks.{n}.attn"
    rules = [
        Rule(f"{ours}patch_embed.proj.weight", ("patch_embed.proj.weight",), CONV3D),
        Rule(f"{ours}patch_embed.proj.bias", ("patch_embed.proj.bias",), SAME),
        Rule(f"{ours}cls_token", ("cls_token",), SAME),
    ]
    for leaf in ("weight", "bias"):
        parts = tuple(f"{attention}.{part}.{leaf}" for part in "qkv")
        rules.append(Rule(f"{block}.attn.qkv.{leaf}", parts, THIRDS))
    for module in ("norm1", "norm2", "attn.proj", "mlp.fc1", "mlp.fc2"):
        rules += same(f"{block}.{module}", f"blocks.{{n}}.{module}")
    if kind == "VideoViT":
        return rules + same("norm", "norm")
    return rules + same("fc_norm", "norm") + same("head", "head")


def read(source: Source, report: ConversionReport, options: ReadOptions) -> Weights:
    """The encoder (with its final norm), or the classifier (which norms behind the pooling)."""
    tensors = source.tensors
    classifies = "head.weight" in tensors
    kind = "VideoClassifier" if classifies else "VideoViT"
    model = _arguments(source, report, options)
    if classifies:
        if not model["class_token"]:
            raise UserError(
                f"{source.path}: without a class token mae_st's classifier leaves the first patch "
                "out of its mean, which no model here does"
            )
        model |= {
            "arch": size_name(model["dim"], model["depth"]),
            "classes": shape_of(tensors, "head.weight", source.path, 2)[0],
            "pool": "mean",
        }
    prefix = "encoder." if classifies else ""
    places = _positions(source, prefix, model, report)
    for name in tensors:
        if name.startswith("decoder_") or name == "mask_token":
            report.left_over[name] = DECODER
    mine = read_by(rules_for(kind), tensors, expected_shapes(kind, model), grid_of(model), report)
    report.loaded |= {name: source_names for name, (_, source_names) in places.items()}
    weights = Weights(kind, model, mine | {name: t for name, (t, _) in places.items()})
    weights.tensors = verify_all_accounted(weights, set(tensors), report, options)
    return weights


def _arguments(source: Source, report: ConversionReport, options: ReadOptions) -> dict:
    tensors = source.tensors
    name = "patch_embed.proj.weight"
    dim, channels, tubelet, patch, width = shape_of(tensors, name, source.path, 5)
    if channels != 3 or patch != width:
        raise UserError(f"{source.path}: {name} is not for square patches of RGB")
    hidden = shape_of(tensors, "blocks.0.mlp.fc1.weight", source.path, 2)[0]
    model = {
        "dim": dim,
        "depth": depth_of(tensors, "blocks"),
        "heads": heads_of(dim, options.heads, ENCODER_HEADS, "heads", report),
        "mlp_ratio": ratio_of(hidden, dim),
        "patch": patch,
        "tubelet": tubelet,
        "class_token": "cls_token" in tensors,
        "position": "learned",
    }
    if "pos_embed_spatial" in tensors:
        tubes = shape_of(tensors, "pos_embed_spatial", source.path, 3)[1]
        steps = shape_of(tensors, "pos_embed_temporal", source.path, 3)[1]
    else:
        size = options.image_size or 224
        tubes = (size // patch) ** 2
        rows = shape_of(tensors, "pos_embed", source.path, 3)[1] - model["class_token"]
        steps, rest = divmod(rows, max(1, tubes))
        if rest or not steps:
            raise UserError(f"{source.path}: pos_embed has {rows} places; give --image_size")
    side = math.isqrt(tubes)
    if side * side != tubes:
        raise UserError(f"{source.path}: pos_embed_spatial has {tubes} rows, which is no square")
    return model | {"frames": steps * tubelet, "image_size": side * patch}


def _positions(
    source: Source, prefix: str, model: dict, report: ConversionReport
) -> dict[str, tuple[Tensor, str]]:
    """One table [N, D] of space plus time; the class token's place is added to the token."""
    tensors, steps = source.tensors, grid_of(model).t
    first = None
    if "pos_embed_spatial" in tensors:
        space, time = (
            table_of(tensors, f"pos_embed_{what}", source.path, model["dim"])
            for what in ("spatial", "temporal")
        )
        table = space.repeat(steps, 1) + time.repeat_interleave(len(space), 0)
        names = "pos_embed_spatial + pos_embed_temporal"
        if model["class_token"] and "pos_embed_class" in tensors:
            first_name = "pos_embed_class"
            first = table_of(tensors, first_name, source.path, model["dim"])
    else:
        table = table_of(tensors, "pos_embed", source.path, model["dim"])
        names = "pos_embed"
        if model["class_token"]:
            first, table, first_name = table[:1], table[1:], "pos_embed"
    places = {f"{prefix}positions": (table, names)}
    if first is not None and "cls_token" in tensors:
        token = tensors["cls_token"] + first
        places[f"{prefix}cls_token"] = (token, f"cls_token + {first_name}")
        report.note("the class token's position is added to the class token")
    return places
