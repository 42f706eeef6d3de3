#!/usr/bin/env python
"""Does the teacher look at the clip, or does it know positions?

    python benchmarks/mining.py runs/demo --manifest data/shapes/validation.csv

The truth is measured: each clip is reconstructed under random masks, and a tube's hardness is the
mean of its losses where it was hidden. The teacher, and the student's own predictor, are asked as
in training: with nothing hidden. Give clips that the run was not trained on; how they are cut,
masked and normalised is read from the run.

``rank correlation``   Spearman's with the truth, mean over clips. ``truth``: of two halves of the
                       masks with each other, which bounds what anybody can reach
``position share``     of the variance of the ranks, what the position explains: 1 where every clip
                       is ranked alike, 0 where positions do not matter
``choice overlap``     how much the hardest quarters of two clips share, beyond chance
``beyond position``    correlation with the truth of what the position does not explain: ranks
                       minus the mean rank of their position

``fixed map`` says of every clip the mean rank that each position has in the other clips: a teacher
that is no better does not look at the clip. Such a map knows nothing beyond position.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import torch
from hardness import true_hardness
from torch import Tensor

from videohpm import checkpoint, hpm
from videohpm.config import DataConfig
from videohpm.data import collate, make_dataset, normalise
from videohpm.errors import UserError
from videohpm.hpm.mining import PositionStatistics, choice_overlap, position_share
from videohpm.models import MaskedAutoencoder
from videohpm.visualize.command import ClipSettings

BLOCK = 64
HARD = 0.25  # of the tubes: the hard set of choice_overlap
COLUMNS = ("rank_correlation", "position_share", "choice_overlap", "beyond_position")
Row = dict[str, float | None]


# --- the numbers ------------------------------------------------------------------------------


def ranks_of(values: Tensor) -> Tensor:
    """(n, L) values to their ranks within each clip, 0 for the lowest; ties in given order."""
    return values.argsort(1).argsort(1).double()


def beyond_position(scores: Tensor, truth: Tensor) -> float:
    """Correlation, over all clips together, of two rankings (n, L) less their tubes' mean ranks.

    0 where one of them is the same in every clip.
    """
    a, b = ((x - x.mean(0)).flatten() for x in map(ranks_of, (scores, truth)))
    product = a.norm() * b.norm()
    return float(a @ b / product) if product > 0 else 0.0


def fixed_map(values: Tensor) -> Tensor:
    """(n, L): for each clip the mean rank of each tube in the other clips."""
    ranks = ranks_of(values)
    return (ranks.sum(0) - ranks) / (len(ranks) - 1)


def describe(scores: Tensor) -> tuple[float, float]:
    """Position share and choice overlap of scores (n, L)."""
    statistics = PositionStatistics(scores.shape[1], HARD)
    statistics.update(scores)
    return float(position_share(statistics.sums)), float(choice_overlap(statistics.sums))


def compare(halves: tuple[Tensor, Tensor], told: dict[str, Tensor]) -> dict[str, Row]:
    """A row for the truth, one for each of those who told, and one for the fixed map.

    Args:
        halves: (n, L) measured hardness by either half of the masks; the truth is their mean.
        told: (n, L) scores by who gave them.
    """
    truth = (halves[0] + halves[1]) / 2
    found = {"truth": (float(hpm.rank_correlation(*halves)), *describe(truth), None)}
    for name, scores in told.items():
        agreement = float(hpm.rank_correlation(scores, truth))
        found[name] = (agreement, *describe(scores), beyond_position(scores, truth))
    # What varies in the map is only that each clip is left out of its own: by definition 1, 1, 0.
    agreement = float(hpm.rank_correlation(fixed_map(truth), truth))
    found["fixed map"] = (agreement, 1.0, 1.0, 0.0)
    return {name: dict(zip(COLUMNS, values, strict=True)) for name, values in found.items()}


# --- the run and its clips --------------------------------------------------------------------


def read_clips(model: MaskedAutoencoder, as_trained: DataConfig, args: argparse.Namespace):
    """uint8 (n, 3, T, H, W), centre crops: a clip of each of ``args.clips`` files spread evenly over
    the list; of fewer videos, several of each, from random moments."""
    grid = model.grid
    data = DataConfig(
        root=args.root, manifest=args.manifest, crop="centre", sampling=as_trained.sampling,
        stride=as_trained.stride, interpolation=as_trained.interpolation,
    )  # fmt: skip
    samples = make_dataset(
        data, frames=grid.frames, size=(grid.height, grid.width), units=grid.num_tubes, seed=0
    )
    files = len(samples)
    count = args.clips if grid.frames > 1 else min(args.clips, files)
    if count < 2:
        raise UserError(f"--clips: {count} is too few to tell positions from clips; give 2 or more")
    keys = [(i // files, i % files) if count > files else (0, i * files // count)
            for i in range(count)]  # fmt: skip
    return collate([samples[key] for key in keys]).clips


@torch.no_grad()
def measure(args: argparse.Namespace) -> dict:
    """What was asked of a run, and the rows of :func:`compare`."""
    if args.masks < 2:
        raise UserError(f"--masks: {args.masks}; give 2 or more")
    model, teacher = checkpoint.load_model(args.run).eval(), checkpoint.load_teacher(args.run)
    trained = ClipSettings.of(checkpoint.read_metadata(args.run)[0], model).config
    target = hpm.TARGETS[trained.model.target](model.grid, trained)
    generator = torch.Generator().manual_seed(args.seed)
    parts: dict[str, list[Tensor]] = {"first": [], "second": [], "teacher": [], "student": []}
    for block in read_clips(model, trained.data, args).split(BLOCK):
        clips = normalise(block, trained.data.mean, trained.data.std)
        for half in ("first", "second"):
            masks = args.masks // 2
            parts[half].append(
                true_hardness(model, clips, masks, trained.mask.ratio, target, generator)
            )
        for name, asked in (("teacher", teacher.model), ("student", model)):
            scores = asked.score(clips, teacher.steps, teacher.read)
            parts[name].append(scores.view(len(clips), -1, model.grid.num_tubes).mean(1))
    first, second, *told = (torch.cat(part) for part in parts.values())
    rows = compare((first, second), dict(zip(("teacher", "student"), told, strict=True)))
    return {
        "run": str(args.run), "of": args.manifest or args.root, "clips": len(first),
        "masks": args.masks // 2 * 2, "ratio": trained.mask.ratio, "rows": rows,
    }  # fmt: skip


def table(rows: dict[str, Row]) -> str:
    """The rows as text."""
    lines = [f"{'':10}" + "".join(f"{name.replace('_', ' '):>18}" for name in COLUMNS)]
    for name, row in rows.items():
        cells = ("" if row[key] is None else f"{row[key]:.3f}" for key in COLUMNS)
        lines.append(f"{name:10}" + "".join(f"{cell:>18}" for cell in cells))
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Print the table; with --json keep it. A user's mistake is one line and exit code 2."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("run", help="run folder or checkpoint with a teacher")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--manifest", "--data.manifest", help="file that lists the clips")
    source.add_argument("--root", "--data.root", help="folder of clips")
    parser.add_argument("--clips", type=int, default=192, help="how many to use, at most")
    parser.add_argument("--masks", type=int, default=48, help="random masks a clip")
    parser.add_argument("--seed", type=int, default=0, help="of the masks")
    parser.add_argument("--json", type=Path, help="file to write")
    args = parser.parse_args(arguments)
    try:
        found = measure(args)
    except UserError as error:
        print(f"mining.py: {error}", file=sys.stderr)
        return 2
    print(f"{found['run']}: {found['clips']} clips of {found['of']}, {found['masks']} masks each\n")
    print(table(found["rows"]))
    if args.json:
        args.json.write_text(json.dumps(found, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
