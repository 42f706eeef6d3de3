"""How good what an arm of evidence.py learnt is, by judges that are the same for all arms."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from evidence_data import Data, Split
from evidence_train import make_batch
from torch import Tensor, nn

from videohpm.config import PretrainConfig
from videohpm.config.optim import cosine
from videohpm.data import normalise
from videohpm.engine import torch_device
from videohpm.evaluate import knn_probabilities
from videohpm.evaluate.linear import Standardise, fit_linear
from videohpm.models import MaskedAutoencoder, VideoClassifier, VideoClassifierConfig
from videohpm.optim import parameter_groups, set_lr

BLOCK = 250
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1)
"""Of the linear probe, as scikit-learn's C: with thousands of samples more changes nothing."""
Scores = dict[str, float]
"""Top-1, %, by ``judge class``."""


def first_frames(split: Split, rows: Tensor, config: PretrainConfig) -> Tensor:
    """(B, 3, T, H, W), normalised, on the device of the run: the first frames of the clips."""
    pixels = split.at(rows, torch.zeros_like(rows), config.model.frames)
    pixels = pixels.to(torch_device(config.engine.device))
    return normalise(pixels, config.data.mean, config.data.std)


@torch.no_grad()
def features(encoder: nn.Module, split: Split, config: PretrainConfig) -> Tensor:
    """(n, D): the mean of the tokens of each clip, of which nothing is hidden."""
    skipped = encoder.num_prefix_tokens
    blocks = torch.arange(len(split)).split(BLOCK)
    seen = (encoder(first_frames(split, rows, config))[:, skipped:].mean(1) for rows in blocks)
    return torch.cat([block.cpu() for block in seen])


def probes(encoder: nn.Module, data: Data, config: PretrainConfig, count: int) -> dict[str, Scores]:
    """Linear and k-NN top-1 of frozen features, standardised, on validation and test.

    The regularisation of the linear probe is the one that does best on validation.

    Args:
        count: training clips that the probes see, at most.
    """
    encoder.eval()
    train = data["train"].part(0, count)
    near = features(encoder, train, config)
    scale = Standardise(near)
    near = scale(near).float()
    far = {name: scale(features(encoder, data[name], config)).float()
           for name in ("validation", "test")}  # fmt: skip
    found: dict[str, Scores] = {name: {} for name in far}
    for kind, labels in train.labels.items():
        truth = {name: data[name].labels[kind] for name in far}
        classes = int(labels.max()) + 1
        fits: list[nn.Linear] = []
        for strength in STRENGTHS:
            start = fits[-1] if fits else None
            fits.append(fit_linear(near, labels, classes, strength, start=start, tolerance=1e-4))
        layer = max(
            fits, key=lambda fit: top1(fit(far["validation"].double()), truth["validation"])
        )
        for name, values in far.items():
            near_by = knn_probabilities(near, labels, values, classes=classes)
            found[name][f"linear {kind}"] = top1(layer(values.double()), truth[name])
            found[name][f"knn {kind}"] = top1(near_by, truth[name])
    return found


def top1(scores: Tensor, labels: Tensor) -> float:
    """Share of rows whose highest score is the label's, %."""
    return 100 * (scores.argmax(1) == labels).double().mean().item()


def fine_tuned(
    model: MaskedAutoencoder, data: Data, config: PretrainConfig, seed: int, steps: int
) -> dict[str, Scores]:
    """Top-1 of the encoder trained on for a few steps, with a head for each kind of class."""
    kinds = {kind: int(labels.max()) + 1 for kind, labels in data["train"].labels.items()}
    torch.manual_seed(seed)
    encoder = replace(model.config.encoder, patch_init="default")
    classifier = VideoClassifier(
        VideoClassifierConfig(encoder=encoder, classes=sum(kinds.values()))
    )
    weights = model.encoder.state_dict()
    classifier.encoder.load_state_dict(
        {name: weights[name] for name in classifier.encoder.state_dict()}
    )
    classifier.to(torch_device(config.engine.device)).train()
    groups = parameter_groups(classifier, 0.05, layer_decay=0.75)
    optimiser = torch.optim.AdamW(groups, betas=(0.9, 0.999), fused=True)
    for step in range(steps):
        set_lr(optimiser, cosine(step, steps, steps // 10, 2e-3, 1e-5))
        batch = make_batch(data, config, seed + 10_000, step)
        clips = batch.clips.to(torch_device(config.engine.device))
        out = classifier(normalise(clips, config.data.mean, config.data.std))
        labels = [data["train"].labels[kind][batch.index].to(out.device) for kind in kinds]
        parts = zip(out.split(list(kinds.values()), 1), labels, strict=True)
        loss = torch.stack([F.cross_entropy(*part) for part in parts]).sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    classifier.eval()
    return {name: _named(classifier, data[name], config, kinds) for name in ("validation", "test")}


@torch.no_grad()
def _named(
    classifier: nn.Module, split: Split, config: PretrainConfig, kinds: dict[str, int]
) -> Scores:
    blocks = torch.arange(len(split)).split(BLOCK)
    out = torch.cat([classifier(first_frames(split, rows, config)).cpu() for rows in blocks])
    parts = zip(kinds, out.split(list(kinds.values()), 1), strict=True)
    return {f"fine-tuned {kind}": top1(part, split.labels[kind]) for kind, part in parts}
