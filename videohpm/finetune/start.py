"""The classifier that a fine-tuning run starts from."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

from videohpm import checkpoint, hub
from videohpm.config import ClassifierConfig, FinetuneConfig
from videohpm.errors import UserError
from videohpm.interop import native
from videohpm.interop.convert import read_weights
from videohpm.interop.core import Weights
from videohpm.interop.report import ConversionReport
from videohpm.models import VideoClassifier, VideoClassifierConfig, VideoViT, ViTConfig, vit_config
from videohpm.models.adapt import adapt_encoder

SIZE = ("dim", "depth", "heads")
FIXED = ("patch", *SIZE, "position", "class_token")
"""What weights cannot change, but that fixed positions can become learned."""
ENCODER = ("frames", "image_size", "tubelet", *FIXED)
PIXELS = ("mean", "std")
"""How pixels in 0..1 are normalised."""
_log = logging.getLogger(__name__)


def start_classifier(
    config: ClassifierConfig, classes: int, checkpoint_activations: bool = False
) -> VideoClassifier:
    """A classifier with the encoder of ``config.init``, or with fresh weights.

    Args:
        checkpoint_activations: recompute blocks in the backward pass, to save memory.

    Raises UserError where the weights do not fit what else ``config`` says.
    """
    given = {name: getattr(config, name) for name in ENCODER if getattr(config, name) is not None}
    if isinstance(given.get("image_size"), list):
        given["image_size"] = tuple(given["image_size"])
    encoder = None
    try:
        if config.init is None:
            shape = vit_config(config.arch or "vit_base", **given)
        else:
            encoder = _fitting_encoder(config, config.init, given)
            shape = replace(encoder.config, patch_init="default")
            _check_arch(config.arch, given, shape, config.init)
        classifier = VideoClassifierConfig(
            encoder=replace(shape, drop_path=config.drop_path),
            classes=classes,
            pool=config.pool,
            head_dropout=config.head_dropout,
            head_scale=config.head_scale,
        )
        model = VideoClassifier(classifier, checkpoint_activations)
    except ValueError as error:
        raise UserError(f"model.{error}") from None
    if encoder is not None and not config.scratch:
        model.encoder.load_state_dict(encoder.state_dict())
    if config.freeze:
        model.freeze_encoder()
    return model


def init_defaults(config: Any) -> dict[str, Any]:
    """``data.mean`` and ``data.std`` of the weights in ``model.init``, as far as known.

    Defaults of a fine-tuning where the user says nothing else. Raises UserError where there are no
    weights.

    Args:
        config: with the section ``model``, as parsed.
    """
    model = config.model
    if model.init is None or model.scratch:
        return {}
    foreign = _foreign(model.init)
    if foreign is not None:
        metadata = foreign.extra
    else:
        metadata = checkpoint.read_described(checkpoint.find_weights(model.init))
    known = {name: metadata.get(name) for name in PIXELS}
    return {f"data.{name}": tuple(v) for name, v in known.items() if isinstance(v, list)}


def _foreign(path: str) -> Weights | None:
    """The weights of a file or folder in a layout that is not ours; None for one of ours."""
    place = hub.resolve(path)
    described = place.is_file() or (place / "config.json").is_file()
    if place.name == "model.safetensors" or not described or native.find(place) is not None:
        return None
    return read_weights(place)[0]


def warn_of_pixels(config: FinetuneConfig) -> None:
    """Warns where pixels are not normalised as the weights of ``model.init`` learned them."""
    for name, known in init_defaults(config).items():
        given = getattr(config.data, name.removeprefix("data."))
        if tuple(given) != known:
            _log.warning(
                "%s: %s, but the weights of %s were trained with %s",
                *(name, given, config.model.init, known),
            )


def _fitting_encoder(config: ClassifierConfig, init: str, given: dict[str, Any]) -> VideoViT:
    """The encoder of ``init``, made for the clips that ``given`` describes."""
    encoder = pretrained_encoder(init, config.weights)
    for name in FIXED:
        own = getattr(encoder.config, name)
        becomes_learned = name == "position" and given.get(name) == "learned"
        if name in given and given[name] != own and not becomes_learned:
            raise UserError(f"model.{name}: {given[name]}, but {init} has {own}; leave it out")
    changes = {name: given.get(name) for name in ("frames", "image_size", "tubelet", "position")}
    return adapt_encoder(encoder, **changes, final_norm=config.pool != "mean")


def _check_arch(arch: str | None, given: dict[str, Any], found: ViTConfig, init: str) -> None:
    """UserError where ``model.arch`` is given, and the weights are of another size."""
    if arch is None:
        return
    wanted = vit_config(arch)
    for name in SIZE:
        if name not in given and getattr(wanted, name) != getattr(found, name):
            raise UserError(
                f"model.arch: {arch} has {name} {getattr(wanted, name)}, but {init} has "
                f"{getattr(found, name)}; leave it out"
            )


def pretrained_encoder(path: str, weights: str = "student") -> VideoViT:
    """The encoder of a run folder (its best weights, else its newest), a checkpoint, an export, or
    a published checkpoint in any layout that ``videohpm convert`` reads.

    Raises UserError where there is none.
    """
    foreign = _foreign(path)
    if foreign is not None:
        if weights == "teacher":
            raise UserError(f"model.weights: {path} holds no teacher; give student")
        encoder = foreign.encoder(ConversionReport(path)).build()
        assert isinstance(encoder, VideoViT)
        return encoder
    folder = checkpoint.find_weights(path)
    if weights == "teacher":
        return checkpoint.load_teacher(folder).model.encoder
    return checkpoint.load_encoder(folder)
