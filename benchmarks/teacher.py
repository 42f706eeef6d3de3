"""How well a teacher that sees less ranks tubes: ``python benchmarks/teacher.py RUN ROOT``.

The truth is measured: each clip is reconstructed under many random masks, and a tube's hardness is
the mean of its losses where it was hidden. For every number of time steps that are seen of a tube
and both ways to read scores: Spearman's rank correlation with the truth, and how much of the
hardest quarter is found. RUN is a run folder or checkpoint of ours, ROOT a folder of clips it was
not trained on.
"""

from __future__ import annotations

import argparse

import torch
from hardness import true_hardness
from torch import Tensor

from videohpm import checkpoint, hpm
from videohpm.data import DataConfig, collate, make_dataset, normalise
from videohpm.models import MaskedAutoencoder


def main() -> None:
    """Print a line for each way to score."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run")
    parser.add_argument("root")
    parser.add_argument("--clips", type=int, default=64)
    parser.add_argument("--masks", type=int, default=24)
    parser.add_argument("--ratio", type=float, default=0.75)
    parser.add_argument("--stride", type=int, default=2)
    args = parser.parse_args()
    torch.manual_seed(0)
    model, teacher = checkpoint.load_model(args.run), checkpoint.load_teacher(args.run)
    clips, std = load_clips(model.eval(), args)
    truth = true_hardness(model, clips, args.masks, args.ratio, std)
    t = model.grid.t
    print(f"{'model':10}{'steps of a tube':>16}{'read':>10}{'rank corr.':>12}{'top quarter':>13}")
    for name, scorer in (("student", model), ("teacher", teacher.model)):
        for steps in sorted({1, 2, t // 2, t} - {0}):
            for read in ("query", "visible"):
                with torch.no_grad():
                    scores = scorer.score(clips, steps, read)
                if scores.shape != truth.shape:
                    scores = scores.view(len(scores), t, -1).mean(1)
                correlation = float(hpm.rank_correlation(scores, truth))
                found = top_overlap(scores, truth)
                seen = f"{steps} of {t}"
                print(f"{name:10}{seen:>16}{read:>10}{correlation:>12.3f}{found:>13.3f}")


def load_clips(model: MaskedAutoencoder, args: argparse.Namespace) -> tuple[Tensor, tuple]:
    """The first clips of the data set, normalised, and the deviation they were normalised by."""
    grid = model.grid
    data = DataConfig(root=args.root, sampling="dense", stride=args.stride, crop_scales=[1.0])
    samples = make_dataset(
        data, frames=grid.frames, size=(grid.height, grid.width), units=grid.num_tubes, seed=0
    )
    batch = collate([samples[0, i] for i in range(min(args.clips, len(samples)))])
    return normalise(batch.clips, data.mean, data.std), data.std


def top_overlap(scores: Tensor, truth: Tensor) -> float:
    """Share of the truly hardest quarter that is among the highest quarter of scores."""
    quarter = truth.shape[1] // 4
    chosen, hardest = (torch.zeros_like(truth).scatter(1, x.topk(quarter).indices, 1.0)
                       for x in (scores, truth))  # fmt: skip
    return float((chosen * hardest).sum() / hardest.sum())


if __name__ == "__main__":
    main()
