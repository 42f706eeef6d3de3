#!/usr/bin/env python
"""Does the teacher look at the clip, or does it know places?

    python benchmarks/mining.py runs/demo --manifest data/shapes/validation.csv

The truth is measured: each clip is reconstructed under random masks, and a tube's hardness is the
mean of its losses where it was hidden. The teacher, and the student's own predictor, are asked as
in training: with nothing hidden. Give clips that the run was not trained on; how they
are cut, masked and normalised is read from the run.

``rank correlation``   Spearman's with the truth, mean over clips. ``truth``: between two halves of
                       the masks, which bounds what anybody can reach
``position share``     of the variance of the ranks, what the place in the frame explains: 1 where
                       every clip has the same order, 0 where places do not matter
``beyond position``    correlation with the truth of what the place does not explain: ranks minus
                       the mean rank of their tube

``fixed map`` says of every clip the mean rank that each place has in the other clips: a teacher
that is no better does not look at the clip. Such a map knows nothing beyond position.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from hardness import true_hardness
from torch import Tensor

from videohpm import checkpoint, hpm
from videohpm.data import DataConfig, collate, make_dataset, normalise
from videohpm.models import MaskedAutoencoder
from videohpm.visualize.command import Recipe

BLOCK = 64
COLUMNS = ("rank_correlation", "position_share", "beyond_position")


# --- the numbers ------------------------------------------------------------------------------


def ranks_of(values: Tensor) -> Tensor:
    """(n, L) values to their ranks within each clip, 0 for the lowest; ties in given order."""
    return values.argsort(1).argsort(1).double()


def position_share(ranks: Tensor) -> float:
    """Share of the variance of the ranks (n, L) that is between tubes, corrected for few clips.

    The one-way analysis of variance with the tube as factor: epsilon squared. The mean rank of a
    tube over n clips differs by chance too, by 1/n of the variance within tubes; without the
    correction independent ranks of n clips would give about 1/n instead of 0. n ≥ 2.
    """
    clips, tubes = ranks.shape
    means = ranks.mean(0)
    between = clips * (means - means.mean()).square().sum()
    within = (ranks - means).square().sum()
    chance = (tubes - 1) * within / (tubes * (clips - 1))
    return float((between - chance) / (between + within))


def beyond_position(ranks: Tensor, truth: Tensor) -> float:
    """Correlation, over all clips together, of two rankings (n, L) less their tubes' mean ranks.

    0 where one of them is the same in every clip.
    """
    a, b = ((x - x.mean(0)).flatten() for x in (ranks, truth))
    product = a.norm() * b.norm()
    return float(a @ b / product) if product > 0 else 0.0


def fixed_map(ranks: Tensor) -> Tensor:
    """(n, L): for each clip the mean rank of each tube in the other clips."""
    return (ranks.sum(0) - ranks) / (len(ranks) - 1)


def compare(
    truth: Tensor, halves: tuple[Tensor, Tensor], told: dict[str, Tensor]
) -> dict[str, dict[str, float | None]]:
    """The table: a row for the truth, each of those who told, and the fixed map.

    Args:
        truth: (n, L) measured hardness.
        halves: the same by either half of the masks.
        told: (n, L) scores by who gave them.
    """
    real = ranks_of(truth)
    rows: dict[str, dict[str, float | None]] = {
        "truth": dict(
            zip(
                COLUMNS,
                (float(hpm.rank_correlation(*halves)), position_share(real), None),
                strict=True,
            )
        )
    }
    for name, scores in told.items():
        ranks = ranks_of(scores)
        agreement = float(hpm.rank_correlation(scores, truth))
        found = (agreement, position_share(ranks), beyond_position(ranks, real))
        rows[name] = dict(zip(COLUMNS, found, strict=True))
    agreement = float(hpm.rank_correlation(fixed_map(real), truth))
    rows["fixed map"] = dict(zip(COLUMNS, (agreement, 1.0, 0.0), strict=True))
    return rows


# --- the run and its clips --------------------------------------------------------------------


def read_clips(model: MaskedAutoencoder, recipe: Recipe, args: argparse.Namespace) -> Tensor:
    """uint8 (n, 3, T, H, W): a clip of each of the first ``args.clips`` files, centre crop."""
    grid, data = model.grid, recipe.data
    data = DataConfig(
        root=args.root, manifest=args.manifest, crop="centre", sampling=data.sampling,
        stride=data.stride, interpolation=data.interpolation,
    )  # fmt: skip
    samples = make_dataset(
        data, frames=grid.frames, size=(grid.height, grid.width), units=grid.tubes, seed=0
    )
    count = min(args.clips, len(samples))
    if count < 2:
        raise SystemExit(f"mining.py: {count} clips, which is too few; give 2 or more")
    return collate([samples[0, i] for i in range(count)]).clips


@torch.no_grad()
def measure(args: argparse.Namespace) -> dict:
    """What is said of a run: what was asked, and the rows of :func:`compare`."""
    model, teacher = checkpoint.load_model(args.run), checkpoint.load_teacher(args.run)
    recipe = Recipe.of(checkpoint.read_about(args.run)[0])
    model.eval()
    statistics = recipe.data.mean, recipe.data.std
    generator = torch.Generator().manual_seed(args.seed)
    halves: tuple[list[Tensor], list[Tensor]] = ([], [])
    told: dict[str, list[Tensor]] = {"teacher": [], "student": []}
    for block in read_clips(model, recipe, args).split(BLOCK):
        clips = normalise(block, *statistics)
        for half in halves:
            half.append(
                true_hardness(model, clips, args.masks // 2, recipe.ratio, statistics[1], generator)
            )
        for name, asked in (("teacher", teacher.model), ("student", model)):
            scores = asked.score(clips, teacher.steps, teacher.read)
            told[name].append(scores.view(len(clips), -1, model.grid.tubes).mean(1))
    first, second = (torch.cat(half) for half in halves)
    rows = compare(
        (first + second) / 2, (first, second), {name: torch.cat(x) for name, x in told.items()}
    )
    return {
        "run": str(args.run), "of": args.manifest or args.root, "clips": len(first),
        "masks": args.masks // 2 * 2, "ratio": recipe.ratio, "rows": rows,
    }  # fmt: skip


def table(rows: dict[str, dict[str, float | None]]) -> str:
    """The rows as text."""
    lines = [f"{'':10}" + "".join(f"{name.replace('_', ' '):>18}" for name in COLUMNS)]
    for name, row in rows.items():
        cells = ("" if row[key] is None else f"{row[key]:.3f}" for key in COLUMNS)
        lines.append(f"{name:10}" + "".join(f"{cell:>18}" for cell in cells))
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    """Print the table; with --json keep it."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("run", help="run folder or checkpoint with a teacher")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--manifest", help="file that lists the clips")
    source.add_argument("--root", "--data.root", help="folder of clips")
    parser.add_argument("--clips", type=int, default=192)
    parser.add_argument("--masks", type=int, default=48, help="random masks a clip")
    parser.add_argument("--seed", type=int, default=0, help="of the masks")
    parser.add_argument("--json", type=Path, help="file to write")
    args = parser.parse_args(arguments)
    found = measure(args)
    print(f"{found['run']}: {found['clips']} clips of {found['of']}, {found['masks']} masks each\n")
    print(table(found["rows"]))
    if args.json:
        args.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
