"""The masked autoencoder that also predicts how hard each masked tube is to reconstruct."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from videohpm.config.architecture import DecoderConfig, MAEConfig, mae_config
from videohpm.grid import Mask, TokenGrid
from videohpm.models.pretrained import Pretrained
from videohpm.models.vit import Block, VideoViT, init_linear, position_table, run_blocks


class Output(NamedTuple):
    """What the student predicts for the masked tokens."""

    pixels: Tensor
    """(B, K, dim) predicted targets of the masked tokens, in the order of ``mask.decoded``."""
    scores: Tensor | None
    """Predicted hardness, of which only the order counts: (B, M/t) by tube or (B, M) by token."""


class ScoreHead(nn.Linear):
    """A linear layer in fp32 even under autocast: in bf16 many of the scores would be equal."""

    def forward(self, input: Tensor) -> Tensor:
        with torch.autocast(input.device.type, enabled=False):
            return F.linear(input.float(), self.weight.float(), self.bias.float())


class Decoder(nn.Module):
    """Blocks, norm and a linear head of ``out`` values at the last ``num_queries`` positions."""

    def __init__(self, config: DecoderConfig, out: int, checkpoint_activations: bool = False):
        super().__init__()
        self.checkpoint_activations = checkpoint_activations
        self.blocks = nn.ModuleList(
            Block(config.dim, config.heads, config.mlp_ratio, norm_eps=config.norm_eps)
            for _ in range(config.depth)
        )
        eps = config.norm_eps if config.head_norm_eps is None else config.head_norm_eps
        self.norm = nn.LayerNorm(config.dim, eps=eps)
        self.head = (ScoreHead if out == 1 else nn.Linear)(config.dim, out)
        self.apply(init_linear)

    def forward(self, x: Tensor, num_queries: int) -> Tensor:
        """(B, K, d) → (B, num_queries, out)."""
        x = run_blocks(self.blocks, x, self.checkpoint_activations and self.training, num_queries)
        return self.head(self.norm(x))


class MaskedAutoencoder(Pretrained, nn.Module):
    """Encoder + pixel decoder + loss predictor (HPM, sections 3.1 and 3.2; VideoMAE without it).

    The predictor is a twin of the pixel decoder: it shares the projection into decoder width, the
    mask token and the position embedding, and ends in one score instead of pixels. At tube level
    it has one query a tube (mask token + the mean of the tube's position embeddings); at token
    level one a token, as published. At t = 1 the two are the same.

    Args:
        config: its parts, see :class:`MAEConfig`; :meth:`create` makes one of a named size.
        checkpoint_activations: recompute blocks in the backward pass to save memory.

    Raises ValueError when the sizes do not fit each other.
    """

    decoder_positions: Tensor
    tube_positions: Tensor

    def __init__(self, config: MAEConfig, checkpoint_activations: bool = False):
        super().__init__()
        self.config = config
        self.encoder = VideoViT(config.encoder, checkpoint_activations)
        self.target = config.target
        self._seen_tokens: dict[tuple[float, torch.device], Tensor] = {}
        grid, width = self.grid, config.decoder.dim
        bias = config.decoder.projection_bias
        self.decoder_embed = nn.Linear(config.encoder.dim, width, bias=bias)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        if config.encoder.patch_init == "xavier":  # MAE, HPM
            init_linear(self.decoder_embed)
            nn.init.normal_(self.mask_token, std=0.02)
        else:  # VideoMAE, whose projection starts as torch makes it
            nn.init.trunc_normal_(self.mask_token, std=0.02, a=-0.02, b=0.02)
        positions = position_table(config.encoder.position, grid, width)
        self.register_buffer("decoder_positions", positions, persistent=False)
        tubes = positions.view(grid.t, grid.num_tubes, width).mean(0)
        self.register_buffer("tube_positions", tubes, persistent=False)
        self.decoder = self.predictor = None
        if config.pixel_decoder:
            out = config.target_dim or grid.patch_dim
            self.decoder = Decoder(config.decoder, out, checkpoint_activations)
        if config.predictor is not None:
            twin = replace(config.decoder, depth=config.predictor_depth)
            self.predictor = Decoder(twin, 1, checkpoint_activations)

    @classmethod
    def create(
        cls, arch: str = "vit_base", *, checkpoint_activations: bool = False, **changes: Any
    ) -> MaskedAutoencoder:
        """The model of a named size: ``MaskedAutoencoder.create("vit_base", frames=16)``.

        Args:
            arch: a name from :mod:`videohpm.config.sizes`.
            changes: by flat names, see :func:`mae_config`.
        """
        return cls(mae_config(arch, **changes), checkpoint_activations)

    @property
    def grid(self) -> TokenGrid:
        """The :class:`TokenGrid` the model is made for."""
        return self.encoder.grid

    @property
    def predictor_unit(self) -> str | None:
        """``tube`` or ``token``, what the predictor scores; None without predictor."""
        return None if self.config.predictor is None else self.config.predictor.unit

    def forward(self, clips: Tensor, mask: Mask) -> Output:
        """Reconstruct what is masked, and predict how hard each part of it is.

        Args:
            clips: (B, 3, T, H, W), normalised.
            mask: which tokens are masked; the tube-level predictor needs a mask of tubes.
        """
        if self.decoder is None:
            raise ValueError(
                "pixel_decoder: a model without one only scores, it does not reconstruct"
            )
        context = self._context(clips, mask.visible)
        queries = self.mask_token + self.decoder_positions[mask.decoded]
        pixels = self.decoder(torch.cat([context, queries], 1), queries.shape[1])
        if self.predictor is None:
            return Output(pixels, None)
        queries = self.mask_token + self._query_positions(mask)
        if self.config.predictor is not None and self.config.predictor.detach:
            context, queries = context.detach(), queries.detach()
        scores = self.predictor(torch.cat([context, queries], 1), queries.shape[1])
        return Output(pixels, scores.squeeze(2))

    def score(self, clips: Tensor, steps: float | None = None, read: str = "query") -> Tensor:
        """The predicted hardness of every tube or token, with nothing masked: the teacher's use.

        Args:
            clips: (B, 3, T, H, W), normalised.
            steps: at how many of its time steps each tube is seen, below 1 so many of the tubes at
                one step, see :meth:`TokenGrid.staggered_tokens`; None for all t.
            read: ``query`` reads scores at mask queries, which is what the predictor is trained
                on; ``visible`` at the visible tokens, as published.

        Returns:
            (B, L) by tube, or (B, N) by token from a token-level predictor that sees all steps.
        """
        if self.predictor is None:
            raise ValueError("predictor: a model without one predicts no hardness")
        grid, batch = self.grid, len(clips)
        visible = self._seen(grid.t if steps is None else min(steps, grid.t), clips.device)
        tube_level = self.predictor_unit == "tube"
        by_token = not tube_level and (grid.t == 1 or len(visible) == grid.num_tokens)
        context = self._context(clips, visible.expand(batch, -1))
        if read == "visible":
            scores = self.predictor(context, len(visible)).squeeze(2)
            return scores if by_token else scores.view(batch, -1, grid.num_tubes).mean(1)
        positions = self.tube_positions if tube_level else self.decoder_positions
        queries = (self.mask_token + positions).expand(batch, -1, -1)
        scores = self.predictor(torch.cat([context, queries], 1), queries.shape[1]).squeeze(2)
        return scores if by_token or tube_level else scores.view(batch, grid.t, -1).mean(1)

    def _seen(self, steps: float, device: torch.device) -> Tensor:
        """The tokens that :meth:`score` sees; kept, because making them waits for the device."""
        if (steps, device) not in self._seen_tokens:
            seen = self.grid.staggered_tokens(steps) if steps < self.grid.t else None
            seen = torch.arange(self.grid.num_tokens) if seen is None else seen
            self._seen_tokens[steps, device] = seen.to(device)
        return self._seen_tokens[steps, device]

    def _context(self, clips: Tensor, visible: Tensor) -> Tensor:
        """The visible tokens in decoder width, with their positions: (B, [1+]V, d)."""
        x = self.decoder_embed(self.encoder(clips, visible))
        positions = self.decoder_positions[visible]
        # A class token has no position.
        return x + nn.functional.pad(positions, (0, 0, self.encoder.num_prefix_tokens, 0))

    def _query_positions(self, mask: Mask) -> Tensor:
        if self.predictor_unit == "token":
            return self.decoder_positions[mask.decoded]
        if mask.tubes is None and self.grid.t > 1:
            raise ValueError("the tube-level loss predictor needs a mask whose unit is the tube")
        return self.tube_positions[mask.decoded if mask.tubes is None else mask.tubes]
