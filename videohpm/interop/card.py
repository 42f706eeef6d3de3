"""The model card written beside what is exported: README.md with the front matter of the Hub."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from videohpm.config.plain import as_plain
from videohpm.interop.core import Weights
from videohpm.interop.huggingface import CLASSES
from videohpm.interop.report import ConversionReport

UNKNOWN = "Not recorded. State here what the model was trained on before you share it."
LICENCE = (
    "Weights inherit terms from the weights they were made from and from the data they saw. "
    "Several published weights (those of VideoMAE, MAE and mae_st among them) came under CC BY-NC "
    "4.0, which forbids commercial use, and so do the terms of several video data sets. Check both "
    "before you share or deploy these files; conversion changes no licence."
)
UNSTATED = (
    "No licence is stated: `license: other` stands above until somebody who may does so, with "
    "`videohpm convert … --license NAME`."
)
USE = {
    "videohpm": "import videohpm\n\nmodel = videohpm.load_model({out!r})",
    "huggingface": "from transformers import {hf}\n\nmodel = {hf}.from_pretrained({out!r})\n"
    "# clips: (batch, frames, channels, height, width)",
    "timm": "import timm\n\nmodel = timm.create_model('local-dir:{out}', pretrained=True)",
    "videomae": "import torch\n\nweights = torch.load('{out}/checkpoint.pth', weights_only=True)"
    "['model']",
    "mae": "import torch\n\nweights = torch.load('{out}/checkpoint.pth', weights_only=True)",
}
NEEDS = {
    "huggingface": "transformers 4, or 5 from 5.21.1 on: earlier releases of 5 load the biases of "
    "queries and values (`q_bias`, `v_bias`) as zeros and report them as unexpected.\n"
}
TASKS = {"VideoClassifier": "video-classification"}
TAGS = {"huggingface": ["videomae"], "timm": ["image-feature-extraction"]}
LIBRARIES = {"huggingface": "transformers", "timm": "timm"}
NO_METRICS = "Not recorded."


def write_card(
    weights: Weights,
    folder: Path,
    report: ConversionReport,
    data: str | None = None,
    metrics: dict | None = None,
    license: str | None = None,
) -> None:
    """Write README.md: what the model is, how to load it, data, recipe, metrics, limits, licence.

    Args:
        data: what it was trained on; what the run recorded if left out.
        metrics: how well it does, by name; likewise.
        license: an identifier of the Hub's, such as ``cc-by-nc-4.0``; ``other`` if left out.
    """
    target, name = report.target, Path(report.out).name
    account = replace(report, source=Path(report.source).name, out=name)  # no paths of this machine
    use = USE[target].format(out=name, hf=CLASSES[weights.kind])
    rows = [f"| {key} | {value} |" for key, value in _rows(as_plain(weights.config)) if value]
    known = {f"pixels in 0..1: {name}": weights.extra.get(name) for name in ("mean", "std")}
    rows += [f"| {key} | {value} |" for key, value in known.items() if value]
    data = data or weights.extra.get("data")
    metrics = metrics or weights.extra.get("metrics") or {}
    parts = [
        _front(weights, target, license),
        f"# {name}\n",
        f"A {weights.kind} in the {target} layout, made with videohpm.\n",
        f"```python\n{use}\n```\n",
        NEEDS.get(target, ""),
        "## Model\n\n| setting | value |\n|---|---|\n" + "\n".join(rows) + "\n",
        _classes(weights),
        f"## Data\n\n{data or UNKNOWN}\n",
        _recipe(weights),
        "## Metrics\n\n" + _metrics(metrics) + "\n",
        "## Limits\n\n" + "\n".join(f"- {line}" for line in _limits(weights, metrics)) + "\n",
        f"## Licence\n\n{license or UNSTATED}\n\n{LICENCE}\n",
        f"## Conversion\n\n```\n{account}\n```\n",
    ]
    text = "\n".join(part for part in parts if part)
    (folder / "README.md").write_text(text, encoding="utf-8", errors="backslashreplace")


def _front(weights: Weights, target: str, license: str | None) -> str:
    """What the Hub reads: it begins the file."""
    encoder = weights.encoder_config
    fields: dict[str, Any] = {
        "license": license or "other",
        "library_name": LIBRARIES.get(target, "videohpm"),
        "tags": [
            "video" if encoder.frames > 1 else "image",
            "masked-autoencoder",
            *TAGS.get(target, ()),
        ],
    }
    task = TASKS.get(weights.kind)
    if task is not None:
        fields["pipeline_tag"] = task if encoder.frames > 1 else "image-classification"
    return f"---\n{yaml.safe_dump(fields, sort_keys=False)}---\n"


def _recipe(weights: Weights) -> str:
    """What the run's configuration says that is not the default; nothing where it is not known."""
    recipe = weights.extra.get("recipe")
    if not isinstance(recipe, dict):
        return ""
    text = yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True).rstrip()
    return f"## Recipe\n\nWhat is not the default of this version:\n\n```yaml\n{text}\n```\n"


def _metrics(metrics: dict) -> str:
    rows = [f"| {key} | {value} |" for key, value in metrics.items()]
    return "| metric | value |\n|---|---|\n" + "\n".join(rows) if rows else NO_METRICS


def _limits(weights: Weights, metrics: dict) -> list[str]:
    """What the model cannot do, or what is not known of it."""
    grid, encoder = weights.grid, weights.encoder_config
    lines = [
        f"It sees {grid.frames} frames of {grid.height}x{grid.width} pixels"
        f" ({encoder.position} positions); others need to be adapted (`model.frames`, "
        "`model.image_size`) and trained."
        if grid.frames > 1
        else f"It sees images of {grid.height}x{grid.width} pixels."
    ]
    if weights.kind == "VideoClassifier":
        lines.append("It names one of the classes above whatever it is shown.")
    elif weights.kind == "MaskedAutoencoder":
        lines.append("It was trained without labels: it names nothing until it is fine-tuned.")
        if weights.config.target == "per_channel":  # pyright: ignore[reportAttributeAccessIssue]
            lines.append("It predicts normalised pixels: colours need the true mean and contrast.")
    if not {"top1", "accuracy"} & metrics.keys():
        lines.append("How well it serves a task has not been measured, or is not recorded here.")
    lines.append("What its data shows too rarely, or one-sidedly, it knows no better.")
    return lines


def _classes(weights: Weights) -> str:
    """Their names, in the order of the outputs; nothing where they are not known."""
    labels = weights.extra.get("labels")
    return f"## Classes\n\n{json.dumps(labels)}\n" if labels else ""


def _rows(config: dict, prefix: str = "") -> Iterator[tuple[str, object]]:
    """Every value of a plain configuration, by its dotted name."""
    for name, value in config.items():
        if isinstance(value, dict):
            yield from _rows(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
