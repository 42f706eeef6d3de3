#!/usr/bin/env python
"""How well does a teacher that sees less rank tubes?

    python benchmarks/teacher.py runs/demo --manifest data/shapes/validation.csv

The truth is measured as in mining.py: each clip is reconstructed under random masks, and a tube's
hardness is its mean where it was hidden. A line for every number of time steps that are seen of a
tube (below 1: the share of the tubes that is seen at all) and each way to read scores:

``FLOPs``             of one teacher's call, in thousandths of a training step without mining
``rank correlation``  Spearman's with the truth, mean over clips
``of the whole``      that, over the rank correlation of the student or teacher that sees everything
``top quarter``       how much of the truly hardest quarter is found
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

import torch
from hardness import true_hardness
from mining import read_clips
from torch import Tensor

from videohpm import checkpoint, hpm
from videohpm.config import PretrainConfig
from videohpm.data import normalise
from videohpm.errors import UserError
from videohpm.plan import flops_of
from videohpm.visualize.command import ClipSettings

SHARES = (0.25, 2 / 7, 0.33, 0.5, 0.67, 0.75)


def main(arguments: list[str] | None = None) -> int:
    """Print a line for each way to score. A user's mistake is one line and exit code 2."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("run", help="run folder or checkpoint with a teacher")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--manifest", "--data.manifest", help="clips the run was not trained on")
    source.add_argument("--root", "--data.root", help="folder of such clips")
    parser.add_argument("--clips", type=int, default=96, help="how many to use, at most")
    parser.add_argument("--masks", type=int, default=48, help="random masks a clip")
    parser.add_argument("--json", type=Path, help="file to write")
    args = parser.parse_args(arguments)
    try:
        rows = measure(args)
    except UserError as error:
        print(f"teacher.py: {error}", file=sys.stderr)
        return 2
    columns = list(rows[0])
    print("".join(f"{column:>18}" for column in columns))
    for row in rows:
        cells = (f"{x:.3f}" if isinstance(x, float) else str(x) for x in row.values())
        print("".join(f"{cell:>18}" for cell in cells))
    if args.json:
        found = {"run": args.run, "of": args.manifest or args.root, "rows": rows}
        args.json.write_text(json.dumps(found, indent=2) + "\n")
    return 0


@torch.no_grad()
def measure(args: argparse.Namespace) -> list[dict]:
    """A row for each of student and teacher, number of samples, and way to read."""
    model, teacher = checkpoint.load_model(args.run).eval(), checkpoint.load_teacher(args.run)
    config = ClipSettings.of(checkpoint.read_metadata(args.run)[0], model).config
    clips = read_clips(model, config.data, args)
    clips = normalise(clips, config.data.mean, config.data.std)
    target = hpm.TARGETS[config.model.target](model.grid, config)
    generator = torch.Generator().manual_seed(0)
    truth = true_hardness(model, clips, args.masks, config.mask.ratio, target, generator)
    t, rows = model.grid.t, []
    for name, scorer in (("student", model), ("teacher", teacher.model)):
        for read in ("query", "visible"):
            whole = None
            for samples in sorted({*SHARES, 1, 2, t // 2, t}, reverse=True):
                if not 0 < samples <= t or (samples < 1 and read == "visible"):
                    continue
                scores = scorer.score(clips, samples, read)
                scores = scores.view(len(scores), -1, model.grid.num_tubes).mean(1)
                correlation = float(hpm.rank_correlation(scores, truth))
                whole = correlation if whole is None else whole
                rows.append({
                    "scores of": name, "read at": read, "samples of a tube": samples,
                    "FLOPs": round(1000 * cost(config, samples, read)),
                    "rank correlation": correlation, "of the whole": correlation / whole,
                    "top quarter": top_overlap(scores, truth),
                })  # fmt: skip
    return rows


def cost(config: PretrainConfig, samples: float, read: str) -> float:
    """FLOPs of the teacher over those of a step without mining."""
    mining = replace(config.hpm, teacher_samples_per_tube=samples, score_readout=read)
    plain = replace(config, hpm=replace(config.hpm, enabled=False))
    teacher = flops_of(replace(config, hpm=mining))["scorer"]
    return teacher / flops_of(plain)["student"]


def top_overlap(scores: Tensor, truth: Tensor) -> float:
    """Share of the truly hardest quarter that is among the highest quarter of scores."""
    quarter = truth.shape[1] // 4
    chosen, hardest = (torch.zeros_like(truth).scatter(1, x.topk(quarter).indices, 1.0)
                       for x in (scores, truth))  # fmt: skip
    return float((chosen * hardest).sum() / hardest.sum())


if __name__ == "__main__":
    sys.exit(main())
