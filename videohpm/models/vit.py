"""The encoder: a vision transformer over tubelets that embeds only the tokens it is given."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from videohpm.config.architecture import POSITIONS, ViTConfig
from videohpm.grid import TokenGrid
from videohpm.models.pretrained import Pretrained


def sincos_1d(count: int, dim: int) -> np.ndarray:
    """Fixed embedding of the flat token number, sine and cosine interleaved: (count, dim).

    Angles are n / 10000^(2⌊j/2⌋/dim) in float64 (VideoMAE; also Hugging Face's VideoMAE).
    """
    exponent = 2 * (np.arange(dim) // 2) / dim
    angle = np.arange(count)[:, None] / np.power(10000.0, exponent)[None]
    return np.where(np.arange(dim) % 2 == 0, np.sin(angle), np.cos(angle))


def _sin_then_cos(position: np.ndarray, dim: int) -> np.ndarray:
    omega = 1.0 / 10000.0 ** (np.arange(dim // 2) / (dim / 2))
    angle = position.reshape(-1)[:, None] * omega[None]
    return np.concatenate([np.sin(angle), np.cos(angle)], axis=1)


def sincos_2d(grid: TokenGrid, dim: int) -> np.ndarray:
    """Fixed embedding of column (first half) and row (second half), each [sin…|cos…]: (N, dim).

    At t = 1 this is MAE's and HPM's table. Over time a third term is added that is zero at the
    first step, so that an image and the first step of a clip are embedded alike.
    """
    step, row, column = np.meshgrid(
        np.arange(grid.t), np.arange(grid.h), np.arange(grid.w), indexing="ij"
    )
    space = np.concatenate([_sin_then_cos(column, dim // 2), _sin_then_cos(row, dim // 2)], axis=1)
    return space + _sin_then_cos(step, dim) - _sin_then_cos(np.zeros(1), dim)


def position_table(kind: str, grid: TokenGrid, dim: int) -> Tensor:
    """(N, dim) float32, computed in float64. Raises ValueError for an unknown kind."""
    if kind == "sincos_1d":
        return torch.from_numpy(sincos_1d(grid.num_tokens, dim)).float()
    if kind == "sincos_2d":
        if dim % 4:
            raise ValueError(f"dim: sincos_2d needs a multiple of 4, not {dim}")
        return torch.from_numpy(sincos_2d(grid, dim)).float()
    raise ValueError(f"position: {kind!r} is not one of {', '.join(POSITIONS)}")


class Attention(nn.Module):
    """Multi-head self-attention in one fused call: (B, K, D) → (B, K, D).

    With ``num_queries``, only the outputs of that many last positions: → (B, num_queries, D).
    """

    def __init__(self, dim: int, heads: int):
        super().__init__()
        if dim % heads:
            raise ValueError(f"heads: {heads} does not divide the width {dim}")
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, num_queries: int | None = None) -> Tensor:
        batch, count, dim = x.shape
        # Taken apart before transposing: the gradients are put together in one copy, not two.
        q, k, v = self.qkv(x).view(batch, count, 3, self.heads, dim // self.heads).unbind(2)
        q, k, v = (part.transpose(1, 2) for part in (_last(q, num_queries), k, v))
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))

    def weights(self, asks: Tensor, x: Tensor) -> Tensor:
        """How much each of ``asks`` (B, Q, D) attends to each of ``x`` (B, K, D): (B, Q, K), the
        mean over heads, in fp32. Their keys and queries are those of the forward pass."""
        batch, count, dim = x.shape
        q = (
            self.qkv(asks)
            .view(batch, -1, 3, self.heads, dim // self.heads)[:, :, 0]
            .transpose(1, 2)
        )
        k = (
            self.qkv(x)
            .view(batch, count, 3, self.heads, dim // self.heads)[:, :, 1]
            .transpose(1, 2)
        )
        products = (q @ k.transpose(2, 3)).float() / math.sqrt(dim // self.heads)
        return products.softmax(-1).mean(1)


class Mlp(nn.Module):
    """Two linear layers with GELU between."""

    def __init__(self, dim: int, hidden: int):
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class DropPath(nn.Module):
    """Stochastic depth: in training drops all of a sample with probability ``rate``.

    What stays is divided by the probability of staying. The rate is a tensor, so that blocks which
    differ in it alone are one graph to torch.compile.
    """

    keep: Tensor

    def __init__(self, rate: float):
        super().__init__()
        self.rate = rate  # for people: the forward pass must not read it
        self.register_buffer("keep", torch.tensor(1.0 - rate), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        drawn = torch.rand(x.shape[0], *(1,) * (x.ndim - 1), device=x.device)
        return x * ((drawn < self.keep) / self.keep).to(x.dtype)

    def extra_repr(self) -> str:
        return f"rate={self.rate:.3f}"


class Block(nn.Module):
    """Pre-norm transformer block: (B, K, D) → (B, K, D).

    With ``num_queries``, only the outputs of that many last positions: → (B, num_queries, D).
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        mlp_ratio: float = 4.0,
        drop_path: float | None = None,
        norm_eps: float = 1e-6,
    ):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=norm_eps)
        self.attn = Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim, eps=norm_eps)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))
        self.drop_path = nn.Identity() if drop_path is None else DropPath(drop_path)

    def forward(self, x: Tensor, num_queries: int | None = None) -> Tensor:
        x = _last(x, num_queries) + self.drop_path(self.attn(self.norm1(x), num_queries))
        return x + self.drop_path(self.mlp(self.norm2(x)))

    def attention_of_first(self, x: Tensor, num_prefix_tokens: int) -> Tensor:
        """Weights (B, K − prefix) with which the prefix token, or without one the mean of all
        tokens, attends to the others: the mean over heads."""
        x = self.norm1(x)
        asks = x[:, :1] if num_prefix_tokens else x.mean(1, keepdim=True)
        return self.attn.weights(asks, x)[:, 0, num_prefix_tokens:]


class TubeletEmbed(nn.Module):
    """A linear map of each tubelet's pixels: VideoMAE's 3-D convolution with stride = kernel.

    ``proj.weight`` is the convolution's weight [D, 3, tubelet, patch, patch] flattened.
    """

    def __init__(self, grid: TokenGrid, dim: int):
        super().__init__()
        self.proj = nn.Linear(grid.patch_dim, dim)

    def forward(self, blocks: Tensor) -> Tensor:
        return self.proj(blocks.flatten(2))


class VideoViT(Pretrained, nn.Module):
    """Tubelet ViT.

    Args:
        config: its sizes and options, see :class:`ViTConfig`.
        checkpoint_activations: recompute blocks in the backward pass to save memory.

    Raises ValueError when the sizes do not fit each other.
    """

    positions: Tensor

    def __init__(self, config: ViTConfig, checkpoint_activations: bool = False):
        super().__init__()
        self.config = config
        self.grid = config.grid
        self.num_prefix_tokens = config.num_prefix_tokens
        self.checkpoint_activations = checkpoint_activations
        dim = config.dim
        self.patch_embed = TubeletEmbed(self.grid, dim)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim)) if config.class_token else None
        if config.position == "learned":
            self.positions = nn.Parameter(torch.zeros(self.grid.num_tokens, dim))
            nn.init.trunc_normal_(self.positions, std=0.02)
        else:
            table = position_table(config.position, self.grid, dim)
            self.register_buffer("positions", table, persistent=False)
        rates: list[float | None] = [None] * config.depth
        if config.drop_path:  # the first block's is 0: all are alike
            rates = np.linspace(0, config.drop_path, config.depth).tolist()
        self.blocks = nn.ModuleList(
            Block(dim, config.heads, config.mlp_ratio, rate, config.norm_eps) for rate in rates
        )
        final_norm = nn.LayerNorm(dim, eps=config.norm_eps) if config.final_norm else nn.Identity()
        self.norm = final_norm
        self.blocks.apply(init_linear)
        if config.patch_init == "xavier":
            nn.init.xavier_uniform_(self.patch_embed.proj.weight)  # its bias stays torch's
        if self.cls_token is not None:
            nn.init.normal_(self.cls_token, std=0.02)

    def forward(self, clips: Tensor, visible: Tensor | None = None) -> Tensor:
        """Encode the visible tokens.

        Args:
            clips: (B, 3, T, H, W), normalised.
            visible: (B, V) indices of the tokens to encode; None for all.

        Returns:
            (B, V, D), or (B, 1 + V, D) with a class token in front.
        """
        x = self._embed(clips, visible)
        return self.norm(run_blocks(self.blocks, x, self.checkpoint_activations and self.training))

    def _embed(self, clips: Tensor, visible: Tensor | None) -> Tensor:
        x = self.patch_embed(self.grid.gather_patches(clips, visible))
        x = x + (self.positions if visible is None else self.positions[visible])
        if self.cls_token is not None:
            x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1)
        return x

    def last_attention(self, clips: Tensor, visible: Tensor | None = None) -> Tensor:
        """Attention in the last block of the class token, or without one of the mean token, to each
        visible token: (B, V), averaged over heads.

        Args:
            clips, visible: as for :meth:`forward`.
        """
        x = run_blocks(self.blocks[:-1], self._embed(clips, visible))
        last = self.blocks[-1]
        assert isinstance(last, Block)
        return last.attention_of_first(x, self.num_prefix_tokens)


def run_blocks(
    blocks: nn.ModuleList, x: Tensor, recompute: bool = False, num_queries: int | None = None
) -> Tensor:
    """Apply the blocks in turn; with ``recompute`` keep only their inputs for the backward pass.

    With ``num_queries`` the final block computes only that many last positions.
    """
    for number, block in enumerate(blocks, 1):
        queries = num_queries if number == len(blocks) else None
        x = checkpoint(block, x, queries, use_reentrant=False) if recompute else block(x, queries)
    return _last(x, num_queries)


def _last(x: Tensor, count: int | None) -> Tensor:
    return x if count is None else x[:, x.shape[1] - count :]


def init_linear(module: nn.Module) -> None:
    """Xavier-uniform weights and zero biases, as VideoMAE, MAE and HPM start from."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
