"""Saving, loading and sharing by methods, as users of other libraries expect them on a model."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from os import PathLike
from pathlib import Path
from typing import Any, TypeVar

Own = TypeVar("Own", bound="Pretrained")


class Pretrained:
    """``from_pretrained``, ``save_pretrained`` and ``push_to_hub`` of every model.

    What they do is in :mod:`videohpm.interop.pretrained`, above the models: it is imported when one
    of them is called.
    """

    metadata: Mapping[str, Any] = {}
    """What belongs to the weights besides the configuration, in plain values: labels, mean and std
    of pixels in 0..1, protocol, data, recipe, metrics. Loading fills it, saving writes it."""

    @classmethod
    def from_pretrained(
        cls: type[Own],
        path: str | PathLike[str],
        *,
        revision: str | None = None,
        cache_dir: str | PathLike[str] | None = None,
    ) -> Own:
        """A saved model of this class, on the CPU and in evaluation mode.

        Args:
            path: run folder, checkpoint, export or converted checkpoint of any layout that
                ``videohpm convert`` reads, or the name of a model on the Hugging Face Hub
                (``org/name`` or ``org/name@revision``); what is here wins over what is there.
            revision: branch, tag or commit there.
            cache_dir: where to keep what is downloaded, instead of the Hub's own cache.

        Raises UserError, one line, where there is none, or it is a model of another class.
        """
        return _home().from_pretrained(cls, path, revision=revision, cache_dir=cache_dir)

    def save_pretrained(self, folder: str | PathLike[str]) -> Path:
        """Write model.safetensors, config.json and a model card (README.md); returns the folder.

        Args:
            folder: made if missing; these three files in it are replaced.
        """
        return _home().save_pretrained(self, folder)

    def push_to_hub(self, name: str, *, private: bool = False) -> str:
        """Upload the model with its card; returns the address of the commit.

        Args:
            name: ``org/name`` on the Hugging Face Hub, or ``org/name@branch``; made where there is
                none.
            private: of a new one: whether only its owners see it.

        Raises UserError where the user has to log in first or may not write there, RunError where
        the Hub cannot be reached.
        """
        return _home().push_to_hub(self, name, private=private)


def _home() -> Any:
    return import_module("videohpm.interop.pretrained")
