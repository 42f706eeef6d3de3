"""How good what an arm of evidence.py learnt is, and whether its teacher is right."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from evidence_arms import Arm
from evidence_train import MOTIONS, STRIDE, Clips, Trained
from hardness import true_hardness
from torch import Tensor, nn

from videohpm import hpm
from videohpm.config import PretrainConfig
from videohpm.config.evaluate import STRENGTHS
from videohpm.config.optim import cosine
from videohpm.data import normalise
from videohpm.evaluate import (
    attentive_probabilities,
    knn_probabilities,
    linear_probabilities,
)
from videohpm.evaluate.linear import Standardise, choose_strength
from videohpm.models import MaskedAutoencoder, VideoClassifier, VideoClassifierConfig
from videohpm.optim import parameter_groups, set_lr

BLOCK = 64
HIDDEN = 0.05  # an object of which less than this share is visible counts as hidden


def first_frames(clips: Clips, rows: Tensor, config: PretrainConfig) -> Tensor:
    """(B, 3, T, H, W), normalised: the first frames of the clips."""
    pixels = clips.at(rows, torch.zeros_like(rows), config.model.frames)
    return normalise(pixels, config.data.mean, config.data.std)


# --- representations --------------------------------------------------------------------------


@torch.no_grad()
def frozen_tokens(encoder: nn.Module, clips: Clips, count: int, config: PretrainConfig) -> Tensor:
    """(n, N, D) of the first ``count`` clips."""
    encoder.eval()
    return torch.cat(
        [encoder(first_frames(clips, rows, config)) for rows in torch.arange(count).split(BLOCK)]
    )


def probes(
    encoder: nn.Module, data: dict[str, Clips], config: PretrainConfig, count: int, seed: int
) -> dict[str, float]:
    """Validation top-1, %, of three frozen probes that name the shape, the motion, and both.

    Linear and k-NN read the mean of the tokens, standardised; the attentive one reads the tokens.
    (With the tokens' maximum and deviation besides, untrained encoders beat all others at naming
    motions: such features measure the picture, not what was learnt.) Both are named where the two
    probes of one kind are right together.
    """
    train, test = data["train"], data["validation"]
    tokens = frozen_tokens(encoder, train, min(count, len(train.frames)), config)
    test_tokens = frozen_tokens(encoder, test, len(test.frames), config)
    scale = Standardise(tokens.mean(1))
    near, far = scale(tokens.mean(1)).float(), scale(test_tokens.mean(1)).float()
    right: dict[str, dict[str, Tensor]] = {"linear": {}, "knn": {}, "attentive": {}}
    for kind in kinds(config):
        labels = train.labels[kind][: len(tokens)]
        classes = int(labels.max()) + 1
        strength = choose_strength(near, labels, classes, STRENGTHS, seed)
        methods = {
            "linear": linear_probabilities(near, labels, far, classes=classes, strength=strength),
            "knn": knn_probabilities(near, labels, far, classes=classes),
            "attentive": attentive_probabilities(
                tokens, labels, test_tokens,
                classes=classes, heads=config.model.heads, epochs=15, seed=seed,
            ),
        }  # fmt: skip
        for name, probabilities in methods.items():
            right[name][kind] = probabilities.argmax(1) == test.labels[kind]
    return {key: value for name in right for key, value in shares(name, right[name]).items()}


def kinds(config: PretrainConfig) -> tuple[str, ...]:
    """What a model of this clip length can name: one frame does not show the motion."""
    return ("shape",) if config.model.frames == 1 else ("shape", "motion")


def shares(name: str, right: dict[str, Tensor]) -> dict[str, float]:
    """Top-1, %, of each kind of class, and of both where there are two."""
    if len(right) == 2:
        right = right | {"both": right["shape"] & right["motion"]}
    return {f"{name} {kind}": 100 * hits.float().mean().item() for kind, hits in right.items()}


def fine_tuned(
    model: MaskedAutoencoder, data: dict[str, Clips], config: PretrainConfig, seed: int, steps: int
) -> dict[str, float]:
    """Validation top-1, %, of all of the model trained on with the demo's fine-tuning recipe.

    It learns shape and motion together, as 32 classes; a shape is right whatever the motion.
    """
    torch.manual_seed(seed)
    kind = "both" if "motion" in kinds(config) else "shape"
    labels, right = data["train"].labels[kind], data["validation"].labels[kind]
    encoder = replace(model.config.encoder, patch_init="default")
    classifier = VideoClassifier(
        VideoClassifierConfig(encoder=encoder, classes=int(right.max()) + 1)
    )
    weights = model.encoder.state_dict()
    classifier.encoder.load_state_dict(
        {name: weights[name] for name in classifier.encoder.state_dict()}
    )
    groups = parameter_groups(classifier, 0.05, layer_decay=0.75)
    optimiser = torch.optim.AdamW(groups, betas=(0.9, 0.999), fused=True)
    generator = torch.Generator().manual_seed(seed)
    batch = config.optim.global_batch_size
    for step in range(steps):
        set_lr(optimiser, cosine(step, steps, steps // 10, 2e-3, 1e-5))
        rows = torch.randint(len(labels), (batch,), generator=generator)
        loss = F.cross_entropy(classifier(first_frames(data["train"], rows, config)), labels[rows])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    classifier.eval()
    with torch.no_grad():
        classes = torch.cat([
            classifier(first_frames(data["validation"], rows, config))
            for rows in torch.arange(len(right)).split(BLOCK)
        ]).argmax(1)  # fmt: skip
    if kind == "shape":
        return shares("fine-tuned", {"shape": classes == right})
    named = {"shape": classes // MOTIONS, "motion": classes % MOTIONS}
    hits = {k: named[k] == data["validation"].labels[k] for k in kinds(config)}
    return shares("fine-tuned", hits)


# --- diagnostics ------------------------------------------------------------------------------


@torch.no_grad()
def diagnose(
    trained: Trained,
    arm: Arm,
    clips: Clips,
    config: PretrainConfig,
    count: int = 64,
    masks: int = 16,
) -> dict[str, float]:
    """Whether hard tubes are found, and whether they are the object; on validation clips.

    The truth: a tube's mean loss over the random masks, of ratio .75 for every arm, that hid it.
    How much of the object stays visible is that of the masks of the arm's last step.
    """
    rows = torch.arange(min(count, len(clips.frames)))
    seen, grid = first_frames(clips, rows, config), config.model.grid()
    generator = torch.Generator().manual_seed(0)
    target = hpm.TARGETS[config.model.target](grid, config)
    truth = true_hardness(trained.model, seen, masks, 0.75, target, generator)
    cover = cover_per_token(clips, rows, config)
    object_share = cover.view(len(rows), grid.t, -1).mean(1)
    found = object_left(trained, arm, seen, cover, config) | {
        "validation loss": float(truth.mean()),
        "object in hard": lift(object_share, truth),
        "hard over mean loss": lift(truth, truth),
    }
    if trained.teacher is None:
        return found
    scores = {}
    for name, steps in (("thinned", 1), ("full", None)):
        if name == "thinned" and grid.t == 1:
            continue
        read = trained.teacher.read if name == "full" else "query"
        by_tube = trained.teacher.model.score(seen, steps, read)
        if by_tube.shape != truth.shape:
            by_tube = by_tube.view(len(rows), grid.t, -1).mean(1)
        scores[name] = by_tube
        found |= {
            f"{name} teacher against truth": float(hpm.rank_correlation(by_tube, truth)),
            f"{name} teacher, loss of hard over mean": lift(truth, by_tube),
            f"{name} teacher, object in hard": lift(object_share, by_tube),
        }
    if len(scores) == 2:
        correlation = hpm.rank_correlation(scores["thinned"], scores["full"])
        found["thinned against full"] = float(correlation)
    return found


def object_left(
    trained: Trained, arm: Arm, seen: Tensor, cover: Tensor, config: PretrainConfig
) -> dict[str, float]:
    """How much of the object the masks of the arm's last step leave to the encoder."""
    shuffle_ids = arm.draw(len(seen), config, torch.Generator().manual_seed(1))
    grid, end = config.model.grid(), config.hpm.hard_ratio_end
    mask = hpm.draw_mask(trained.scorer, seen, shuffle_ids, grid, config.mask, end, decode_all=True)
    visible = 1 - cover.gather(1, mask.masked).sum(1) / cover.sum(1)
    return {
        "object visible at the end": float(visible.mean()),
        "clips with the object hidden": float((visible < HIDDEN).float().mean()),
    }


def cover_per_token(clips: Clips, rows: Tensor, config: PretrainConfig) -> Tensor:
    """(B, N): share of each token that is object, as the generator knows it."""
    grid = config.model.grid()
    steps = STRIDE * torch.arange(config.model.frames)
    return F.adaptive_avg_pool3d(clips.cover[rows][:, steps], (grid.t, grid.h, grid.w)).flatten(1)


def lift(values: Tensor, scores: Tensor) -> float:
    """Mean of ``values`` over the quarter of tubes of the highest scores, over their mean."""
    hard = scores.topk(scores.shape[1] // 4, dim=1).indices
    return float(values.gather(1, hard).mean() / values.mean())
