"""The masked autoencoder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from videohpm.config.architecture import (
    Architecture,
    DecoderConfig,
    MAEConfig,
    ViTConfig,
    encoder_of,
)
from videohpm.config.checks import Section
from videohpm.config.sizes import SIZES, ViTSize
from videohpm.errors import ConfigError
from videohpm.grid import TokenGrid

TARGETS = ("raw", "per_channel", "joint", "frozen_encoder", "ema_encoder")
TOKEN_LOSSES = ("mse", "smooth_l1", "cosine")
PATCH_INITS = ("default", "xavier")
FIXED_POSITIONS = ("sincos_1d", "sincos_2d")
PIXEL_TARGETS = ("raw", "per_channel", "joint")
INIT_PARTS = ("all", "decoder", "encoder")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The masked autoencoder.

    Args:
        init: weights to start from, in any layout that videohpm convert reads: a run (its best
            weights, else its newest checkpoint), a checkpoint, an export, a file of VideoMAE or
            MAE, a folder of Hugging Face. On the command line and in recipes, fields of model that
            are left out, hpm.predictor_depth, data.mean and data.std are then those of the weights;
            frames, image_size and tubelet may be others. A run that goes on does not read them.
        init_parts: all (encoder, decoder and loss predictor, as far as init has them), decoder
            (encoder and decoder) or encoder. What is not taken starts anew.
        arch: vit_tiny, vit_small, vit_base, vit_large, vit_huge or vit_giant.
        frames: frames of a clip; 1, with tubelet 1, is the image mode.
        image_size: pixels; one number for squares, or [height, width].
        patch: pixels, side of a patch.
        tubelet: frames one token spans.
        dim: encoder width, instead of the size's.
        depth: encoder blocks, instead of the size's.
        heads: encoder attention heads, instead of the size's.
        decoder_dim: decoder width, instead of the size's.
        decoder_depth: decoder blocks, instead of the size's.
        decoder_heads: decoder attention heads, instead of the size's.
        mlp_ratio: width of the encoder's MLPs over its own, instead of the size's.
        decoder_mlp_ratio: the same of the decoder.
        norm_eps: eps of every LayerNorm; empty: 1e-6 (Hugging Face's VideoMAE: 1e-12).
        head_norm_eps: eps of the norm before the decoder's head; empty: norm_eps (Hugging Face's
            VideoMAE: 1e-5).
        final_norm: LayerNorm after the last encoder block.
        position: sincos_1d over the flat token number (VideoMAE) or sincos_2d (MAE, HPM).
        class_token: put a class token before the tokens (MAE, HPM).
        projection_bias: bias in the encoder-to-decoder projection (MAE, HPM).
        patch_init: initial weights of the patch embedding, the projection to decoder width and the
            mask token: default (VideoMAE) or xavier (MAE, HPM).
        drop_path: stochastic depth of the last encoder block.
        target: what is predicted: pixels, raw (HPM as published), per_channel (VideoMAE) or joint
            (MAE with normalised pixels); frozen_encoder, the features of target_encoder; or
            ema_encoder, those of the teacher's encoder, the moving average of the model's own.
            Features are of the whole clip, standardised over the values of each token.
        target_encoder: whose features frozen_encoder means: a run, a folder or file of weights in
            any layout that videohpm convert reads, or timm:NAME for an image model of timm, which
            may be timm:local-dir:FOLDER. It must have this model's tokens, or one of images the
            tokens of a frame; then it sees the first frame of each time step.
        target_loss: mse (squared error), smooth_l1 (Huber's, of errors from 1 on) or cosine.
    """

    init: str | None = None
    init_parts: str = "all"
    arch: str = "vit_base"
    frames: int = 16
    image_size: int | list[int] = 224
    patch: int = 16
    tubelet: int = 2
    dim: int | None = None
    depth: int | None = None
    heads: int | None = None
    decoder_dim: int | None = None
    decoder_depth: int | None = None
    decoder_heads: int | None = None
    mlp_ratio: float | None = None
    decoder_mlp_ratio: float | None = None
    norm_eps: float | None = None
    head_norm_eps: float | None = None
    final_norm: bool = True
    position: str = "sincos_1d"
    class_token: bool = False
    projection_bias: bool = False
    patch_init: str = "default"
    drop_path: float = 0.0
    target: str = "per_channel"
    target_encoder: str | None = None
    target_loss: str = "mse"

    def __post_init__(self):
        check = Section(self, "model")
        check.choice("init_parts", INIT_PARTS)
        check.choice("arch", SIZES)
        check.choice("position", FIXED_POSITIONS)
        check.above_zero("mlp_ratio", "decoder_mlp_ratio")
        check.at_least(0, "norm_eps", "head_norm_eps")
        check.choice("target", TARGETS)
        check.choice("target_loss", TOKEN_LOSSES)
        if (self.target == "frozen_encoder") != bool(self.target_encoder):
            raise ConfigError(
                "model.target_encoder: give one with model.target frozen_encoder, and only then"
            )
        check.choice("patch_init", PATCH_INITS)
        check.at_least(1, "frames", "patch", "tubelet", "dim", "depth", "heads")
        check.at_least(1, "decoder_dim", "decoder_depth", "decoder_heads")
        check.fraction("drop_path", one=False)
        check.image_size("image_size")
        size = SIZES[self.arch]
        for width_field, heads_field in (("dim", "heads"), ("decoder_dim", "decoder_heads")):
            width = getattr(self, width_field) or getattr(size, width_field)
            heads = getattr(self, heads_field) or getattr(size, heads_field)
            if width % heads or (self.position == "sincos_2d" and width % 4):
                raise ConfigError(
                    f"model.{width_field}: {width} must be a multiple of model.{heads_field} "
                    f"({heads}), and of 4 for sincos_2d"
                )
        try:
            self.grid()
        except ValueError as error:
            raise ConfigError(f"model.{error}; change one of them") from None

    def architecture(self) -> dict[str, Any]:
        """The fields that the model is built from, by name."""
        others = ("init", "init_parts", "target_encoder", "target_loss")
        return {name: value for name, value in vars(self).items() if name not in others}

    def grid(self) -> TokenGrid:
        """The grid of tokens of one clip."""
        size = self.image_size
        height, width = (size, size) if isinstance(size, int) else size
        return TokenGrid.of_clip(self.frames, height, width, self.tubelet, self.patch)


def model_fields(config: Architecture) -> dict[str, Any]:
    """The fields of :class:`ModelConfig` that make the autoencoder which ``config`` describes.

    What ``config`` does not say (an encoder says nothing of a decoder) and what is as by default
    for its size is left out.
    """
    encoder = encoder_of(config)
    names = ("frames", "image_size", "patch", "tubelet", "position", "class_token", "norm_eps")
    fields: dict[str, Any] = {name: getattr(encoder, name) for name in names}
    if isinstance(encoder.image_size, tuple):
        fields["image_size"] = list(encoder.image_size)
    arch = next((name for name, size in SIZES.items() if _is_size(encoder, size)), None)
    if arch is None:
        fields |= {name: getattr(encoder, name) for name in ("dim", "depth", "heads", "mlp_ratio")}
    else:
        fields["arch"] = arch
    if isinstance(config, MAEConfig):
        fields |= _decoder_fields(config.decoder, SIZES[arch or ModelConfig.arch])
        fields |= {"final_norm": encoder.final_norm, "patch_init": encoder.patch_init}
        if config.target in PIXEL_TARGETS:
            fields["target"] = config.target
    return fields


def _is_size(encoder: ViTConfig, size: ViTSize) -> bool:
    same = all(getattr(encoder, name) == getattr(size, name) for name in ("dim", "depth", "heads"))
    return same and int(encoder.dim * encoder.mlp_ratio) == int(size.dim * size.mlp_ratio)


def _decoder_fields(decoder: DecoderConfig, size: ViTSize) -> dict[str, Any]:
    usual = {"decoder_dim": size.decoder_dim, "decoder_depth": size.decoder_depth}
    usual |= {"decoder_heads": size.decoder_heads, "decoder_mlp_ratio": DecoderConfig.mlp_ratio}
    own = {name: getattr(decoder, name.removeprefix("decoder_")) for name in usual}
    fields = {name: value for name, value in own.items() if value != usual[name]}
    fields["projection_bias"] = decoder.projection_bias
    if decoder.head_norm_eps is not None:
        fields["head_norm_eps"] = decoder.head_norm_eps
    return fields
