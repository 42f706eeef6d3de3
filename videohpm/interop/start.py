"""What a pre-training starts from: weights of any layout, fitted to the clips of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from videohpm.checkpoint import going_on_from
from videohpm.compat import upgrade_config
from videohpm.config import DecoderConfig, MAEConfig, ViTConfig
from videohpm.config.model import model_fields
from videohpm.errors import ConfigError, UserError
from videohpm.grid import TokenGrid
from videohpm.interop.convert import read_weights
from videohpm.interop.core import Weights
from videohpm.interop.report import ConversionReport, grouped
from videohpm.models import MaskedAutoencoder
from videohpm.models.adapt import adapt_tensor
from videohpm.models.build import kind_of

FIELD = "model.init"
FIXED = ("patch", "dim", "depth", "heads", "mlp_ratio", "position", "class_token")
"""Of an encoder, what weights cannot change."""
PIXELS = ("mean", "std")
HEAD = ("decoder.head.weight", "decoder.head.bias")


@dataclass
class StartReport:
    """What became of every tensor of ``model.init``, and where every tensor of the run is from."""

    source: ConversionReport
    loaded: list[str] = field(default_factory=list)
    adapted: dict[str, str] = field(default_factory=dict)
    """Tensor → how it was fitted to the clips of the run."""
    new: dict[str, str] = field(default_factory=dict)
    """Tensor of the run that starts anew → why."""
    left_out: dict[str, str] = field(default_factory=dict)
    """Tensor of the weights that the run does not take → why."""

    def __str__(self) -> str:
        source = self.source
        lines = [
            f"{FIELD}: {source.source} ({source.layout}, {len(source.loaded)} tensors)",
            *grouped("not read", source.left_over),
            *grouped("missing there", source.missing),
            *(f"note: {text}" for text in source.notes),
            f"loaded: {len(self.loaded)} tensors",
            *grouped("adapted", self.adapted),
            *grouped("new", self.new),
            *grouped("left out", self.left_out),
        ]
        return "\n".join(lines)


def init_defaults(config: Any) -> dict[str, Any]:
    """Fields, by dotted name, that follow from the weights in ``model.init``.

    Defaults of a pre-training where the user says nothing else. Where the run goes on from a
    checkpoint they are those that it began with, and the weights are not read.

    Args:
        config: sections ``model`` and ``run``, as parsed.

    Raises UserError where there are no weights, or they cannot be read.
    """
    if config.model.init is None:
        return {}
    begun = going_on_from(Path(config.run.dir), config.run.resume)
    if begun is not None:
        return _fields_of_run(begun)
    weights, _ = read_init(config.model.init)
    model = weights.config
    fields = {f"model.{name}": value for name, value in model_fields(model).items()}
    if isinstance(model, MAEConfig) and model.predictor is not None:
        fields["hpm.predictor_depth"] = model.predictor_depth
    known = {name: weights.extra.get(name) for name in PIXELS}
    return fields | {f"data.{n}": tuple(v) for n, v in known.items() if isinstance(v, list)}


def _fields_of_run(state: Mapping[str, Any]) -> dict[str, Any]:
    """The same of a run that has begun, as its checkpoint has its configuration."""
    sections = upgrade_config(state.get("config", {}))
    model, data = sections.get("model", {}), sections.get("data", {})
    chosen = ("init", "init_parts", "target_encoder", "target_loss", "drop_path")
    fields = {f"model.{name}": value for name, value in model.items() if name not in chosen}
    if "predictor_depth" in sections.get("hpm", {}):
        fields["hpm.predictor_depth"] = sections["hpm"]["predictor_depth"]
    return fields | {f"data.{name}": tuple(data[name]) for name in PIXELS if name in data}


def read_init(source: str) -> tuple[Weights, ConversionReport]:
    """The weights that ``model.init`` means, in any layout.

    Raises UserError naming the field, also for position embeddings that are parameters.
    """
    try:
        weights, report = read_weights(source)
    except UserError as error:
        text = str(error).replace("; give --", "; convert it first: videohpm convert with --")
        raise UserError(f"{FIELD}: {text}") from None
    if weights.encoder_config.position == "learned":
        raise UserError(
            f"{FIELD}: {source} has learned positions, and pre-training computes its own; give "
            "weights with fixed ones, such as those of VideoMAE or MAE"
        )
    return weights, report


def start_from(
    model: MaskedAutoencoder,
    source: str,
    parts: str = "all",
    pixels: Mapping[str, Sequence[float]] | None = None,
) -> StartReport:
    """Put the weights of ``source`` into ``model``; what they do not have stays as it is.

    Args:
        model: made for the clips of the run: frames, image size and tubelet may differ.
        source: what ``model.init`` names.
        parts: all, decoder (encoder and decoder) or encoder.
        pixels: mean and std of the run; the report notes where the weights learned others.

    Raises UserError, naming the field, where the encoder is another.
    """
    weights, found = read_init(source)
    check_encoder(model.config.encoder, weights.encoder_config, source)
    report, old, new = StartReport(found), weights.grid, model.grid
    left = _parts_left_out(model.config, weights, parts)
    prefix = "" if weights.prefix else "encoder."
    state = model.state_dict()
    taken: dict[str, Tensor] = {}
    for own, tensor in weights.tensors.items():
        name = f"{prefix}{own}"
        why = left.get(_part(name)) or left.get(name)
        if why is None and name not in state:
            why = "this autoencoder has none"
        if why is None:
            taken[name], how = _adapted(name, tensor, old, new)
            if how is not None:
                report.adapted[name] = how
            else:
                report.loaded.append(name)
        else:
            report.left_out[own] = why
    for name in weights.teacher or ():
        report.left_out[f"teacher: {name}"] = "the teacher starts as the student starts"
    for name in state.keys() - taken.keys():
        report.new[name] = left.get(_part(name)) or left.get(name) or "the weights have none"
    report.new = {name: report.new[name] for name in state if name in report.new}
    model.load_state_dict(taken, strict=False)
    for name, given in (pixels or {}).items():
        if list(given) != list(weights.extra.get(name, given)):
            found.note(f"data.{name}: {given}, the weights were trained with {weights.extra[name]}")
    if (old.t, old.h, old.w) != (new.t, new.h, new.w):
        sizes = [f"{grid.t}x{grid.h}x{grid.w}" for grid in (old, new)]
        found.note(f"positions are computed for {sizes[1]} tokens; the weights know {sizes[0]}")
    return report


def check_encoder(config: ViTConfig, own: ViTConfig, source: str) -> None:
    """UserError, naming the field, where weights of ``own`` do not fit an encoder of ``config``."""
    for name in FIXED:
        wanted, has = getattr(config, name), getattr(own, name)
        if name == "mlp_ratio":
            wanted, has = (int(each.dim * each.mlp_ratio) / each.dim for each in (config, own))
        if wanted != has:
            also = ", and model.arch" if name in ("dim", "depth", "heads", "mlp_ratio") else ""
            raise ConfigError(f"model.{name}: {wanted}, but {source} has {has}; leave it out{also}")


def _part(name: str) -> str:
    """encoder, decoder or predictor; empty for the head of a classifier."""
    if name.startswith("encoder."):
        return "encoder"
    if name.startswith(("decoder.", "decoder_embed.")) or name == "mask_token":
        return "decoder"
    return "predictor" if name.startswith("predictor.") else ""


def _parts_left_out(config: MAEConfig, weights: Weights, parts: str) -> dict[str, str]:
    """Parts, and single tensors, that are not taken → why."""
    left = {"": "an autoencoder has no classes"}
    own = weights.config
    if not isinstance(own, MAEConfig):
        none = f"a {kind_of(own)} has none"
        return left | {"decoder": none, "predictor": none}
    if parts == "encoder":
        asked = f"{FIELD}_parts: encoder"
        return left | {"decoder": asked, "predictor": asked}
    other = _difference(config.decoder, own.decoder)
    if other:
        left |= {"decoder": other, "predictor": other}
    elif not own.pixel_decoder:
        left |= dict.fromkeys(HEAD, "a teacher has no pixel decoder")
    else:
        left |= _head_left_out(config, own)
    if parts == "decoder":
        left["predictor"] = f"{FIELD}_parts: decoder"
    elif config.predictor is None:
        left["predictor"] = "hpm.enabled is false"
    elif own.predictor is None:
        left["predictor"] = "the weights have none"
    elif config.predictor_depth != own.predictor_depth:
        depths = f"{own.predictor_depth} there, {config.predictor_depth} here"
        left.setdefault("predictor", f"hpm.predictor_depth: {depths}")
    return left


def _head_left_out(config: MAEConfig, own: MAEConfig) -> dict[str, str]:
    """The decoder's head is taken where it predicts the same."""
    if config.target != own.target or bool(config.target_dim) != bool(own.target_dim):
        why = f"model.target: {own.target} there, {config.target} here"
    elif config.target_dim != own.target_dim:
        why = f"it predicts {own.target_dim} features there, {config.target_dim} here"
    else:
        return {}
    return dict.fromkeys(HEAD, why)


def _difference(config: DecoderConfig, own: DecoderConfig) -> str | None:
    """In what two decoders differ, by the name of the field; None where weights fit both."""
    for name in ("dim", "depth", "heads"):
        wanted, has = getattr(config, name), getattr(own, name)
        if wanted != has:
            return f"model.decoder_{name}: {has} there, {wanted} here"
    if int(config.dim * config.mlp_ratio) != int(own.dim * own.mlp_ratio):
        return f"model.decoder_mlp_ratio: {own.mlp_ratio} there, {config.mlp_ratio} here"
    return None


def _adapted(
    name: str, tensor: Tensor, old: TokenGrid, new: TokenGrid
) -> tuple[Tensor, str | None]:
    """A tensor for the clips of the run, and how that was done where they differ."""
    try:
        adapted = adapt_tensor(name, tensor, old, new)
    except ValueError as error:
        raise ConfigError(f"model.{error}") from None
    same = adapted is tensor
    return adapted, None if same else f"tubelets of {old.tubelet} there, {new.tubelet} here"
