"""The masked autoencoder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from videohpm.config.architecture import POSITIONS
from videohpm.config.checks import Section
from videohpm.config.sizes import SIZES
from videohpm.errors import ConfigError
from videohpm.grid import TokenGrid

TARGETS = ("raw", "per_channel", "joint", "frozen_encoder", "ema_encoder")
TOKEN_LOSSES = ("mse", "smooth_l1", "cosine")
PATCH_INITS = ("default", "xavier")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The masked autoencoder.

    Args:
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
        check.choice("arch", SIZES)
        check.choice("position", POSITIONS)
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
        of_loss = ("target_encoder", "target_loss")
        return {name: value for name, value in vars(self).items() if name not in of_loss}

    def grid(self) -> TokenGrid:
        """The grid of tokens of one clip."""
        size = self.image_size
        height, width = (size, size) if isinstance(size, int) else size
        return TokenGrid.of_clip(self.frames, height, width, self.tubelet, self.patch)
