"""Looks at a model while it trains: does it learn? They draw nothing and change nothing.

Every rank looks at its share of the clips, with as many forward passes as the others (the weights
may be divided among them), and all of them get the numbers of all clips.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from videohpm import hpm
from videohpm.config import PretrainConfig
from videohpm.data import Manifest, normalise
from videohpm.data.loader import Loader
from videohpm.engine import TorchEngine, collectives, distributed
from videohpm.errors import UserError
from videohpm.evaluate.command import check_kind
from videohpm.evaluate.knn import knn_probabilities
from videohpm.evaluate.linear import linear_probabilities
from videohpm.evaluate.load import pool_tokens
from videohpm.evaluate.metrics import accuracy
from videohpm.evaluate.probing import labelled_list
from videohpm.evaluate.protocol import EvalProtocol
from videohpm.evaluate.views import ViewDataset
from videohpm.hpm import Target
from videohpm.models import MaskedAutoencoder

STRENGTH = 0.1
"""Of the linear probe: rather strong, for the few samples there are."""
NEIGHBOURS = 20
SKETCH = 16
"""Of so many clips so many numbers of their features are kept, to see whether they change."""


class Rows:
    """Which of ``count`` rows this rank looks at, and the values of all ranks put together."""

    def __init__(self, count: int):
        self.count, world = count, distributed.world_size()
        own = np.arange(distributed.rank(), count, world)
        each = -(-count // world)  # on every rank, so that all make as many forward passes
        self.own, self.padded = own, np.resize(own, each) if len(own) else np.zeros(each, int)

    def gather(self, values: Tensor) -> Tensor:
        """(padded, …) of this rank → (count, …) fp32 of all ranks. Every rank must call it."""
        everything = torch.zeros(self.count, *values.shape[1:])
        everything[torch.from_numpy(self.own)] = values[: len(self.own)].float().cpu()
        return collectives.all_reduce_tensor(everything)


@dataclass
class Labelled:
    """Labelled clips in memory."""

    rows: Rows
    clips: Tensor
    """uint8 (padded, 3, T, H, W) of this rank."""
    labels: Tensor
    """(count,) of all ranks; -1 where the clip could not be read."""
    classes: int


def labelled_manifest(config: PretrainConfig) -> Manifest | None:
    """The labelled samples of ``probe.manifest``, of each class as many, if there are any.

    Raises UserError.
    """
    given = config.probe
    if given.manifest is None:
        return None
    manifest = labelled_list("probe.manifest", given.manifest, given.root, config.data.kind)
    check_kind(manifest, config.model.frames)
    chosen = balanced(manifest.labels, given.samples)
    several = (np.bincount(manifest.labels[chosen]) > 1).sum()
    if several < 2:
        raise UserError(
            f"probe.manifest: {given.manifest}: {several} classes have more than one sample; give "
            "a list where two have"
        )
    return manifest.subset(chosen)


def balanced(labels: np.ndarray, most: int) -> np.ndarray:
    """At most ``most`` rows in order, of each class as many as of the others where it has them.

    Where there are many classes, only of ``most`` / 4 of them, so that each has a few.

    >>> balanced(np.array([0, 0, 0, 0, 1, 1, 2]), 5).tolist()
    [0, 1, 2, 4, 5]
    """
    names, few = np.unique(labels), max(2, most // 4)
    if len(names) > few:
        names = names[np.arange(few) * len(names) // few]
    place = np.full(len(labels), len(labels))  # of a row within its class
    for name in names:
        own = np.flatnonzero(labels == name)
        place[own] = np.arange(len(own))
    first = np.argsort(place, kind="stable")[: min(most, np.isin(labels, names).sum())]
    return np.sort(first)


def halves(labels: Tensor) -> Tensor:
    """True for every other row of each class: (n,) bool."""
    second = torch.zeros(len(labels), dtype=torch.bool)
    for label in labels.unique():
        second[(labels == label).nonzero()[1::2, 0]] = True
    return second


def read_labelled(manifest: Manifest, config: PretrainConfig) -> Labelled:
    """Read the samples once. Every rank must call it: each reads its share.

    Raises UserError where too few could be read.
    """
    rows, grid = Rows(len(manifest)), config.model.grid()
    protocol = EvalProtocol.as_trained(config.data, grid)
    dataset = ViewDataset(manifest, protocol, config.data.decode_timeout)
    blank = torch.zeros(3, protocol.frames, *protocol.size, dtype=torch.uint8)
    clips, readable = [], []
    batches = [[row] for row in rows.padded.tolist()]
    for (video,) in Loader(dataset, batches, list, workers=min(config.data.readers, 4)):
        clips.append(blank if video.views is None else video.views[0])
        readable.append(video.views is not None)
    found = rows.gather(torch.tensor(readable)).bool()
    labels = torch.from_numpy(manifest.labels.astype(np.int64)).where(found, -1)
    if (labels[found].bincount() > 1).sum() < 2:
        raise UserError(
            f"probe.manifest: {int(found.sum())} of {len(found)} samples could be read; videohpm "
            "data scan says why"
        )
    return Labelled(rows, torch.stack(clips), labels, int(manifest.labels.max()) + 1)


class OnlineProbe:
    """Numbers that say whether a run learns, of the same clips every time.

    Args:
        clips: uint8 (padded, 3, T, H, W), this rank's share of the unlabelled clips.
        shuffle_ids: (padded, units), the random masks that they are reconstructed under.
        rows: which share that is.
        target: what the run reconstructs.
        labelled: clips with labels, where there are any.
        sketch: of an interrupted run, see :attr:`sketch`.

    Attributes:
        sketch: what is kept of the last look's features, (SKETCH, SKETCH) plain numbers.
    """

    def __init__(
        self,
        config: PretrainConfig,
        clips: Tensor,
        shuffle_ids: Tensor,
        rows: Rows,
        target: Target,
        labelled: Labelled | None = None,
        sketch: list | None = None,
    ):
        self.config, self.clips, self.shuffle_ids, self.rows = config, clips, shuffle_ids, rows
        self.target, self.labelled, self.sketch = target, labelled, sketch

    def measure(self, engine: TorchEngine, model: MaskedAutoencoder) -> dict[str, float | None]:
        """Look at ``model``. Every rank must call it."""
        with engine.eval_mode(), engine.autocast():
            losses = self.rows.gather(self._each(engine, self.clips, self._losses, model))
            features = self.rows.gather(self._each(engine, self.clips, _pooled, model))
            known = self.labelled and self.labelled.rows.gather(
                self._each(engine, self.labelled.clips, _pooled, model)
            )
        found = {
            "probe_loss": float(losses[:, 0].mean()),
            "mean_colour_loss": float(losses[:, 1].mean()),
            "effective_rank": hpm.effective_rank(features),
            "feature_spread": hpm.feature_spread(features),
            "feature_change": self._change(features),
        }
        return found | (self._accuracy(known) if known is not None else {})

    def _each(self, engine: TorchEngine, clips: Tensor, what: Any, model: Any) -> Tensor:
        """``what`` of a few clips at a time, as many as a training step has at once."""
        data, batch = self.config.data, self.config.optim.global_batch_size
        size = max(1, min(32, batch // (engine.world * self.config.engine.accumulation)))
        outputs = []
        for start in range(0, len(clips), size):
            part = clips[start : start + size].to(engine.device)
            part = normalise(part, data.mean, data.std)
            outputs.append(what(model, part, slice(start, start + size)).float())
        return torch.cat(outputs)

    def _losses(self, model: MaskedAutoencoder, clips: Tensor, rows: slice) -> Tensor:
        """(B, 2): the loss of each clip under a random mask, and that of its mean target."""
        config = self.config
        mask = hpm.draw_mask(
            None, clips, self.shuffle_ids[rows], config.model.grid(), config.mask, 0.0,
            decode_all=True,
        )  # fmt: skip
        predicted, targets = model(clips, mask).pixels, self.target(clips, mask)
        # The mean over the tokens, and over the pixels of each: one colour, the same everywhere.
        pixels = isinstance(self.target, hpm.PixelTarget)
        colours = targets.unflatten(-1, (-1, 3)) if pixels else targets[..., None, :]
        flat = colours.mean((1, 2), keepdim=True).expand_as(colours).flatten(2)
        loss = hpm.TOKEN_LOSSES[config.model.target_loss]
        return torch.stack([loss(each, targets).mean(1) for each in (predicted, flat)], 1)

    def _change(self, features: Tensor) -> float | None:
        """Of the features since the last look; None at the first."""
        generator = torch.Generator().manual_seed(0)
        directions = torch.randn(features.shape[1], SKETCH, generator=generator)
        sketch, before = features[:SKETCH] @ directions, self.sketch
        self.sketch = sketch.tolist()
        if before is None or len(before) != len(sketch):  # or of another probe.clips
            return None
        return hpm.feature_change(torch.tensor(before), sketch)

    def _accuracy(self, features: Tensor) -> dict[str, float | None]:
        """Top-1 in per cent: each half of the clips is classified by the other half."""
        assert self.labelled is not None
        known = self.labelled.labels >= 0
        features, labels = features[known], self.labelled.labels[known]
        second, classes = halves(labels), self.labelled.classes
        hits = {"knn_top1": 0.0, "linear_top1": 0.0}
        for asked in (second, ~second):
            train, queries = (features[~asked], labels[~asked]), features[asked]
            right = labels[asked].numpy()
            probabilities = {
                "knn_top1": knn_probabilities(*train, queries, classes=classes, k=NEIGHBOURS),
                "linear_top1": linear_probabilities(
                    *train, queries, classes=classes, strength=STRENGTH
                ),
            }
            for name, each in probabilities.items():
                top1 = accuracy(each.numpy().astype(np.float64), right)["top1"]
                hits[name] += (top1 or 0.0) * len(right) / len(labels)
        return dict(hits)


def _pooled(model: MaskedAutoencoder, clips: Tensor, _rows: slice) -> Tensor:
    return pool_tokens(model, model.encoder(clips))
