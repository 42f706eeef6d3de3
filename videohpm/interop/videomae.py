"""VideoMAE and VideoMAEv2 ``.pth``: pre-training, fine-tuning, and encoders alone."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import Tensor

from videohpm.errors import UserError
from videohpm.interop.core import (
    DECODER_HEADS,
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
from videohpm.interop.files import Source, strip_prefix
from videohpm.interop.report import ConversionReport
from videohpm.interop.rules import CONV3D, QUERY_VALUE, SAME, Rule, read_by, same, write_by

NAME = "videomae"
NO_BIAS = "the model was made without query and value biases"


def recognise(source: Source) -> str | None:
    """What of this layout ``source`` holds; None when it is another's."""
    names = source.tensors
    if _is_pretraining(names):
        return "VideoMAE pre-training"
    strip_prefix(source, "model.", "encoder.", "backbone.")
    patch = source.tensors.get("patch_embed.proj.weight")
    split = any(name.endswith(("attn.q.weight", "attn.q.bias")) for name in source.tensors)
    if patch is None or patch.ndim != 5 or split or "cls_token" in source.tensors:
        return None
    return "VideoMAE fine-tuning" if "head.weight" in source.tensors else "VideoMAE encoder"


def _is_pretraining(names: dict[str, Tensor]) -> bool:
    decoder = any(name.startswith(("decoder.", "encoder_to_decoder.")) for name in names)
    return decoder and "encoder.patch_embed.proj.weight" in names


def block_rules(ours: str, theirs: str, bias: str = "split") -> list[Rule]:
    """A block's rules. ``bias``: ``split`` into q_bias and v_bias, or ``joined`` as ours is."""
    rules = [Rule(f"{ours}.attn.qkv.weight", (f"{theirs}.attn.qkv.weight",), SAME)]
    if bias == "split":
        pair = (f"{theirs}.attn.q_bias", f"{theirs}.attn.v_bias")
        rules.append(Rule(f"{ours}.attn.qkv.bias", pair, QUERY_VALUE, zeros=NO_BIAS))
    else:
        rules.append(Rule(f"{ours}.attn.qkv.bias", (f"{theirs}.attn.qkv.bias",), SAME))
    for module in ("norm1", "norm2", "attn.proj", "mlp.fc1", "mlp.fc2"):
        rules += same(f"{ours}.{module}", f"{theirs}.{module}")
    return rules


def rules_for(kind: str, bias: str = "split") -> list[Rule]:
    """Which of VideoMAE's tensors make up which of ours, for each kind of model."""
    ours = "" if kind == "VideoViT" else "encoder."
    theirs = "encoder." if kind == "MaskedAutoencoder" else ""
    rules = [
        Rule(f"{ours}patch_embed.proj.weight", (f"{theirs}patch_embed.proj.weight",), CONV3D),
        Rule(f"{ours}patch_embed.proj.bias", (f"{theirs}patch_embed.proj.bias",), SAME),
        *block_rules(f"{ours}blocks.{{n}}", f"{theirs}blocks.{{n}}", bias),
        *same(f"{ours}norm", f"{theirs}norm"),
    ]
    if kind == "VideoClassifier":
        rules += same("fc_norm", "fc_norm") + same("head", "head")
    if kind == "MaskedAutoencoder":
        rules += [
            Rule("decoder_embed.weight", ("encoder_to_decoder.weight",), SAME),
            Rule("mask_token", ("mask_token",), SAME),
            *block_rules("decoder.blocks.{n}", "decoder.blocks.{n}", bias),
            *same("decoder.norm", "decoder.norm"),
            *same("decoder.head", "decoder.head"),
        ]
    return rules


def read(source: Source, report: ConversionReport, options: ReadOptions) -> Weights:
    """The model in a VideoMAE file."""
    tensors = source.tensors
    pretrained = _is_pretraining(tensors)
    kind = "MaskedAutoencoder" if pretrained else "VideoViT"
    if not pretrained and "head.weight" in tensors:
        kind = "VideoClassifier"
    model = _encoder_arguments(source, "encoder." if pretrained else "", report, options)
    if pretrained:
        model |= _decoder_arguments(source, report, options)
    elif kind == "VideoClassifier":
        model["classes"] = shape_of(tensors, "head.weight", source.path, 2)[0]
        model["pool"] = "mean" if "fc_norm.weight" in tensors else "first_token"
    else:
        model["final_norm"] = "norm.weight" in tensors
        headless = tensors.keys() & {"fc_norm.weight", "fc_norm.bias"}
        report.left_over |= dict.fromkeys(headless, HEADLESS)
    positions = _positions(source, kind, model, report)
    joined = any(name.endswith("attn.qkv.bias") for name in tensors)
    rules = rules_for(kind, "joined" if joined else "split")
    mine = read_by(rules, tensors, expected_shapes(kind, model), grid_of(model), report)
    weights = Weights(kind, model, mine | positions)
    weights.tensors = verify_all_accounted(weights, set(tensors), report, options)
    return weights


def _encoder_arguments(
    source: Source, prefix: str, report: ConversionReport, options: ReadOptions
) -> dict:
    tensors = source.tensors
    name = f"{prefix}patch_embed.proj.weight"
    dim, channels, tubelet, patch, width = shape_of(tensors, name, source.path, 5)
    if channels != 3 or patch != width:
        raise UserError(f"{source.path}: {name} is not for square patches of RGB")
    depth = depth_of(tensors, f"{prefix}blocks")
    hidden = shape_of(tensors, f"{prefix}blocks.0.mlp.fc1.weight", source.path, 2)[0]
    heads = options.heads or source.hint.get("heads")
    model = {
        "dim": dim,
        "depth": depth,
        "heads": heads_of(dim, heads, ENCODER_HEADS, "heads", report),
        "mlp_ratio": ratio_of(hidden, dim),
        "patch": patch,
        "tubelet": tubelet,
    }
    if prefix or "head.weight" in tensors:
        model = {"arch": size_name(dim, depth)} | model
    return model | _clip_size(source, report, options)


def _clip_size(source: Source, report: ConversionReport, options: ReadOptions) -> dict:
    """Frames and pixels: as given, as the training arguments say, or VideoMAE's 16 and 224."""
    named = re.search(r"_(\d+)$", str(source.args.get("model", "")))
    known = {
        "frames": source.hint.get("frames") or source.args.get("num_frames"),
        "image_size": source.hint.get("image_size")
        or source.args.get("input_size")
        or (int(named[1]) if named else None),
    }
    sizes = {}
    for name, usual in (("frames", 16), ("image_size", 224)):
        given = getattr(options, name)
        sizes[name] = given or known[name] or usual
        if given is None and known[name] is None:
            report.note(f"{name}: {usual} taken, as VideoMAE's models have; the file does not say")
        elif given is None:
            report.note(f"{name}: {sizes[name]}, as the file says")
    return sizes


def _decoder_arguments(source: Source, report: ConversionReport, options: ReadOptions) -> dict:
    tensors = source.tensors
    width = shape_of(tensors, "encoder_to_decoder.weight", source.path, 2)[0]
    hidden = shape_of(tensors, "decoder.blocks.0.mlp.fc1.weight", source.path, 2)[0]
    heads = options.decoder_heads or source.hint.get("decoder_heads")
    return {
        "decoder_dim": width,
        "decoder_depth": depth_of(tensors, "decoder.blocks"),
        "decoder_heads": heads_of(width, heads, DECODER_HEADS, "decoder_heads", report),
        "decoder_mlp_ratio": ratio_of(hidden, width),
        "predictor_unit": None,
        "final_norm": "encoder.norm.weight" in tensors,
        "target": "per_channel",
    }


def _positions(
    source: Source, kind: str, model: dict, report: ConversionReport
) -> dict[str, Tensor]:
    """VideoMAE stores a table only where it was trained with a learnable one."""
    prefix = "encoder." if kind == "MaskedAutoencoder" else ""
    name = f"{prefix}pos_embed"
    if name not in source.tensors:
        if source.hint.get("position") == "learned":
            raise UserError(f"{source.path}: {name} is missing, which this model has learned")
        return {}
    table = table_of(source.tensors, name, source.path, model["dim"])
    if is_table(table, "sincos_1d", grid_of(model), name, report):
        return {}
    if kind == "MaskedAutoencoder":
        raise UserError(f"{source.path}: {name} was learned; an autoencoder here has fixed ones")
    model["position"] = "learned"
    ours = "positions" if kind == "VideoViT" else "encoder.positions"
    report.loaded[ours] = name
    return {ours: table}


def write(weights: Weights, folder: Path, report: ConversionReport) -> None:
    """checkpoint.pth, as VideoMAE's own code loads it: the weights under ``model``.

    Raises UserError for a model that VideoMAE's code cannot be.
    """
    model, tensors = weights.model, dict(weights.tensors)
    refuse_unless(not model.get("class_token"), NAME, "class_token", "it has no class token")
    bias = tensors.pop("decoder_embed.bias", None)
    if bias is not None:
        refuse_unless(not bias.any(), NAME, "projection_bias", "its projection has no bias")
        report.not_written["decoder_embed.bias"] = "all zero, and the layout has none"
    table = tensors.pop(f"{weights.prefix}positions", None)
    position = model.get("position", "sincos_1d")
    fixed = position == "sincos_1d" or table is not None
    refuse_unless(fixed, NAME, "position", f"it computes sincos_1d, not {position}")
    if weights.kind == "MaskedAutoencoder":
        whole = model.get("pixel_decoder", True)
        refuse_unless(whole, NAME, "pixel_decoder", "it needs one; convert the encoder alone")
    for name in tensors:
        if name.startswith("predictor."):
            report.not_written[name] = "the layout has no loss predictor"
    theirs = write_by(rules_for(weights.kind), tensors, weights.grid, report)
    if table is not None:
        theirs["pos_embed"] = table[None]
        report.note("pos_embed: VideoMAE's code reads it when its positions are learnable")
    note_eps(model, NAME, report)
    torch.save({"model": theirs, "videohpm": model}, folder / "checkpoint.pth")
    report.written = len(theirs)
