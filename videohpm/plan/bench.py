"""``videohpm data bench``: what reading a list costs, and how many cores a planned run needs."""

from __future__ import annotations

import math
import os
import tempfile
from dataclasses import fields
from pathlib import Path

from videohpm.config import BenchConfig
from videohpm.config.machine import cores_per_rank
from videohpm.config.mask import unit_count
from videohpm.data import ClipDataset, DecodeError, Manifest
from videohpm.data import bench as reading
from videohpm.data.advice import COPY, REPEAT, advice, copy_helps
from videohpm.data.clips import dataset_of
from videohpm.data.manifest import find_samples
from videohpm.errors import RunError, UserError
from videohpm.plan.reading import clips_wanted

AS_LISTED = "as listed"
"""The reader that the list, or the file, leads to."""


def bench(config: BenchConfig) -> str:
    """Measures, and says what follows for the run that is planned.

    Raises UserError where there is nothing to read, RunError where reading fails.
    """
    manifest = find_samples(config.data.root, config.data.manifest, kind=config.data.kind)
    some = reading.some_of(_data_set(config, manifest), config.files)
    if not len(some):
        source = config.data.manifest or config.data.root
        raise UserError(f"data.manifest: none of the files of {source} that were tried can be read")
    with tempfile.TemporaryDirectory() as folder:
        try:
            forms, copying = _forms(config, some, Path(folder))
            costs = reading.measure(_arms(config, forms), config.clips, config.rounds)
        except DecodeError as error:
            raise RunError(f"{error}; videohpm data scan finds such files") from None
    parts = [
        _head(config, manifest, some),
        *_table(costs),
        *([_of_copying(config, manifest, some, copying)] if copying else []),
        "",
        *_need(config, costs),
        "",
        "what helps:",
        *(f"- {line}" for line in _advice(config, manifest, costs)),
    ]
    return "\n".join(parts)


def _forms(
    config: BenchConfig, some: Manifest, folder: Path
) -> tuple[dict[str, Manifest], tuple[float, float] | None]:
    """The files by form, and what copying took: (processor seconds, bytes over bytes)."""
    if not copy_helps(some) or any(os.path.isdir(sample.path) for sample in some):
        return {"listed": some}, None
    copies, seconds = reading.key_frame_copies(some, folder, config.short_side)
    before, after = (
        sum(os.path.getsize(sample.path) for sample in each) for each in (some, copies)
    )
    return {"listed": some, "copy": copies}, (seconds, after / before)


def _arms(config: BenchConfig, forms: dict[str, Manifest]) -> dict[tuple[str, str], ClipDataset]:
    """Data sets by form and reader; first of each form as it would be read."""
    arms = {}
    for form, files in forms.items():
        arms[form, AS_LISTED] = _data_set(config, files)
        for reader in reading.readers_of(files):
            known = reading.as_scanned(files).read_by(reader)
            arms[form, reader] = _data_set(config, known)
    return arms


def _data_set(config: BenchConfig, manifest: Manifest) -> ClipDataset:
    """As the run would have it. UserError where images are to be clips of several frames."""
    grid = config.model.grid()
    units = unit_count(grid, config.mask.unit)
    shape = {"frames": grid.frames, "size": (grid.height, grid.width), "units": units}
    return dataset_of(manifest, config.data, **shape)


def _head(config: BenchConfig, manifest: Manifest, some: Manifest) -> str:
    grid, data = config.model.grid(), config.data
    what = f"{grid.frames} frames of {grid.height}x{grid.width}"
    if grid.frames > 1:
        what += f", stride {data.stride}" if data.sampling == "dense" else ", segments"
    return (
        f"{len(some)} of {len(manifest)} files; {what}, {data.repeats} clips of each decode. "
        "Processor time of a clip, ms:"
    )


def _table(costs: dict[tuple[str, str], reading.Cost]) -> list[str]:
    names = [field.name for field in fields(reading.Cost)]
    rows = [["form", "reader", *(name.replace("_", " ") for name in names), "clips/s a core"]]
    for (form, reader), cost in costs.items():
        numbers = [f"{getattr(cost, name):.2f}" for name in names]
        rows.append([form, reader, *numbers, f"{cost.clips_per_second:.1f}"])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            f"{cell:<{width}}" if number < 2 else f"{cell:>{width}}"
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]


def _of_copying(
    config: BenchConfig, manifest: Manifest, some: Manifest, copying: tuple[float, float]
) -> str:
    seconds, size = copying
    hours = seconds / len(some) * len(manifest) / 3600
    return (
        f"a copy at a short side of {config.short_side} takes {size:.1f} times the bytes, and "
        f"{seconds / len(some):.1f} core seconds a file: {hours:.2g} core hours for all of the list"
    )


def _need(config: BenchConfig, costs: dict[tuple[str, str], reading.Cost]) -> list[str]:
    """Cores for each rank, of the list as it is read and of what is fastest of each form."""
    wanted, have = clips_wanted(config), cores_per_rank()
    if not wanted:
        return [f"{config.gpu} has no bf16: set --engine.precision fp32 to see what the run needs"]
    each = wanted / config.gpus
    lines = [
        f"{config.gpus} x {config.gpu} at {config.utilisation:.0%} of peak want {wanted:.0f} "
        f"clips/s, {each:.0f} a rank; this process may use {have} cores:"
    ]
    for form in dict.fromkeys(form for form, _ in costs):
        reader, cost = _fastest(costs, form)
        cores = math.ceil(each / cost.clips_per_second)
        lines.append(f"  {form:<7} {cores} cores a rank of {cost.clips_per_second:.1f} clips/s")
        listed = costs[form, AS_LISTED]
        if form == "listed" and listed.whole > 1.1 * cost.whole:
            cores = math.ceil(each / listed.clips_per_second)
            lines[-1] += f" with {reader}, {cores} as it is listed"
    return lines


def _fastest(costs: dict, form: str) -> tuple[str, reading.Cost]:
    of_form = {reader: cost for (one, reader), cost in costs.items() if one == form}
    reader = min(of_form, key=lambda name: of_form[name].whole)
    return reader, of_form[reader]


def _advice(config: BenchConfig, manifest: Manifest, costs: dict) -> list[str]:
    """The general advice, with what was measured here."""
    lines = advice(manifest, config.data)
    gain = {form: _fastest(costs, form)[1] for form in {form for form, _ in costs}}
    if "copy" in gain:
        times = costs["listed", AS_LISTED].whole / gain["copy"].whole
        lines = [
            line + f" (here {times:.1f} times the clips of a core)" if COPY in line else line
            for line in lines
        ]
    best = min(gain.values(), key=lambda cost: cost.whole)
    four = best.whole / (best.read / 4 + best.whole - best.read)
    lines = [
        line + f" (4: {four:.1f} times the clips of a core)" if REPEAT in line else line
        for line in lines
    ]
    return lines or ["nothing more is known: give each rank more cores"]
