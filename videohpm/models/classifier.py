"""Encoder + pooling + head, for fine-tuning and for frozen features."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from videohpm.config.architecture import VideoClassifierConfig, classifier_config
from videohpm.grid import TokenGrid
from videohpm.models.pretrained import Pretrained
from videohpm.models.vit import Mlp, VideoViT


class AttentivePool(nn.Module):
    """One learned query that attends to all tokens, then an MLP: (B, K, D) → (B, D).

    As attentive probing reads frozen features (CAE; V-JEPA uses the same).
    """

    def __init__(self, dim: int, heads: int, mlp_ratio: float = 4.0, norm_eps: float = 1e-6):
        super().__init__()
        self.heads = heads
        self.query = nn.Parameter(torch.zeros(1, 1, dim))
        self.norm1 = nn.LayerNorm(dim, eps=norm_eps)
        self.q = nn.Linear(dim, dim)
        self.kv = nn.Linear(dim, 2 * dim)
        self.proj = nn.Linear(dim, dim)
        self.norm2 = nn.LayerNorm(dim, eps=norm_eps)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))
        nn.init.trunc_normal_(self.query, std=0.02)
        self.apply(init_truncated)

    def forward(self, tokens: Tensor) -> Tensor:
        batch, count, dim = tokens.shape
        kv = self.kv(self.norm1(tokens)).view(batch, count, 2, self.heads, dim // self.heads)
        k, v = kv.permute(2, 0, 3, 1, 4).unbind(0)
        q = self.q(self.query).view(1, 1, self.heads, -1).transpose(1, 2).expand(batch, -1, -1, -1)
        x = F.scaled_dot_product_attention(q, k, v).reshape(batch, dim)
        x = self.query[:, 0] + self.proj(x)
        return x + self.mlp(self.norm2(x))


class VideoClassifier(Pretrained, nn.Module):
    """A :class:`VideoViT` that ends in class scores.

    With mean pooling the encoder's final norm is replaced by a new one behind the pooling
    (``fc_norm``), as VideoMAE and MAE fine-tune; other pooling keeps the final norm. Weights start
    from a normal distribution of std .02, as VideoMAE's classifiers do.

    Args:
        config: encoder, pooling and head, see :class:`VideoClassifierConfig`; :meth:`create` makes
            one of a named size.
        checkpoint_activations: recompute blocks in the backward pass to save memory.

    Raises ValueError when the sizes do not fit each other.
    """

    def __init__(self, config: VideoClassifierConfig, checkpoint_activations: bool = False):
        super().__init__()
        self.config = config
        self.pool = config.pool
        self.encoder = VideoViT(config.encoder, checkpoint_activations)
        self.encoder.blocks.apply(init_truncated)
        self.frozen = False
        dim, norm_eps = config.encoder.dim, config.encoder.norm_eps
        self.attentive = None
        if config.pool == "attentive":
            self.attentive = AttentivePool(dim, config.encoder.heads, norm_eps=norm_eps)
        eps = norm_eps if config.head_norm_eps is None else config.head_norm_eps
        own_norm = config.pool in ("mean", "attentive")
        self.fc_norm = nn.LayerNorm(dim, eps=eps) if own_norm else nn.Identity()
        self.dropout = nn.Dropout(config.head_dropout)
        self.head = nn.Linear(dim, config.classes)
        nn.init.trunc_normal_(self.head.weight, std=0.02)
        self.head.weight.data.mul_(config.head_scale)
        nn.init.zeros_(self.head.bias)

    @classmethod
    def create(
        cls,
        arch: str = "vit_base",
        *,
        classes: int,
        checkpoint_activations: bool = False,
        **changes: Any,
    ) -> VideoClassifier:
        """The classifier of a named size: ``VideoClassifier.create("vit_base", classes=400)``.

        Args:
            arch: a name from :mod:`videohpm.config.sizes`.
            changes: by flat names, see :func:`classifier_config`.
        """
        return cls(classifier_config(arch, classes=classes, **changes), checkpoint_activations)

    @property
    def grid(self) -> TokenGrid:
        """The :class:`TokenGrid` the model is made for."""
        return self.encoder.grid

    def freeze_encoder(self) -> None:
        """Train only what follows the encoder: a linear or an attentive probe."""
        self.frozen = True
        self.encoder.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> VideoClassifier:
        """As in torch, but a frozen encoder stays in evaluation mode: without drop-path."""
        super().train(mode)
        if self.frozen:
            self.encoder.eval()
        return self

    def features(self, clips: Tensor) -> Tensor:
        """Pooled features of normalised clips (B, 3, T, H, W): (B, D)."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            x = self.encoder(clips)
        return self.pooled(x)

    def pooled(self, x: Tensor) -> Tensor:
        """The feature that the head reads, (B, D), of the encoder's tokens (B, [1+]N, D)."""
        if self.attentive is not None:
            return self.fc_norm(self.attentive(x))
        if self.pool != "mean":
            return x[:, 0]
        return self.fc_norm(x[:, self.encoder.num_prefix_tokens :].mean(1))

    def forward(self, clips: Tensor) -> Tensor:
        """Class scores (logits) of normalised clips (B, 3, T, H, W): (B, classes)."""
        return self.head(self.dropout(self.features(clips)))


def init_truncated(module: nn.Module) -> None:
    """Linear weights from a truncated normal distribution of std .02, zero biases."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
