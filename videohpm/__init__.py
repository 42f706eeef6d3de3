"""Hard Patches Mining on video: the public names, imported when first asked for.

>>> from videohpm import LossTeacher, MaskedAutoencoder, hpm
>>> model = MaskedAutoencoder.create("vit_tiny", frames=4, image_size=32, depth=1, decoder_depth=1)
>>> teacher = LossTeacher(model, steps=1)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # what __getattr__ imports
    from videohpm import config, data, hpm, interop, models
    from videohpm.checkpoint import load_encoder, load_model, load_teacher
    from videohpm.grid import TokenGrid
    from videohpm.hpm import LossTeacher
    from videohpm.models import MaskedAutoencoder, VideoClassifier, VideoViT

_HOMES = {
    "LossTeacher": "videohpm.hpm",
    "MaskedAutoencoder": "videohpm.models",
    "TokenGrid": "videohpm.grid",
    "VideoClassifier": "videohpm.models",
    "VideoViT": "videohpm.models",
    "load_encoder": "videohpm.checkpoint",
    "load_model": "videohpm.checkpoint",
    "load_teacher": "videohpm.checkpoint",
}
_PACKAGES = ("config", "data", "hpm", "interop", "models")

__all__ = [
    "LossTeacher",
    "MaskedAutoencoder",
    "TokenGrid",
    "VideoClassifier",
    "VideoViT",
    "config",
    "data",
    "hpm",
    "interop",
    "load_encoder",
    "load_model",
    "load_teacher",
    "models",
]


def __getattr__(name: str) -> Any:
    # Importing torch takes seconds; --help and a mistyped option should not.
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    if name in _PACKAGES:
        return import_module(f"videohpm.{name}")
    raise AttributeError(f"module 'videohpm' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
