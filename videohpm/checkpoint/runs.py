"""Checkpoints of a run: what it needs to go on exactly where it was.

=========================== =======================================================================
model.safetensors           the weights, fp32, by name
teacher.safetensors         those of the teacher (or another average of the weights), likewise
optimizer.safetensors       AdamW's moments, ``exp_avg/NAME`` and ``exp_avg_sq/NAME``
config.json                 what to build, as in every folder of weights
state.json                  steps done (the data position and all random states follow from them),
                            the resolved config and the versions it ran with; its own checksum
=========================== =======================================================================

Every tensor is complete and goes by its name, however the run that wrote it divided it: any number
of ranks and any ZeRO stage reads what any other has written. Rank 0 alone writes; the others give
it their parts, a parameter at a time. Nothing is ever unpickled.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from videohpm.checkpoint import folders
from videohpm.checkpoint.checksums import TensorReader, is_finite
from videohpm.checkpoint.resume import note_not_finite
from videohpm.checkpoint.soundness import read_state, write_state
from videohpm.checkpoint.stream import TensorFile
from videohpm.checkpoint.weights import load_into, write_metadata
from videohpm.errors import RunError, UserError

PACKAGES = ("videohpm", "torch", "deepspeed")


class Engine(Protocol):
    """What a checkpoint needs of the engine; see :class:`videohpm.engine.TorchEngine`."""

    rank: int
    model: nn.Module
    moments: tuple[str, ...]
    skipped: int

    def full_shape(self, parameter: Tensor) -> torch.Size: ...
    def full_tensor(self, parameter: Tensor) -> Tensor: ...
    def moment(self, parameter: Tensor, name: str) -> Tensor: ...
    def updates(self) -> int: ...
    def init_optimizer_state(self, updates: int) -> None: ...
    def set_moment(self, parameter: Tensor, name: str, value: Tensor) -> None: ...


@dataclass(frozen=True)
class Saved:
    """A checkpoint whose weights have been loaded."""

    folder: Path
    step: int
    """Optimiser steps done."""
    state: dict
    """Plain values: those that the run gave, its resolved config and the versions."""


def save(
    run: Path,
    step: int,
    engine: Engine,
    ema_modules: Mapping[str, nn.Module],
    state: dict,
    keep: int,
    description: dict | None = None,
) -> None:
    """Write the checkpoint of ``step`` into the run folder and drop all but the newest ``keep``.

    Every rank must call it.

    Args:
        ema_modules: averages of the model's weights, by name.
        state: plain values to keep in state.json.
        description: plain values to keep in config.json beside the model's.

    Raises RunError, on rank 0 only, where it cannot be written; older checkpoints stay.
    """
    modules = {"model": engine.model, **ema_modules}
    state = {
        "step": step,
        "updates": engine.updates(),
        "skipped": engine.skipped,
        "ema_modules": sorted(ema_modules),
        "versions": _versions(),
    } | state
    writer = _Writer(run, step, _layouts(engine, modules)) if engine.rank == 0 else None
    for file, name, tensor in _tensors(engine, modules):
        if writer:  # remembers a failure and goes on: the other ranks wait for each tensor
            writer.add(file, name, tensor)
    if writer:
        writer.finish(engine.model, description or {}, state, keep)


def restore(folder: Path, model: nn.Module, ema_modules: Mapping[str, nn.Module]) -> Saved:
    """Load a checkpoint's weights, before an engine is made of them; :func:`restore_moments` then.

    Raises UserError when the checkpoint does not fit the model, or is damaged.
    """
    state = read_state(folder)
    missing = sorted(ema_modules.keys() - set(state["ema_modules"]))
    if missing:
        raise UserError(f"{folder}: holds no {missing[0]}; it was written by a run without one")
    load_into(model, folder / "model.safetensors")
    for name, module in ema_modules.items():
        load_into(module, folder / f"{name}.safetensors")
    return Saved(folder, state["step"], state)


def restore_moments(saved: Saved, engine: Engine) -> None:
    """Restore the optimiser's state. Raises UserError when the checkpoint is damaged."""
    reader = TensorReader(saved.folder / "optimizer.safetensors")
    engine.init_optimizer_state(saved.state["updates"])
    engine.skipped = saved.state["skipped"]
    for name, parameter in _trained(engine.model):
        for moment in engine.moments:
            value = reader.get(f"{moment}/{name}")
            if value.shape != engine.full_shape(parameter) or value.dtype != torch.float32:
                found = f"{moment}/{name} {list(value.shape)} of {value.dtype}"
                raise UserError(f"{reader.path}: does not fit the model: {found}")
            engine.set_moment(parameter, moment, value)


class _Writer:
    """Writes on rank 0; a failure is kept for :meth:`finish`, because others rely on each call."""

    def __init__(self, run: Path, step: int, layouts: dict[str, dict]):
        self.run, self.step = run, step
        self.error: OSError | None = None
        self.not_finite: str | None = None
        self.files: dict[str, TensorFile] = {}
        try:
            self.partial = folders.begin(run, step)
            for name, layout in layouts.items():
                self.files[name] = TensorFile(self.partial / f"{name}.safetensors", layout)
        except OSError as error:
            self.error = error

    def add(self, file: str, name: str, tensor: Tensor) -> None:
        if self.error or self.not_finite:
            return
        if not is_finite(tensor):
            self.not_finite = f"{name} in {file}"
            return
        try:
            self.files[file].add(name, tensor)
        except OSError as error:
            self.error = error

    def finish(self, model: nn.Module, description: dict, state: dict, keep: int) -> None:
        if not self.error and not self.not_finite:
            try:
                for file in self.files.values():
                    file.close()
                write_metadata(self.partial, model, None, description)
                write_state(self.partial, state)
                folders.commit(self.partial, keep)
                return
            except OSError as error:
                self.error = error
        self._abandon(state.get("config", {}))

    def _abandon(self, config: dict) -> None:
        """Clear away what was written, and raise what happened and which checkpoint is left."""
        for file in self.files.values():
            with suppress(OSError):  # what could not be written is still in its buffer
                file.abandon()
        with suppress(OSError):  # then the next start does it
            folders.tidy(self.run)
        newest = folders.latest(self.run)
        left = f"the last good one is {newest}" if newest else "there is none yet"
        if self.error is None:
            reason = f"step {self.step}: not every value of {self.not_finite} is finite"
            note_not_finite(self.run, config, reason)
            raise RunError(f"{reason}; stopped without writing a checkpoint, {left}")
        raise RunError(
            f"{self.run}: the checkpoint of step {self.step} could not be written "
            f"({self.error.strerror or self.error}); {left}. Make room and start the same command "
            "again"
        ) from self.error


def _trained(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    return ((name, p) for name, p in model.named_parameters() if p.requires_grad)


def _buffers(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    kept = module.state_dict().keys()
    return ((name, value) for name, value in module.named_buffers() if name in kept)


def _layouts(engine: Engine, modules: Mapping[str, nn.Module]) -> dict[str, dict]:
    """Dtype and shape of all that is saved: file → name → both."""
    layouts: dict[str, dict] = {}
    for file, module in modules.items():
        layouts[file] = {
            name: (torch.float32, engine.full_shape(p)) for name, p in module.named_parameters()
        }
        layouts[file] |= {name: (value.dtype, value.shape) for name, value in _buffers(module)}
    layouts["optimizer"] = {
        f"{moment}/{name}": (torch.float32, engine.full_shape(p))
        for name, p in _trained(engine.model)
        for moment in engine.moments
    }
    return layouts


def _tensors(engine: Engine, modules: Mapping[str, nn.Module]) -> Iterator[tuple[str, str, Tensor]]:
    """All that is saved, put together from the ranks one by one: file, name and value."""
    for file, module in modules.items():
        for name, parameter in module.named_parameters():
            yield file, name, engine.full_tensor(parameter)
        for name, value in _buffers(module):
            yield file, name, value.cpu()
    for name, parameter in _trained(engine.model):
        for moment in engine.moments:
            yield "optimizer", f"{moment}/{name}", engine.moment(parameter, moment)


def _versions() -> dict[str, str | None]:
    versions: dict[str, str | None] = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    return versions
