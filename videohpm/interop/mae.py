"""MAE and image HPM ``.pth``: 2-D patches, joint qkv bias, position tables in the file."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from videohpm.errors import UserError
from videohpm.interop import timm
from videohpm.interop.core import (
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
    table_of,
    verify_all_accounted,
)
from videohpm.interop.files import Source
from videohpm.interop.report import ConversionReport
from videohpm.interop.rules import AVERAGED_HEAD, SAME, Rule, read_by, same, write_by
from videohpm.interop.timm import encoder_arguments, encoder_rules, read_positions
from videohpm.interop.videomae import block_rules
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
    """Which of MAE's tensors make up which of ours, with HPM's second decoder or without."""
    rules = [
        *encoder_rules("encoder."),
        *same("decoder_embed", "decoder_embed"),
        Rule("mask_token", ("mask_token",), SAME),
        *block_rules("decoder.blocks.{n}", "decoder_blocks.{n}", "joined"),
        *same("decoder.norm", "decoder_norm"),
        *same("decoder.head", "decoder_pred"),
    ]
    if predictor:
        head = "decoder_pred_losspred"
        rules += [
            *block_rules("predictor.blocks.{n}", "decoder_blocks_losspred.{n}", "joined"),
            *same("predictor.norm", "decoder_norm_losspred"),
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
    model = encoder_arguments(source, report, options)
    model |= _decoder_arguments(source, predictor, report, options)
    rules = rules_for(predictor)
    places = _positions(source, tensors, model, report)
    kind = "MaskedAutoencoder"
    mine = read_by(rules, tensors, expected_shapes(kind, model), grid_of(model), report)
    weights = Weights(kind, model, mine | places)
    weights.tensors = verify_all_accounted(weights, set(tensors), report, options)
    if predictor and source.ema is not None:
        weights.teacher = _teacher(source, model, rules, report, options)
    elif source.ema is not None:
        report.note("the moving average is left out: without a loss predictor it is no teacher")
    return weights


def _decoder_arguments(
    source: Source, predictor: bool, report: ConversionReport, options: ReadOptions
) -> dict:
    tensors = source.tensors
    width = shape_of(tensors, "decoder_embed.weight", source.path, 2)[0]
    hidden = shape_of(tensors, "decoder_blocks.0.mlp.fc1.weight", source.path, 2)[0]
    heads = options.decoder_heads or source.hint.get("decoder_heads")
    normed = source.args.get("norm_pix_loss", not predictor)
    target = source.hint.get("target") or ("joint" if normed else "raw")
    report.note(f"target: {target}, as {'MAE' if target == 'joint' else 'HPM'} trains")
    return {
        "decoder_dim": width,
        "decoder_depth": depth_of(tensors, "decoder_blocks"),
        "decoder_heads": heads_of(width, heads, MAE_DECODER_HEADS, "decoder_heads", report),
        "decoder_mlp_ratio": ratio_of(hidden, width),
        "projection_bias": True,
        "target": target,
        "patch_init": "xavier",
        "predictor_unit": (source.hint.get("predictor_unit") or "token") if predictor else None,
        "predictor_depth": depth_of(tensors, "decoder_blocks_losspred") if predictor else None,
    }


def _positions(
    source: Source, tensors: dict[str, Tensor], model: dict, report: ConversionReport
) -> dict[str, Tensor]:
    """Both tables must be the ones we compute: an autoencoder here has fixed positions."""
    places = read_positions(source, tensors, "encoder.", model, report)
    rows = table_of(tensors, "decoder_pos_embed", source.path, model["decoder_dim"])
    skip = 1 if model["class_token"] and len(rows) == grid_of(model).num_tokens + 1 else 0
    name = "pos_embed"
    if model["position"] != "learned":
        name = "decoder_pos_embed"
        fixed = is_table(rows[skip:], "sincos_2d", grid_of(model), name, report)
        if fixed and not rows[:skip].any():
            return places
    raise UserError(
        f"{source.path}: {name} is not MAE's fixed table; only encoders and classifiers here can "
        "have a learned one (leave out the decoder_* and mask_token tensors)"
    )


def _teacher(
    source: Source, model: dict, rules: list[Rule], report: ConversionReport, options: ReadOptions
) -> dict[str, Tensor]:
    """The encoder and predictor of the moving average, accounted for under its own name."""
    lean = model | {"pixel_decoder": False}
    own = ConversionReport(f"{source.path} (ema_state_dict)")
    places = _positions(source, source.ema, dict(lean), own)
    shapes = expected_shapes("MaskedAutoencoder", lean)
    mine = read_by(rules, source.ema, shapes, grid_of(lean), own)
    pixels = ("decoder_blocks.", "decoder_norm.", "decoder_pred.")
    own.left_over |= {n: TEACHER_ALONE for n in source.ema if n.startswith(pixels)}
    weights = Weights("MaskedAutoencoder", lean, mine | places)
    tensors = verify_all_accounted(weights, set(source.ema), own, options)
    for mine_to, theirs in ((report.loaded, own.loaded), (report.left_over, own.left_over)):
        mine_to |= {f"ema: {name}": what for name, what in theirs.items()}
    return tensors


def write(weights: Weights, folder: Path, report: ConversionReport) -> None:
    """checkpoint.pth: MAE's ``model``, or HPM's ``state_dict`` and ``ema_state_dict``.

    Encoders and classifiers are written as MAE writes its own. Raises UserError for a model that
    image MAE cannot be.
    """
    if weights.kind != "MaskedAutoencoder":
        tree = {"model": timm.encoder_tensors(weights, NAME, report)}
    else:
        _refuse(weights)
        predictor = weights.model.get("predictor_unit") is not None
        rules = rules_for(predictor)
        entry = "state_dict" if predictor else "model"
        tree = {entry: _autoencoder(weights, weights.tensors, rules, report)}
        if weights.teacher is not None:
            tree["ema_state_dict"] = _autoencoder(weights, weights.teacher, rules, report)
            report.note("ema_state_dict has no pixel decoder: the teacher here has none")
    report.written = sum(len(tensors) for tensors in tree.values())
    note_eps(weights.model, NAME, report)
    torch.save(tree | {"videohpm": weights.model}, folder / "checkpoint.pth")


def _refuse(weights: Weights) -> None:
    model, grid = weights.model, weights.grid
    for holds, name, why in (
        (grid.t == 1 and grid.tubelet == 1, "frames", "it is for images, one frame in a tubelet"),
        (model.get("class_token"), "class_token", "it has a class token"),
        (model.get("position") == "sincos_2d", "position", "it has sincos_2d positions"),
        (model.get("projection_bias"), "projection_bias", "its projection has a bias"),
        (model.get("pixel_decoder", True), "pixel_decoder", "it needs one"),
    ):
        refuse_unless(holds, NAME, name, f"{why}; the encoder alone may fit")


def _autoencoder(
    weights: Weights, tensors: dict[str, Tensor], rules: list[Rule], report: ConversionReport
) -> dict[str, Tensor]:
    theirs = write_by(rules, tensors, weights.grid, report)
    table = position_table("sincos_2d", weights.grid, weights.model["decoder_dim"])
    first = torch.zeros(1, table.shape[1])
    theirs["pos_embed"] = timm.table_for(weights)
    theirs["decoder_pos_embed"] = torch.cat([first, table])[None]
    return theirs
