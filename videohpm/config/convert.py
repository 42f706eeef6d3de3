"""Weights from and to other layouts: the commands' options, and what files do not state."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from videohpm.config.checks import Section, choice, text_path
from videohpm.errors import ConfigError

WEIGHTS = ("student", "ema")
LAYOUTS = ("videohpm", "videomae", "huggingface", "timm", "mae")
HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w./-]+)?")
"""A model of the Hugging Face Hub, or a revision of one."""


@dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """What the file does not state. None: infer it, and note that in the report.

    Which layouts state a size, and refuse another value, is told by :func:`convert`.

    Args:
        weights: ``student``, or ``ema``: the moving average that the file carries (HPM).
        frames: T of a clip.
        image_size: H = W in pixels.
        heads: attention heads of the encoder.
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


def export(source: str, out: str, what: str = "encoder", weights: str = "student") -> None:
    """Write the weights of a run or checkpoint to a folder of their own.

    Args:
        source: run folder (its best weights, else its newest checkpoint) or checkpoint.
        out: folder to write: model.safetensors and config.json, which also says how pixels are
            normalised, what the classes of a classifier are called and, of all of a pre-trained
            model, what pictures of it need: its masks, and whose features it predicts.
        what: encoder alone, or all.
        weights: student or teacher (whose encoder is a moving average of the student's).
    """
    choice("what", what, ("encoder", "all"))
    text_path("out", out)
    choice("weights", weights, ("student", "teacher"))


def convert(
    source: str,
    out: str,
    to: str = "videohpm",
    *,
    what: str = "all",
    data: str | None = None,
    metrics: dict[str, float] | None = None,
    license: str | None = None,
    push: str | None = None,
    private: bool = False,
    weights: str = "student",
    frames: int | None = None,
    image_size: int | None = None,
    heads: int | None = None,
    decoder_heads: int | None = None,
    inflate: int | None = None,
    allow_missing: tuple[str, ...] = (),
) -> None:
    """Convert a checkpoint to another layout; the source's is recognised.

    Args:
        source: a checkpoint file, a folder with one, a run folder of ours (its best weights, else
            its newest checkpoint), or the name of a model on the Hugging Face Hub (org/name or
            org/name@revision).
        out: a folder to make; a failure leaves nothing behind.
        to: videohpm, videomae, huggingface, timm or mae.
        what: ``all``, or ``encoder``: the encoder alone.
        data: what it was trained on, for the model card.
        metrics: how well it does, for the model card, for example '{"top1": 70.8}'.
        license: the Hub's identifier of a licence, for the model card, for example cc-by-nc-4.0.
        push: upload what was written as this model of the Hub, org/name or org/name@branch, which
            is made where there is none (log in before: hf auth login).
        private: of a new model there: whether only its owners see it.
        weights: ``student``, or ``ema``: the moving average that the file carries (HPM).
        frames: T of a clip. For VideoMAE's layout and that of Hugging Face, and with inflate; other
            weights state it, and refuse another value.
        image_size: H = W in pixels. For all layouts but ours (and mae_st's with split positions),
            which state it and refuse another value.
        heads: attention heads of the encoder, which weights do not show. For all layouts but ours,
            which states them and refuses another value.
        decoder_heads: the same of the decoder, where one is read.
        inflate: make a video model of an image model, with tubelets of so many frames.
        allow_missing: names (or patterns with ``*``) of tensors that may be missing, and then keep
            their initial values, or be left over.
    """
    choice("to", to, LAYOUTS)
    text_path("out", out)
    choice("what", what, ("all", "encoder"))
    if Path(out).suffix in (".pth", ".pt", ".safetensors"):
        raise ConfigError(f"out: {out} names a file; give a folder, a model card is written beside")
    if push is not None and not HUB_NAME.fullmatch(push):
        raise ConfigError(f"push: {push!r}; give org/name, or org/name@branch")
    if private and push is None:
        raise ConfigError("private: is for what is uploaded; give --push org/name too")
    ReadOptions(
        weights=weights,
        frames=frames,
        image_size=image_size,
        heads=heads,
        decoder_heads=decoder_heads,
        inflate=inflate,
        allow_missing=allow_missing,
    )
