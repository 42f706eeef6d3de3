"""Encoder + pooling + head, for fine-tuning and for frozen features."""

from __future__ import annotations

from dataclasses import asdict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from videohpm.config.finetune import POOLS
from videohpm.config.sizes import size_of
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


class VideoClassifier(nn.Module):
    """A :class:`VideoViT` that ends in class scores.

    With mean pooling the encoder's final norm is replaced by a new one behind the pooling
    (``fc_norm``), as VideoMAE and MAE fine-tune; other pooling keeps the final norm. Weights start
    from a normal distribution of std .02, as VideoMAE's classifiers do.

    Args:
        arch: a name from :mod:`videohpm.models.sizes`; dim, depth, heads, mlp_ratio override it.
        classes: number of classes.
        pool: ``mean`` over all tokens but the class token, ``class_token``, ``attentive`` (an
            :class:`AttentivePool` over all tokens, and fc_norm), or ``first_token`` of a model
            without a class token (Hugging Face's VideoMAE with mean pooling off).
        head_dropout: probability of dropping a pooled feature in training.
        head_scale: factor on the head's initial weights (the published recipes: .001).
        head_norm_eps: eps of fc_norm; None for norm_eps.
        frames, image_size, patch, tubelet, position, class_token, drop_path, checkpoint,
            norm_eps: see :class:`VideoViT`.
    """

    def __init__(
        self,
        arch: str = "vit_base",
        *,
        classes: int,
        frames: int = 16,
        image_size: int | tuple[int, int] = 224,
        patch: int = 16,
        tubelet: int = 2,
        dim: int | None = None,
        depth: int | None = None,
        heads: int | None = None,
        mlp_ratio: float | None = None,
        position: str = "sincos_1d",
        class_token: bool = False,
        pool: str = "mean",
        drop_path: float = 0.0,
        head_dropout: float = 0.0,
        head_scale: float = 0.001,
        checkpoint: bool = False,
        norm_eps: float = 1e-6,
        head_norm_eps: float | None = None,
    ):
        self_config = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        super().__init__()
        if pool not in POOLS:
            raise ValueError(f"pool: {pool!r} is not one of {', '.join(POOLS)}")
        if pool == "class_token" and not class_token:
            raise ValueError("pool: class_token needs a model with a class token")
        if pool == "first_token" and class_token:
            raise ValueError("pool: first_token is for models without a class token")
        numbers = asdict(size_of(arch))
        numbers = {k: numbers[k] for k in ("dim", "depth", "heads", "mlp_ratio")}
        numbers |= {k: self_config[k] for k in numbers if self_config[k] is not None}
        self.config = self_config | numbers
        self.pool = pool
        self.encoder = VideoViT(
            frames, image_size, patch, tubelet, numbers["dim"], numbers["depth"],
            numbers["heads"], numbers["mlp_ratio"], position, class_token, drop_path,
            final_norm=pool != "mean", checkpoint=checkpoint, norm_eps=norm_eps,
        )  # fmt: skip
        self.encoder.blocks.apply(init_truncated)
        self.frozen = False
        dim = numbers["dim"]
        self.attentive = None
        if pool == "attentive":
            self.attentive = AttentivePool(dim, numbers["heads"], norm_eps=norm_eps)
        eps = norm_eps if head_norm_eps is None else head_norm_eps
        own_norm = pool in ("mean", "attentive")
        self.fc_norm = nn.LayerNorm(dim, eps=eps) if own_norm else nn.Identity()
        self.dropout = nn.Dropout(head_dropout)
        self.head = nn.Linear(dim, classes)
        nn.init.trunc_normal_(self.head.weight, std=0.02)
        self.head.weight.data.mul_(head_scale)
        nn.init.zeros_(self.head.bias)

    @property
    def grid(self):
        """The :class:`TokenGrid` the model is made for."""
        return self.encoder.grid

    def freeze_encoder(self) -> None:
        """Train only what stands behind the encoder: a linear or an attentive probe."""
        self.frozen = True
        self.encoder.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> VideoClassifier:
        """As in torch, but a frozen encoder stays as it is when it is used: without drop-path."""
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
        """The feature that the head reads, (B, D), of all that the encoder gives: (B, [1+]N, D)."""
        if self.attentive is not None:
            return self.fc_norm(self.attentive(x))
        if self.pool != "mean":
            return x[:, 0]
        first = 0 if self.encoder.cls_token is None else 1
        return self.fc_norm(x[:, first:].mean(1))

    def forward(self, clips: Tensor) -> Tensor:
        """Class scores (logits) of normalised clips (B, 3, T, H, W): (B, classes)."""
        return self.head(self.dropout(self.features(clips)))


def init_truncated(module: nn.Module) -> None:
    """Linear weights from a truncated normal distribution of std .02, zero biases."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
