"""MAE and image HPM ``.pth``: 2-D patches, joint qkv bias, position tables in the file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from videohpm.config.architecture import PREDICTORS
from videohpm.errors import UserError
from videohpm.grid import TokenGrid
from videohpm.interop import timm
from videohpm.interop.core import (
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
from videohpm.interop.files import Source, hints
from videohpm.interop.report import ConversionReport
from videohpm.interop.rules import AVERAGED_HEAD, IDENTITY, Rule, module_rules, read_by, write_by
from videohpm.interop.timm import encoder_config, encoder_rules, read_positions
from videohpm.interop.videomae import block_rules
from videohpm.models import DecoderConfig, MAEConfig, PredictorConfig
from videohpm.models.bounds import expected_shapes, grid_of
from videohpm.models.vit import position_table

NAME = "mae"
MAE_DECODER_HEADS = {512: 16}
TEACHER_ALONE = "the teacher needs no pixel decoder"


def recognise(source: Source) -> str | None:
    """What of this layout ``source`` holds; None when it is another's."""
    names = source.tensors
    patch = names.get("patch_embed.proj.weight")
    decoder = "mask_token" in names or any(name.startswith("decoder_") for name in names)
    if patch is None or patch.ndim != 4 or not decoder:
        return None
    return "HPM image" if "decoder_pred_losspred.weight" in names else "MAE pre-training"


def rules_for(predictor: bool) -> list[Rule]:
    """Which of MAE's tensors make up which of the model's, with HPM's second decoder or without."""
    rules = [
        *encoder_rules("encoder."),
        *module_rules("decoder_embed", "decoder_embed"),
        Rule("mask_token", ("mask_token",), IDENTITY),
        *block_rules("decoder.blocks.{n}", "decoder_blocks.{n}", "joined"),
        *module_rules("decoder.norm", "decoder_norm"),
        *module_rules("decoder.head", "decoder_pred"),
    ]
    if predictor:
        head = "decoder_pred_losspred"
        rules += [
            *block_rules("predictor.blocks.{n}", "decoder_blocks_losspred.{n}", "joined"),
            *module_rules("predictor.norm", "decoder_norm_losspred"),
            Rule("predictor.head.weight", (f"{head}.weight",), AVERAGED_HEAD),
            Rule("predictor.head.bias", (f"{head}.bias",), AVERAGED_HEAD),
        ]
    return rules


def read(source: Source, report: ConversionReport, options: ReadOptions) -> Weights:
    """The autoencoder in an MAE or HPM file, and HPM's teacher."""
    if options.weights == "ema":
        if source.ema is None:
            raise UserError(f"{source.path}: holds no moving average (ema_state_dict)")
        source.tensors, source.ema = source.ema, None
    tensors = source.tensors
    predictor = "decoder_pred_losspred.weight" in tensors
    rules = rules_for(predictor)
    config = _config(source, predictor, report, options)
    config, positions = _positions(source, tensors, config, report)
    found = read_by(rules, tensors, expected_shapes(config), grid_of(config), report)
    weights = Weights(config, found | positions)
    weights.tensors = verify_all_accounted(weights, set(tensors), report, options)
    if predictor and source.ema is not None:
        weights.teacher = _teacher(source, source.ema, config, rules, report, options)
    elif source.ema is not None:
        report.note("the moving average is left out: without a loss predictor it is no teacher")
    return weights


def _config(
    source: Source, predictor: bool, report: ConversionReport, options: ReadOptions
) -> MAEConfig:
    """The configuration, from shapes; the encoder's positions are still to be found."""
    tensors = source.tensors
    encoder = replace(encoder_config(source, report, options), patch_init="xavier")
    width = shape_of(tensors, "decoder_embed.weight", source.path, 2)[0]
    hidden = shape_of(tensors, "decoder_blocks.0.mlp.fc1.weight", source.path, 2)[0]
    heads = options.decoder_heads or source.hint.get("decoder_heads")
    normed = source.args.get("norm_pix_loss", not predictor)
    target = source.hint.get("target") or ("joint" if normed else "raw")
    report.note(f"target: {target}, as {'MAE' if target == 'joint' else 'HPM'} trains")
    decoder = DecoderConfig(
        dim=width,
        depth=depth_of(tensors, "decoder_blocks"),
        heads=heads_of(width, heads, MAE_DECODER_HEADS, "decoder_heads", report),
        mlp_ratio=ratio_of(hidden, width),
        projection_bias=True,
    )
    unit = source.hint.get("predictor_unit")
    twin = PredictorConfig(
        unit=unit if unit in PREDICTORS else "token",
        depth=depth_of(tensors, "decoder_blocks_losspred"),
    )
    return MAEConfig(
        encoder=encoder, decoder=decoder, predictor=twin if predictor else None, target=target
    )


def _positions(
    source: Source, tensors: dict[str, Tensor], config: MAEConfig, report: ConversionReport
) -> tuple[MAEConfig, dict[str, Tensor]]:
    """Both tables must be the computed ones: an autoencoder here has fixed positions."""
    encoder, found = read_positions(source, tensors, "encoder.", config.encoder, report)
    rows = table_of(tensors, "decoder_pos_embed", source.path, config.decoder.dim)
    grid, prefixed = grid_of(encoder), encoder.num_prefix_tokens
    skip = prefixed if len(rows) == grid.num_tokens + prefixed else 0
    name = "pos_embed"
    if encoder.position != "learned":
        name = "decoder_pos_embed"
        fixed = is_table(rows[skip:], "sincos_2d", grid, name, report)
        if fixed and not rows[:skip].any():
            return replace(config, encoder=encoder), found
    raise UserError(
        f"{source.path}: {name} is not MAE's fixed table; only encoders and classifiers here can "
        "have a learned one (leave out the decoder_* and mask_token tensors)"
    )


def _teacher(
    source: Source,
    ema: dict[str, Tensor],
    config: MAEConfig,
    rules: list[Rule],
    report: ConversionReport,
    options: ReadOptions,
) -> dict[str, Tensor]:
    """The encoder and predictor of the moving average, accounted for under its own name."""
    own = ConversionReport(f"{source.path} (ema_state_dict)")
    config, positions = _positions(source, ema, config.for_teacher(), own)
    found = read_by(rules, ema, expected_shapes(config), grid_of(config), own)
    pixels = ("decoder_blocks.", "decoder_norm.", "decoder_pred.")
    own.left_over |= {n: TEACHER_ALONE for n in ema if n.startswith(pixels)}
    weights = Weights(config, found | positions)
    tensors = verify_all_accounted(weights, set(ema), own, options)
    report.loaded |= {f"ema: {name}": parts for name, parts in own.loaded.items()}
    report.left_over |= {f"ema: {name}": why for name, why in own.left_over.items()}
    return tensors


def write(weights: Weights, folder: Path, report: ConversionReport) -> None:
    """checkpoint.pth: MAE's ``model``, or HPM's ``state_dict`` and ``ema_state_dict``.

    Encoders and classifiers are written as MAE writes its own. Raises UserError for a model that
    image MAE cannot be.
    """
    config = weights.config
    if not isinstance(config, MAEConfig):
        tree = {"model": timm.encoder_tensors(weights, NAME, report)}
    else:
        _refuse(config, weights.grid)
        predictor = config.predictor is not None
        rules = rules_for(predictor)
        entry = "state_dict" if predictor else "model"
        tree = {entry: _autoencoder(weights, weights.tensors, config, rules, report)}
        if weights.teacher is not None:
            tree["ema_state_dict"] = _autoencoder(weights, weights.teacher, config, rules, report)
            report.note("ema_state_dict has no pixel decoder: the teacher here has none")
    report.written = sum(len(tensors) for tensors in tree.values())
    note_eps(config, NAME, report)
    torch.save(tree | {"videohpm": hints(config)}, folder / "checkpoint.pth")


def _refuse(config: MAEConfig, grid: TokenGrid) -> None:
    encoder = config.encoder
    for holds, name, why in (
        (grid.t == 1 and grid.tubelet == 1, "frames", "it is for images, one frame in a tubelet"),
        (encoder.class_token, "class_token", "it has a class token"),
        (encoder.position == "sincos_2d", "position", "it has sincos_2d positions"),
        (config.decoder.projection_bias, "projection_bias", "its projection has a bias"),
        (config.pixel_decoder, "pixel_decoder", "it needs one"),
    ):
        refuse_unless(holds, NAME, name, f"{why}; the encoder alone may fit")
    refuse_features(config, NAME)


def _autoencoder(
    weights: Weights,
    tensors: dict[str, Tensor],
    config: MAEConfig,
    rules: list[Rule],
    report: ConversionReport,
) -> dict[str, Tensor]:
    """The tensors of a student or teacher under MAE's names, position tables included."""
    table = position_table("sincos_2d", weights.grid, config.decoder.dim)
    first = torch.zeros(config.encoder.num_prefix_tokens, config.decoder.dim)
    return write_by(rules, tensors, weights.grid, report) | {
        "pos_embed": timm.table_for(weights),
        "decoder_pos_embed": torch.cat([first, table])[None],
    }
