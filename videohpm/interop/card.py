"""The model card written beside what is exported."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

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
USE = {
    "videohpm": "from videohpm.checkpoint import load_model\n\nmodel = load_model({out!r})",
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
FRONT = {
    "huggingface": "library_name: transformers\ntags:\n- video\n- videomae\n",
    "timm": "library_name: timm\ntags:\n- image-feature-extraction\n",
}


def write_card(
    weights: Weights, folder: Path, report: ConversionReport, data: str | None, metrics: dict | None
) -> None:
    """Write README.md: what the model is, how to load it, data, metrics, licence, conversion."""
    target, name = report.target, Path(report.out).name
    account = replace(report, source=Path(report.source).name, out=name)  # no paths of this machine
    use = USE[target].format(out=name, hf=CLASSES[weights.kind])
    rows = [f"| {key} | {value} |" for key, value in _rows(as_plain(weights.config)) if value]
    known = {f"pixels in 0..1: {name}": weights.extra.get(name) for name in ("mean", "std")}
    rows += [f"| {key} | {value} |" for key, value in known.items() if value]
    metrics = metrics or weights.extra.get("metrics")
    measured = [f"| {key} | {value} |" for key, value in (metrics or {}).items()]
    parts = [
        f"---\n{FRONT[target]}---\n" if target in FRONT else "",
        f"# {name}\n",
        f"A {weights.kind} in the {target} layout, converted by videohpm.\n",
        f"```python\n{use}\n```\n",
        NEEDS.get(target, ""),
        "## Model\n\n| setting | value |\n|---|---|\n" + "\n".join(rows) + "\n",
        _classes(weights),
        f"## Data\n\n{data or weights.extra.get('data') or UNKNOWN}\n",
        "## Metrics\n\n"
        + ("| metric | value |\n|---|---|\n" + "\n".join(measured) if measured else "Not recorded.")
        + "\n",
        f"## Licence\n\n{LICENCE}\n",
        f"## Conversion\n\n```\n{account}\n```\n",
    ]
    text = "\n".join(part for part in parts if part)
    (folder / "README.md").write_text(text, encoding="utf-8", errors="backslashreplace")


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
