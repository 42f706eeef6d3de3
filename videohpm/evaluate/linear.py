"""Probes trained on frozen features: linear (logistic regression, ridge), and attentive pooling."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from videohpm.config.optim import cosine
from videohpm.config.tasks import BEST_BY, CLASSIFY, MULTI_LABEL, REGRESS
from videohpm.evaluate.tasks import OutputTask
from videohpm.models.classifier import AttentivePool
from videohpm.models.vit import init_linear


class Standardise:
    """(x − mean) / std of the training features, per dimension; a constant dimension stays 0."""

    def __init__(self, train: Tensor):
        self.mean, std = train.double().mean(0), train.double().std(0, unbiased=False)
        self.std = torch.where(std > 1e-12, std, torch.ones_like(std))

    def __call__(self, features: Tensor) -> Tensor:
        """(n, D) → (n, D) float64."""
        return (features.double() - self.mean) / self.std


def binary_losses(outputs: Tensor, truth: Tensor) -> Tensor:
    """Binary cross-entropy (n, C) with logits, summed over the classes, mean over samples."""
    truth = truth.to(outputs.dtype)
    return F.binary_cross_entropy_with_logits(outputs, truth, reduction="none").sum(1).mean()


def squared_errors(outputs: Tensor, truth: Tensor) -> Tensor:
    """(n, C) squared errors, summed over the outputs, mean over samples."""
    return (outputs - truth.to(outputs.dtype)).square().sum(1).mean()


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    CLASSIFY: F.cross_entropy,
    MULTI_LABEL: binary_losses,
    REGRESS: squared_errors,
}
"""By task: what a probe makes as small as it can, from outputs (n, C) and the truth."""


def fit_linear(
    features: Tensor,
    truth: Tensor,
    outputs: int,
    strength: float,
    task: str = CLASSIFY,
    *,
    start: nn.Linear | None = None,
    tolerance: float = 1e-7,
) -> nn.Linear:
    """The minimum of strength·Σ loss + ‖W‖²/2 in float64, which is unique.

    Of classes that is scikit-learn's LogisticRegression(C=strength), of several classes a sample
    one of these for each, of numbers its Ridge(alpha=1 / (2 strength)); the intercept is free.

    Args:
        features: (m, D), standardised.
        truth: (m,) class numbers, of other tasks (m, outputs).
        start: where to begin, such as the fit of another strength; empty for zeros.
        tolerance: the largest gradient of any weight, of the objective over m, at which it ends.
    """
    x, count = features.double(), len(features)
    layer = nn.Linear(x.shape[1], outputs, dtype=torch.float64, device=x.device)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    if start is not None:
        layer.load_state_dict(start.state_dict())
    optimiser = torch.optim.LBFGS(
        layer.parameters(), max_iter=2000, tolerance_grad=tolerance, tolerance_change=1e-12,
        history_size=20, line_search_fn="strong_wolfe",
    )  # fmt: skip

    def objective() -> Tensor:
        optimiser.zero_grad()
        # Divided by the number of samples: the same minimum, gradients of a moderate size.
        fit = LOSSES[task](layer(x), truth)
        loss = fit + layer.weight.square().sum() / (2 * strength * count)
        loss.backward()
        return loss

    optimiser.step(objective)
    return layer.requires_grad_(False)


def choose_strength(
    features: Tensor,
    truth: Tensor,
    outputs: int,
    strengths: tuple[float, ...],
    seed: int = 0,
    task: OutputTask | None = None,
) -> float:
    """The strength that does best on a fifth of the training features, of each class if it has one.

    The validation features are never used. Of equally good strengths the smallest.
    """
    task = task or OutputTask()
    if len(strengths) == 1:
        return strengths[0]
    order = torch.randperm(len(truth), generator=torch.Generator().manual_seed(seed))
    groups = truth if truth.ndim == 1 else torch.zeros(len(truth), device=truth.device)
    validation = torch.zeros(len(truth), dtype=torch.bool)
    for label in groups.unique():
        own = order[groups.cpu()[order] == label.cpu()]
        validation[own[: len(own) // 5]] = True
    if not validation.any():
        return sorted(strengths)[len(strengths) // 2]
    validation = validation.to(truth.device)
    best, chosen = -math.inf, min(strengths)
    for strength in sorted(strengths):
        predicted = linear_probabilities(
            features[~validation], truth[~validation], features[validation],
            classes=outputs, strength=strength, task=task,
        )  # fmt: skip
        found = task.metrics(predicted.double().cpu().numpy(), truth[validation].cpu().numpy())
        value = found[BEST_BY[task.name][0]]
        if value is not None and value > best:
            best, chosen = value, strength
    return chosen


def linear_probabilities(
    train: Tensor,
    labels: Tensor,
    queries: Tensor,
    *,
    classes: int,
    strength: float,
    task: OutputTask | None = None,
) -> Tensor:
    """What a linear probe of ``train`` says of ``queries`` (n, D): (n, classes) probabilities.

    Args:
        labels: (m,) class numbers; of other tasks (m, classes).
        task: what it says; None for one class a sample.
    """
    task = task or OutputTask()
    scale = Standardise(train)
    layer = fit_linear(scale(train), labels, classes, strength, task.name)
    return task.predicted(layer(scale(queries))).float()


class Whiten:
    """Tokens (n, K, D) centred and whitened.

    The mean at each position over the training features is subtracted (most of it encodes the
    position), then the D directions are decorrelated and scaled to variance 1. Else an attentive
    probe of few steps learns only from the few directions of the largest variance. Directions below
    ``floor`` of the strongest variance stay weak.
    """

    def __init__(self, train: Tensor, floor: float = 1e-4, block: int = 64):
        self.mean = train.double().mean(0)
        covariance = torch.zeros(train.shape[2], train.shape[2], dtype=torch.float64)
        for part in train.split(block):
            flat = (part.double() - self.mean).flatten(0, 1)
            covariance += flat.T @ flat / (train.shape[0] * train.shape[1])
        values, directions = torch.linalg.eigh(covariance)
        strength = values.clamp(min=0) + floor * values.max().clamp(min=1e-12)
        self.scale = (directions / strength.sqrt()).float()
        self.mean = self.mean.float()

    def __call__(self, tokens: Tensor) -> Tensor:
        """(n, K, D) → (n, K, D) float32."""
        return (tokens.float() - self.mean) @ self.scale


class AttentiveProbe(nn.Module):
    """Attentive pooling and a linear head on frozen, whitened tokens (B, K, D)."""

    def __init__(self, dim: int, heads: int, classes: int):
        super().__init__()
        self.pool = AttentivePool(dim, heads)
        self.pool.apply(init_linear)
        nn.init.normal_(self.pool.query)
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, classes)
        nn.init.trunc_normal_(self.head.weight, std=0.001)
        nn.init.zeros_(self.head.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.norm(self.pool(tokens)))


def attentive_probabilities(
    train: Tensor,
    labels: Tensor,
    queries: Tensor,
    *,
    classes: int,
    heads: int,
    epochs: int = 20,
    batch: int = 64,
    lr: float = 1e-3,
    weight_decay: float = 0.05,
    seed: int = 0,
    device: torch.device | str = "cpu",
    task: OutputTask | None = None,
) -> Tensor:
    """Class probabilities (n, classes) of tokens (n, K, D) by an attentive probe of others.

    AdamW, one epoch of warm-up, half a cosine; the order of the samples comes from the seed.
    """
    whiten, task = Whiten(train), task or OutputTask()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        probe = AttentiveProbe(train.shape[2], heads, classes).to(device)
        optimiser = torch.optim.AdamW(probe.parameters(), lr=lr, weight_decay=weight_decay)
        steps = math.ceil(len(train) / batch)
        for epoch in range(epochs):
            for step, rows in enumerate(torch.randperm(len(train)).split(batch)):
                rate = cosine(epoch * steps + step, epochs * steps, steps, lr, lr / 100)
                optimiser.param_groups[0]["lr"] = rate
                logits = probe(whiten(train[rows]).to(device))
                loss = LOSSES[task.name](logits, labels[rows].to(device))
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
    probe.eval()
    with torch.no_grad():
        parts = [
            task.predicted(probe(whiten(part).to(device))).cpu() for part in queries.split(batch)
        ]
    return torch.cat(parts)
