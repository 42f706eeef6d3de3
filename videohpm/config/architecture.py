"""What a model is made of, as plain frozen objects: each model is built from one of these.

VideoViT(ViTConfig), MaskedAutoencoder(MAEConfig), VideoClassifier(VideoClassifierConfig).
:func:`mae_config` and :func:`classifier_config` make one from the name of a size and a few flat
arguments.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from videohpm.config.checks import choice
from videohpm.config.plain import from_plain
from videohpm.config.sizes import size_of
from videohpm.errors import ConfigError
from videohpm.grid import TokenGrid

POSITIONS = ("sincos_1d", "sincos_2d", "learned")
PREDICTORS = ("tube", "token")
POOLS = ("mean", "class_token", "first_token", "attentive")


@dataclass(frozen=True, kw_only=True)
class ViTConfig:
    """An encoder. ``frames=1, tubelet=1`` is the image mode: a frame is a one-step clip.

    Args:
        frames: T.
        image_size: pixels, H = W, or (H, W).
        patch: pixels, side of a patch.
        tubelet: frames a token spans.
        dim: width.
        depth: blocks.
        heads: attention heads of a block.
        mlp_ratio: width of a block's MLP over ``dim``.
        position: ``sincos_1d`` (VideoMAE), ``sincos_2d`` (MAE, HPM), or ``learned``, a parameter
            [N, D] that fine-tuned image models and mae_st have.
        class_token: prepend a learned token (MAE, HPM).
        drop_path: stochastic depth of the last block; earlier ones rise to it linearly.
        final_norm: LayerNorm after the last block.
        patch_init: initial weights of the patch embedding and, in an autoencoder, of the projection
            to decoder width and the mask token: ``default``, torch's and a normal distribution cut
            off at one deviation (VideoMAE), or ``xavier`` and a normal one (MAE, HPM).
        norm_eps: eps of every LayerNorm; Hugging Face's VideoMAE uses 1e-12.
    """

    frames: int = 16
    image_size: int | tuple[int, int] = 224
    patch: int = 16
    tubelet: int = 2
    dim: int = 768
    depth: int = 12
    heads: int = 12
    mlp_ratio: float = 4.0
    position: str = "sincos_1d"
    class_token: bool = False
    drop_path: float = 0.0
    final_norm: bool = True
    patch_init: str = "default"
    norm_eps: float = 1e-6

    @property
    def grid(self) -> TokenGrid:
        """The grid of tokens of a clip. Raises ValueError when the sizes do not fit each other."""
        size = self.image_size
        height, width = (size, size) if isinstance(size, int) else size
        return TokenGrid.of_clip(self.frames, height, width, self.tubelet, self.patch)

    @property
    def num_prefix_tokens(self) -> int:
        """Tokens before those of the clip: 1 with a class token, else 0."""
        return int(self.class_token)


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """The pixel decoder, of which the loss predictor is a twin.

    Args:
        dim: width.
        depth: blocks.
        heads: attention heads of a block.
        mlp_ratio: width of a block's MLP over ``dim`` (VideoMAEv2's giant: 48/11).
        norm_eps: eps of the blocks' LayerNorms.
        head_norm_eps: eps of the norm before the head; None for norm_eps.
        projection_bias: bias in the projection from encoder to decoder width (MAE, HPM).
    """

    dim: int = 384
    depth: int = 4
    heads: int = 6
    mlp_ratio: float = 4.0
    norm_eps: float = 1e-6
    head_norm_eps: float | None = None
    projection_bias: bool = False


@dataclass(frozen=True, kw_only=True)
class PredictorConfig:
    """The loss predictor: a decoder that ends in one score.

    Args:
        unit: ``tube``: one score a tube, or ``token``: one a token, as published.
        depth: blocks; None for as many as the pixel decoder has.
        detach: keep the predictor's gradient from the rest of the model. The paper does not: that
            gradient alone already improves the representation.
    """

    unit: str = "tube"
    depth: int | None = None
    detach: bool = False

    def __post_init__(self):
        choice("predictor_unit", self.unit, PREDICTORS)


@dataclass(frozen=True, kw_only=True)
class MAEConfig:
    """A masked autoencoder.

    Args:
        decoder: also the predictor's width, heads and norms.
        predictor: None for none (VideoMAE).
        target: what the decoder predicts, a name of :data:`videohpm.hpm.TARGETS`.
        target_dim: values it predicts for each token; None for the pixels of a token.
        pixel_decoder: False leaves the pixel decoder out, which is all a teacher needs.
    """

    encoder: ViTConfig = field(default_factory=ViTConfig)
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    predictor: PredictorConfig | None = field(default_factory=PredictorConfig)
    target: str = "per_channel"
    target_dim: int | None = None
    pixel_decoder: bool = True

    @property
    def predictor_depth(self) -> int:
        """Blocks of the loss predictor."""
        own = None if self.predictor is None else self.predictor.depth
        return self.decoder.depth if own is None else own

    def for_teacher(self) -> MAEConfig:
        """The same without what scoring does not need: pixel decoder and stochastic depth."""
        return replace(self, encoder=replace(self.encoder, drop_path=0.0), pixel_decoder=False)


@dataclass(frozen=True, kw_only=True)
class VideoClassifierConfig:
    """An encoder that ends in class scores.

    Args:
        encoder: its ``final_norm`` follows from ``pool``.
        classes: number of classes.
        pool: ``mean`` over all tokens but the class token, ``class_token``, ``attentive`` (an
            :class:`AttentivePool` over all tokens, and fc_norm), or ``first_token`` of a model
            without a class token (Hugging Face's VideoMAE with mean pooling off).
        head_dropout: probability of dropping a pooled feature in training.
        head_scale: factor on the head's initial weights (the published recipes: .001).
        head_norm_eps: eps of fc_norm; None for the encoder's norm_eps.
    """

    classes: int
    encoder: ViTConfig = field(default_factory=ViTConfig)
    pool: str = "mean"
    head_dropout: float = 0.0
    head_scale: float = 0.001
    head_norm_eps: float | None = None

    def __post_init__(self):
        choice("pool", self.pool, POOLS)
        if self.pool == "class_token" and not self.encoder.class_token:
            raise ConfigError("pool: class_token needs a model with a class token")
        if self.pool == "first_token" and self.encoder.class_token:
            raise ConfigError("pool: first_token is for models without a class token")
        encoder = replace(self.encoder, final_norm=self.pool != "mean")
        object.__setattr__(self, "encoder", encoder)


Architecture = ViTConfig | MAEConfig | VideoClassifierConfig


def encoder_of(config: Architecture) -> ViTConfig:
    """The encoder's part of a model's configuration."""
    return config if isinstance(config, ViTConfig) else config.encoder


def with_encoder(config: Architecture, encoder: ViTConfig) -> Architecture:
    """``config`` with another encoder."""
    return encoder if isinstance(config, ViTConfig) else replace(config, encoder=encoder)


def mae_config(arch: str = "vit_base", **changes: Any) -> MAEConfig:
    """The autoencoder of a named size, with what ``changes`` sets instead.

    The names are flat, as in a run's configuration: ``frames`` and all else of :class:`ViTConfig`;
    ``decoder_dim`` and so on of :class:`DecoderConfig`, ``predictor_unit`` and so on of
    :class:`PredictorConfig`; head_norm_eps, projection_bias, target, target_dim and pixel_decoder.
    The decoder has the encoder's norm_eps. None is the default, but ``predictor_unit=None`` is no
    predictor.

    Raises ConfigError naming the argument.
    """
    size, unit = size_of(arch), changes.pop("predictor_unit", "tube")
    encoder, predictor, rest = _encoder_size(arch), {"unit": unit}, {}
    decoder = {"dim": size.decoder_dim, "depth": size.decoder_depth, "heads": size.decoder_heads}
    for name, value in _given(changes).items():
        part, _, own = name.partition("_")
        if part == "decoder":
            decoder[own] = value
        elif part == "predictor":
            predictor[own] = value
        elif name in ("head_norm_eps", "projection_bias"):
            decoder[name] = value
        elif name in ("target", "target_dim", "pixel_decoder"):
            rest[name] = value
        else:
            encoder[name] = value
    if "norm_eps" in encoder:
        decoder.setdefault("norm_eps", encoder["norm_eps"])
    parts = {"encoder": encoder, "decoder": decoder, "predictor": predictor if unit else None}
    return from_plain(MAEConfig, parts | rest)


def vit_config(arch: str = "vit_base", **changes: Any) -> ViTConfig:
    """The encoder of a named size, with what ``changes`` sets instead; None is the default.

    Raises ConfigError naming the argument.
    """
    return from_plain(ViTConfig, _encoder_size(arch) | _given(changes))


def classifier_config(
    arch: str = "vit_base", *, classes: int, **changes: Any
) -> VideoClassifierConfig:
    """The classifier of a named size, with what ``changes`` sets instead.

    The names are flat: those of :class:`ViTConfig`, and pool, head_dropout, head_scale and
    head_norm_eps of :class:`VideoClassifierConfig`. None is the default.

    Raises ConfigError naming the argument.
    """
    encoder, head = _encoder_size(arch), {"classes": classes}
    for name, value in _given(changes).items():
        own = name == "pool" or name.startswith("head_")
        (head if own else encoder)[name] = value
    return from_plain(VideoClassifierConfig, {"encoder": encoder} | head)


def _encoder_size(arch: str) -> dict[str, Any]:
    size = size_of(arch)
    return {name: getattr(size, name) for name in ("dim", "depth", "heads", "mlp_ratio")}


def _given(changes: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in changes.items() if value is not None}
