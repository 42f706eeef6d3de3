"""The masked autoencoder that also predicts how hard each hidden tube is to reconstruct."""

from __future__ import annotations

from dataclasses import asdict
from typing import NamedTuple

import torch
from torch import Tensor, nn

from videohpm.config.hpm import PREDICTORS
from videohpm.config.sizes import size_of
from videohpm.grid import Mask
from videohpm.models.vit import Block, VideoViT, init_linear, position_table, run_blocks


class Output(NamedTuple):
    """What the student says of the hidden tokens."""

    pixels: Tensor
    """(B, K, dim) predicted targets of the masked tokens, in the order of ``mask.decoded``."""
    scores: Tensor | None
    """Predicted hardness, of which only the order counts: (B, M/t) by tube or (B, M) by token."""


class Decoder(nn.Module):
    """Blocks, norm and a linear head that is read at the last ``count`` positions only."""

    def __init__(
        self,
        dim: int,
        depth: int,
        heads: int,
        out: int,
        mlp_ratio: float = 4.0,
        norm_eps: float = 1e-6,
        head_norm_eps: float | None = None,
    ):
        super().__init__()
        self.blocks = nn.ModuleList(
            Block(dim, heads, mlp_ratio, norm_eps=norm_eps) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(dim, eps=norm_eps if head_norm_eps is None else head_norm_eps)
        self.head = nn.Linear(dim, out)
        self.checkpoint = False
        self.apply(init_linear)

    def forward(self, x: Tensor, count: int) -> Tensor:
        x = run_blocks(self.blocks, x, self.checkpoint and self.training, num_queries=count)
        return self.head(self.norm(x))


class MaskedAutoencoder(nn.Module):
    """Encoder + pixel decoder + loss predictor (HPM, sections 3.1 and 3.2; VideoMAE without it).

    The predictor is a twin of the pixel decoder: it shares the projection into decoder width, the
    mask token and the position embedding, and ends in one score instead of pixels. At tube level
    it asks one query a tube (mask token + the mean of the tube's position embeddings); at token
    level one a token, as published. At t = 1 the two are the same.

    Args:
        arch: a name from :mod:`videohpm.models.sizes`; the arguments below it override its numbers.
        frames, image_size, patch, tubelet, position, class_token, drop_path, patch_init,
            checkpoint: see :class:`VideoViT`.
        projection_bias: bias in the encoder-to-decoder projection (MAE and HPM have one).
        target: what the decoder predicts, a name of :data:`videohpm.hpm.TARGETS`.
        target_dim: values it predicts for each token; None for the pixels of a token.
        predictor_unit: ``tube``, ``token`` or None for none (VideoMAE).
        predictor_depth: blocks of the predictor; None for as many as the decoder has.
        predictor_detach: keep the predictor's gradient from the rest of the model. The paper does
            not: that gradient alone already improves the representation.
        pixel_decoder: False leaves the pixel decoder out, which is all a teacher needs.
        decoder_mlp_ratio: of the decoder's and predictor's blocks (VideoMAEv2's giant: 48/11).
        final_norm, norm_eps: see :class:`VideoViT`.
        head_norm_eps: eps of the norms before the heads; None for norm_eps.
    """

    def __init__(
        self,
        arch: str = "vit_base",
        *,
        frames: int = 16,
        image_size: int | tuple[int, int] = 224,
        patch: int = 16,
        tubelet: int = 2,
        dim: int | None = None,
        depth: int | None = None,
        heads: int | None = None,
        decoder_dim: int | None = None,
        decoder_depth: int | None = None,
        decoder_heads: int | None = None,
        mlp_ratio: float | None = None,
        position: str = "sincos_1d",
        class_token: bool = False,
        projection_bias: bool = False,
        target: str = "per_channel",
        target_dim: int | None = None,
        drop_path: float = 0.0,
        patch_init: str = "default",
        predictor_unit: str | None = "tube",
        predictor_depth: int | None = None,
        predictor_detach: bool = False,
        pixel_decoder: bool = True,
        checkpoint: bool = False,
        decoder_mlp_ratio: float = 4.0,
        final_norm: bool = True,
        norm_eps: float = 1e-6,
        head_norm_eps: float | None = None,
    ):
        self_config = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        super().__init__()
        numbers = asdict(size_of(arch))
        numbers |= {k: self_config[k] for k in numbers if self_config[k] is not None}
        self.config = self_config | numbers
        if predictor_unit not in (None, *PREDICTORS):
            raise ValueError(
                f"predictor_unit: {predictor_unit!r} is not one of {', '.join(PREDICTORS)}"
            )
        self.encoder = VideoViT(
            frames, image_size, patch, tubelet, numbers["dim"], numbers["depth"],
            numbers["heads"], numbers["mlp_ratio"], position, class_token, drop_path,
            final_norm=final_norm, patch_init=patch_init, checkpoint=checkpoint, norm_eps=norm_eps,
        )  # fmt: skip
        self.target = target
        self.predictor_unit, self.predictor_detach = predictor_unit, predictor_detach
        grid, width, heads = self.grid, numbers["decoder_dim"], numbers["decoder_heads"]
        depth = numbers["decoder_depth"]
        self.decoder_embed = nn.Linear(numbers["dim"], width, bias=projection_bias)
        init_linear(self.decoder_embed)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        nn.init.normal_(self.mask_token, std=0.02)
        positions = position_table(position, grid, width)
        self.register_buffer("decoder_positions", positions, persistent=False)
        tubes = positions.view(grid.t, grid.num_tubes, width).mean(0)
        self.register_buffer("tube_positions", tubes, persistent=False)
        rest = (decoder_mlp_ratio, norm_eps, head_norm_eps)
        self.decoder = (
            Decoder(width, depth, heads, target_dim or grid.patch_dim, *rest)
            if pixel_decoder
            else None
        )
        twin_depth = depth if predictor_depth is None else predictor_depth
        self.predictor = Decoder(width, twin_depth, heads, 1, *rest) if predictor_unit else None
        for part in filter(None, (self.decoder, self.predictor)):
            part.checkpoint = checkpoint

    @property
    def grid(self):
        """The :class:`TokenGrid` the model is made for."""
        return self.encoder.grid

    def forward(self, clips: Tensor, mask: Mask) -> Output:
        """Reconstruct what is masked, and say how hard each part of it will be.

        Args:
            clips: (B, 3, T, H, W), normalised.
            mask: which tokens are hidden; the tube-level predictor needs a mask of tubes.
        """
        context = self._context(clips, mask.visible)
        pixels = None
        if self.decoder is not None:
            queries = self.mask_token + self.decoder_positions[mask.decoded]
            pixels = self.decoder(torch.cat([context, queries], 1), queries.shape[1])
        if self.predictor is None:
            return Output(pixels, None)
        queries = self.mask_token + self._query_positions(mask)
        if self.predictor_detach:
            context, queries = context.detach(), queries.detach()
        scores = self.predictor(torch.cat([context, queries], 1), queries.shape[1])
        return Output(pixels, scores.squeeze(2))

    def score(self, clips: Tensor, steps: int | None = None, read: str = "query") -> Tensor:
        """The predicted hardness of everything, with nothing masked: what a teacher is asked for.

        Args:
            clips: (B, 3, T, H, W), normalised.
            steps: at how many of its time steps each tube is looked at, see
                :meth:`TokenGrid.staggered_tokens`; None for all t.
            read: ``query`` reads scores at mask queries, which is what the predictor is trained
                on; ``visible`` at the visible tokens, as published.

        Returns:
            (B, L) by tube, or (B, N) by token from a token-level predictor that sees all steps.
        """
        grid, batch = self.grid, len(clips)
        if steps is None or steps >= grid.t:
            visible = torch.arange(grid.num_tokens, device=clips.device)
        else:
            visible = grid.staggered_tokens(steps, clips.device)
        by_token = self.predictor_unit == "token" and len(visible) == grid.num_tokens
        context = self._context(clips, visible.expand(batch, -1))
        if read == "visible":
            scores = self.predictor(context, len(visible)).squeeze(2)
            return scores if by_token else scores.view(batch, -1, grid.num_tubes).mean(1)
        tube_level = self.predictor_unit == "tube"
        positions = self.tube_positions if tube_level else self.decoder_positions
        queries = (self.mask_token + positions).expand(batch, -1, -1)
        scores = self.predictor(torch.cat([context, queries], 1), queries.shape[1]).squeeze(2)
        return scores if by_token or tube_level else scores.view(batch, grid.t, -1).mean(1)

    def _context(self, clips: Tensor, visible: Tensor) -> Tensor:
        """The visible tokens in decoder width, with their positions: (B, [1+]V, d)."""
        x = self.decoder_embed(self.encoder(clips, visible))
        positions = self.decoder_positions[visible]
        if self.encoder.cls_token is not None:  # the class token has no place
            positions = nn.functional.pad(positions, (0, 0, 1, 0))
        return x + positions

    def _query_positions(self, mask: Mask) -> Tensor:
        if self.predictor_unit == "token":
            return self.decoder_positions[mask.decoded]
        if mask.tubes is None:
            raise ValueError("the tube-level loss predictor needs a mask whose unit is the tube")
        return self.tube_positions[mask.tubes]
