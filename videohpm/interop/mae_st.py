"""mae_st ``.pth`` (MAE on space and time): the encoder, or a fine-tuned classifier; in only."""

from __future__ import annotations

import math

from torch import Tensor

from videohpm.config.architecture import Architecture
from videohpm.errors import UserError
from videohpm.interop.core import (
    ENCODER_HEADS,
    ReadOptions,
    Weights,
    depth_of,
    heads_of,
    ratio_of,
    shape_of,
    table_of,
    verify_all_accounted,
)
from videohpm.interop.files import Source
from videohpm.interop.report import ConversionReport
from videohpm.interop.rules import CONV3D, IDENTITY, THIRDS, Rule, module_rules, read_by
from videohpm.models import VideoClassifierConfig, ViTConfig
from videohpm.models.bounds import expected_shapes, grid_of

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
    """Which of mae_st's tensors make up which of the model's."""
    model = "" if kind == "VideoViT" else "encoder."
    block, attention = f"{model}blocks.{{n}}", "blocks.{n}.attn"
    rules = [
        Rule(f"{model}patch_embed.proj.weight", ("patch_embed.proj.weight",), CONV3D),
        Rule(f"{model}patch_embed.proj.bias", ("patch_embed.proj.bias",), IDENTITY),
        Rule(f"{model}cls_token", ("cls_token",), IDENTITY),
    ]
    for leaf in ("weight", "bias"):
        parts = tuple(f"{attention}.{part}.{leaf}" for part in "qkv")
        rules.append(Rule(f"{block}.attn.qkv.{leaf}", parts, THIRDS))
    for module in ("norm1", "norm2", "attn.proj", "mlp.fc1", "mlp.fc2"):
        rules += module_rules(f"{block}.{module}", f"blocks.{{n}}.{module}")
    if kind == "VideoViT":
        return rules + module_rules("norm", "norm")
    return rules + module_rules("fc_norm", "norm") + module_rules("head", "head")


def read(source: Source, report: ConversionReport, options: ReadOptions) -> Weights:
    """The encoder (with its final norm), or the classifier (which norms behind the pooling)."""
    tensors = source.tensors
    classifies = "head.weight" in tensors
    kind = "VideoClassifier" if classifies else "VideoViT"
    encoder = _encoder_config(source, report, options)
    config: Architecture = encoder
    if classifies:
        if not encoder.class_token:
            raise UserError(
                f"{source.path}: without a class token mae_st's classifier leaves the first patch "
                "out of its mean, which no model here does"
            )
        classes = shape_of(tensors, "head.weight", source.path, 2)[0]
        config = VideoClassifierConfig(encoder=encoder, classes=classes, pool="mean")
    prefix = "encoder." if classifies else ""
    positions = _positions(source, prefix, encoder, report)
    for name in tensors:
        if name.startswith("decoder_") or name == "mask_token":
            report.left_over[name] = DECODER
    shapes, grid = expected_shapes(config), grid_of(config)
    found = read_by(rules_for(kind), tensors, shapes, grid, report)
    report.loaded |= {name: source_names for name, (_, source_names) in positions.items()}
    weights = Weights(config, found | {name: tensor for name, (tensor, _) in positions.items()})
    weights.tensors = verify_all_accounted(weights, set(tensors), report, options)
    return weights


def _encoder_config(source: Source, report: ConversionReport, options: ReadOptions) -> ViTConfig:
    tensors = source.tensors
    name = "patch_embed.proj.weight"
    dim, channels, tubelet, patch, width = shape_of(tensors, name, source.path, 5)
    if channels != 3 or patch != width:
        raise UserError(f"{source.path}: {name} is not for square patches of RGB")
    hidden = shape_of(tensors, "blocks.0.mlp.fc1.weight", source.path, 2)[0]
    class_token = "cls_token" in tensors
    if "pos_embed_spatial" in tensors:
        tubes = shape_of(tensors, "pos_embed_spatial", source.path, 3)[1]
        steps = shape_of(tensors, "pos_embed_temporal", source.path, 3)[1]
    else:
        size = options.image_size or 224
        tubes = (size // patch) ** 2
        rows = shape_of(tensors, "pos_embed", source.path, 3)[1] - class_token
        steps, rest = divmod(rows, max(1, tubes))
        if rest or not steps:
            raise UserError(f"{source.path}: pos_embed has {rows} positions; give --image_size")
    side = math.isqrt(tubes)
    if side * side != tubes:
        raise UserError(f"{source.path}: pos_embed_spatial has {tubes} rows, which is no square")
    return ViTConfig(
        frames=steps * tubelet,
        image_size=side * patch,
        patch=patch,
        tubelet=tubelet,
        dim=dim,
        depth=depth_of(tensors, "blocks"),
        heads=heads_of(dim, options.heads, ENCODER_HEADS, "heads", report),
        mlp_ratio=ratio_of(hidden, dim),
        position="learned",
        class_token=class_token,
    )


def _positions(
    source: Source, prefix: str, encoder: ViTConfig, report: ConversionReport
) -> dict[str, tuple[Tensor, str]]:
    """What is a sum of the file's tensors, and of which: one table [N, D] of space plus time, and
    the class token, to which its own position is added.
    """
    tensors, steps = source.tensors, grid_of(encoder).t
    class_position, class_source = None, ""
    if "pos_embed_spatial" in tensors:
        space, time = (
            table_of(tensors, f"pos_embed_{what}", source.path, encoder.dim)
            for what in ("spatial", "temporal")
        )
        table = space.repeat(steps, 1) + time.repeat_interleave(len(space), 0)
        names = "pos_embed_spatial + pos_embed_temporal"
        if encoder.class_token and "pos_embed_class" in tensors:
            class_source = "pos_embed_class"
            class_position = table_of(tensors, class_source, source.path, encoder.dim)
    else:
        table = table_of(tensors, "pos_embed", source.path, encoder.dim)
        names = "pos_embed"
        if encoder.class_token:
            prefixed = encoder.num_prefix_tokens
            class_source, class_position = "pos_embed", table[:prefixed]
            table = table[prefixed:]
    found = {f"{prefix}positions": (table, names)}
    if class_position is not None and "cls_token" in tensors:
        token = tensors["cls_token"] + class_position
        found[f"{prefix}cls_token"] = (token, f"cls_token + {class_source}")
        report.note("the class token's position is added to the class token")
    return found
