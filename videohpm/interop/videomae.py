"""VideoMAE and VideoMAEv2 ``.pth``: pre-training, fine-tuning, and encoders alone."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from videohpm.config.architecture import Architecture
from videohpm.errors import UserError
from videohpm.interop.core import (
    DECODER_HEADS,
    ENCODER_HEADS,
    HEADLESS,
    ReadOptions,
    Weights,
    depth_of,
    heads_of,
    is_table,
    note_eps,
    ratio_of,
    refuse_features,
    refuse_unless,
    shape_of,
    table_of,
    verify_all_accounted,
)
from videohpm.interop.files import Source, hints, strip_prefix
from videohpm.interop.report import ConversionReport
from videohpm.interop.rules import (
    CONV3D,
    IDENTITY,
    QUERY_VALUE,
    Rule,
    module_rules,
    read_by,
    write_by,
)
from videohpm.models import DecoderConfig, MAEConfig, VideoClassifierConfig, ViTConfig
from videohpm.models.bounds import expected_shapes, grid_of

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


def block_rules(model: str, layout: str, bias: str = "split") -> list[Rule]:
    """A block's rules. ``bias``: ``split`` into q_bias and v_bias, or ``joined`` as here."""
    rules = [Rule(f"{model}.attn.qkv.weight", (f"{layout}.attn.qkv.weight",), IDENTITY)]
    if bias == "split":
        pair = (f"{layout}.attn.q_bias", f"{layout}.attn.v_bias")
        rules.append(Rule(f"{model}.attn.qkv.bias", pair, QUERY_VALUE, zeros=NO_BIAS))
    else:
        rules.append(Rule(f"{model}.attn.qkv.bias", (f"{layout}.attn.qkv.bias",), IDENTITY))
    for module in ("norm1", "norm2", "attn.proj", "mlp.fc1", "mlp.fc2"):
        rules += module_rules(f"{model}.{module}", f"{layout}.{module}")
    return rules


def rules_for(kind: str, bias: str = "split") -> list[Rule]:
    """Which of VideoMAE's tensors make up which of the model's, for each kind of model."""
    model = "" if kind == "VideoViT" else "encoder."
    layout = "encoder." if kind == "MaskedAutoencoder" else ""
    embed = "patch_embed.proj"
    rules = [
        Rule(f"{model}{embed}.weight", (f"{layout}{embed}.weight",), CONV3D),
        Rule(f"{model}{embed}.bias", (f"{layout}{embed}.bias",), IDENTITY),
        *block_rules(f"{model}blocks.{{n}}", f"{layout}blocks.{{n}}", bias),
        *module_rules(f"{model}norm", f"{layout}norm"),
    ]
    if kind == "VideoClassifier":
        rules += module_rules("fc_norm", "fc_norm") + module_rules("head", "head")
    if kind == "MaskedAutoencoder":
        rules += [
            Rule("decoder_embed.weight", ("encoder_to_decoder.weight",), IDENTITY),
            Rule("mask_token", ("mask_token",), IDENTITY),
            *block_rules("decoder.blocks.{n}", "decoder.blocks.{n}", bias),
            *module_rules("decoder.norm", "decoder.norm"),
            *module_rules("decoder.head", "decoder.head"),
        ]
    return rules


def read(source: Source, report: ConversionReport, options: ReadOptions) -> Weights:
    """The model in a VideoMAE file."""
    tensors = source.tensors
    kind = "MaskedAutoencoder" if _is_pretraining(tensors) else "VideoViT"
    if kind == "VideoViT" and "head.weight" in tensors:
        kind = "VideoClassifier"
    encoder = _encoder_config(source, kind, report, options)
    positions = _positions(source, kind, encoder, report)
    if positions:
        encoder = replace(encoder, position="learned")
    config: Architecture = encoder
    if kind == "MaskedAutoencoder":
        decoder = _decoder_config(source, report, options)
        config = MAEConfig(encoder=encoder, decoder=decoder, predictor=None, target="per_channel")
    elif kind == "VideoClassifier":
        config = VideoClassifierConfig(
            encoder=encoder,
            classes=shape_of(tensors, "head.weight", source.path, 2)[0],
            pool="mean" if "fc_norm.weight" in tensors else "first_token",
        )
    else:
        headless = tensors.keys() & {"fc_norm.weight", "fc_norm.bias"}
        report.left_over |= dict.fromkeys(headless, HEADLESS)
    joined = any(name.endswith("attn.qkv.bias") for name in tensors)
    rules = rules_for(kind, "joined" if joined else "split")
    found = read_by(rules, tensors, expected_shapes(config), grid_of(config), report)
    weights = Weights(config, found | positions)
    weights.tensors = verify_all_accounted(weights, set(tensors), report, options)
    return weights


def _encoder_config(
    source: Source, kind: str, report: ConversionReport, options: ReadOptions
) -> ViTConfig:
    tensors, prefix = source.tensors, "encoder." if kind == "MaskedAutoencoder" else ""
    name = f"{prefix}patch_embed.proj.weight"
    dim, channels, tubelet, patch, width = shape_of(tensors, name, source.path, 5)
    if channels != 3 or patch != width:
        raise UserError(f"{source.path}: {name} is not for square patches of RGB")
    hidden = shape_of(tensors, f"{prefix}blocks.0.mlp.fc1.weight", source.path, 2)[0]
    heads = options.heads or source.hint.get("heads")
    return ViTConfig(
        dim=dim,
        depth=depth_of(tensors, f"{prefix}blocks"),
        heads=heads_of(dim, heads, ENCODER_HEADS, "heads", report),
        mlp_ratio=ratio_of(hidden, dim),
        patch=patch,
        tubelet=tubelet,
        final_norm=f"{prefix}norm.weight" in tensors,
        **_clip_size(source, report, options),
    )


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


def _decoder_config(
    source: Source, report: ConversionReport, options: ReadOptions
) -> DecoderConfig:
    tensors = source.tensors
    width = shape_of(tensors, "encoder_to_decoder.weight", source.path, 2)[0]
    hidden = shape_of(tensors, "decoder.blocks.0.mlp.fc1.weight", source.path, 2)[0]
    heads = options.decoder_heads or source.hint.get("decoder_heads")
    return DecoderConfig(
        dim=width,
        depth=depth_of(tensors, "decoder.blocks"),
        heads=heads_of(width, heads, DECODER_HEADS, "decoder_heads", report),
        mlp_ratio=ratio_of(hidden, width),
    )


def _positions(
    source: Source, kind: str, encoder: ViTConfig, report: ConversionReport
) -> dict[str, Tensor]:
    """The learned position table, if any: VideoMAE stores one only where it was learnable."""
    prefix = "encoder." if kind == "MaskedAutoencoder" else ""
    name = f"{prefix}pos_embed"
    if name not in source.tensors:
        if source.hint.get("position") == "learned":
            raise UserError(f"{source.path}: {name} is missing, which this model has learned")
        return {}
    table = table_of(source.tensors, name, source.path, encoder.dim)
    if is_table(table, "sincos_1d", grid_of(encoder), name, report):
        return {}
    if kind == "MaskedAutoencoder":
        raise UserError(f"{source.path}: {name} was learned; an autoencoder here has fixed ones")
    target = "positions" if kind == "VideoViT" else "encoder.positions"
    report.loaded[target] = name
    return {target: table}


def write(weights: Weights, folder: Path, report: ConversionReport) -> None:
    """checkpoint.pth, as VideoMAE's own code loads it: the weights under ``model``.

    Raises UserError for a model that VideoMAE's code cannot be.
    """
    encoder, tensors = weights.encoder_config, dict(weights.tensors)
    refuse_unless(not encoder.class_token, NAME, "class_token", "it has no class token")
    bias = tensors.pop("decoder_embed.bias", None)
    if bias is not None:
        refuse_unless(not bias.any(), NAME, "projection_bias", "its projection has no bias")
        report.not_written["decoder_embed.bias"] = "all zero, and the layout has none"
    table = tensors.pop(f"{weights.prefix}positions", None)
    fits = encoder.position == "sincos_1d" or table is not None
    refuse_unless(fits, NAME, "position", f"it computes sincos_1d, not {encoder.position}")
    if isinstance(weights.config, MAEConfig):
        reconstructs = weights.config.pixel_decoder
        refuse_unless(
            reconstructs, NAME, "pixel_decoder", "it needs one; convert the encoder alone"
        )
        refuse_features(weights.config, NAME)
    for name in tensors:
        if name.startswith("predictor."):
            report.not_written[name] = "the layout has no loss predictor"
    written = write_by(rules_for(weights.kind), tensors, weights.grid, report)
    if table is not None:
        written["pos_embed"] = table[None]
        report.note("pos_embed: VideoMAE's code reads it when its positions are learnable")
    note_eps(weights.config, NAME, report)
    torch.save({"model": written, "videohpm": hints(weights.config)}, folder / "checkpoint.pth")
    report.written = len(written)
