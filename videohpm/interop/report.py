"""What became of every tensor, as text that a user can check."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass, field

from videohpm.config.architecture import Architecture, encoder_of
from videohpm.config.plain import as_plain


@dataclass
class ConversionReport:
    """The account of one conversion. ``print(report)`` shows it."""

    source: str
    layout: str = ""
    """The layout recognised, by name."""
    kind: str = ""
    """MaskedAutoencoder, VideoClassifier or VideoViT."""
    config: Architecture | None = None
    """The configuration of the model."""
    loaded: dict[str, str] = field(default_factory=dict)
    """The model's tensor → the source's tensors it was made of."""
    left_over: dict[str, str] = field(default_factory=dict)
    """The source's tensor → why it was not loaded."""
    missing: dict[str, str] = field(default_factory=dict)
    """The model's tensor that the source lacks → what it was set to, and why."""
    notes: list[str] = field(default_factory=list)
    """What was assumed, inferred or changed."""
    out: str = ""
    target: str = ""
    """The layout written."""
    written: int = 0
    """Tensors written."""
    pushed: str = ""
    """The address on the Hub that what was written was uploaded to."""
    not_written: dict[str, str] = field(default_factory=dict)
    """The model's tensor that the layout written cannot hold → why."""

    def note(self, text: str) -> None:
        """Add a remark, once."""
        if text not in self.notes:
            self.notes.append(text)

    def __str__(self) -> str:
        shown = ("dim", "depth", "heads", "frames", "image_size", "patch", "tubelet")
        encoder = as_plain(encoder_of(self.config)) if self.config is not None else {}
        sizes = ", ".join(f"{name} {encoder[name]}" for name in shown if name in encoder)
        lines = [
            f"source: {self.source}",
            f"layout: {self.layout}",
            f"model: {self.kind} ({sizes})",
            f"loaded: {len(self.loaded)} tensors",
            *grouped("left over", self.left_over),
            *grouped("missing", self.missing),
            *(f"note: {text}" for text in self.notes),
        ]
        if self.target:
            lines.append(f"written: {self.written} tensors as {self.target} to {self.out}")
        lines += grouped("not written", self.not_written)
        return "\n".join(lines + ([f"uploaded: {self.pushed}"] if self.pushed else []))


def grouped(title: str, names: dict[str, str]) -> list[str]:
    """One line a reason: how many tensors, which families, why."""
    by_reason = defaultdict(list)
    for name, reason in names.items():
        by_reason[reason].append(name)
    lines = []
    for reason, members in by_reason.items():
        families = list(dict.fromkeys(re.sub(r"\.\d+\..*", ".*", name) for name in members))
        some = ", ".join(families[:6]) + (", ..." if len(families) > 6 else "")
        lines.append(f"{title}: {len(members)} ({some}): {reason}")
    return lines
