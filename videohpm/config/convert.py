"""What a foreign checkpoint does not state about itself."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatch

from videohpm.config.checks import Section

WEIGHTS = ("student", "ema")


@dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """What the file does not state. None: infer it, and note that in the report.

    Args:
        weights: ``student``, or ``ema``: the moving average that the file carries (HPM).
        frames: T of a clip.
        image_size: H = W in pixels.
        heads: attention heads of the encoder; weights do not show them.
        decoder_heads: attention heads of the decoder.
        inflate: make a video model of an image model, with tubelets of so many frames.
        allow_missing: names (or patterns with ``*``) of tensors that may be missing, and then keep
            their initial values, or be left over.
    """

    weights: str = "student"
    frames: int | None = None
    image_size: int | None = None
    heads: int | None = None
    decoder_heads: int | None = None
    inflate: int | None = None
    allow_missing: tuple[str, ...] = ()

    def __post_init__(self):
        if isinstance(self.allow_missing, str):
            object.__setattr__(self, "allow_missing", (self.allow_missing,))
        check = Section(self)
        check.choice("weights", WEIGHTS)
        check.at_least(1, "frames", "image_size", "heads", "decoder_heads", "inflate")

    def allows(self, name: str) -> bool:
        """Whether allow_missing names ``name``."""
        return any(fnmatch(name, pattern) for pattern in self.allow_missing)
