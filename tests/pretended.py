"""A machine with GPUs, pretended: what torch says of them, and tensors without contents on them."""

from __future__ import annotations

import warnings
import weakref
from collections import Counter
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch._subclasses import fake_tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from videohpm import hpm
from videohpm.config import FinetuneConfig, PretrainConfig
from videohpm.data import Batch
from videohpm.engine import make_engine
from videohpm.finetune import start_classifier
from videohpm.finetune.run import train_step as finetune_step
from videohpm.finetune.task import Classification
from videohpm.interop.frozen import encoders_of
from videohpm.models import MaskedAutoencoder
from videohpm.pretrain import train_step


class Pretended:
    """A stream of a GPU, or an event on one: nothing is done, so nothing is waited for."""

    device = torch.device("cuda", 0)

    def __init__(self, *_, **__):
        pass

    def __getattr__(self, name: str):
        return lambda *_, **__: None

    def query(self) -> bool:
        """All is done."""
        return True


class PretendedGpus:
    """What code finds out from ``torch.cuda``; notes what it makes the current device."""

    def __init__(self, patch: pytest.MonkeyPatch, count: int = 2, major: int = 8, memory=80e9):
        self.current: list[torch.device] = []
        facts = SimpleNamespace(major=major, minor=0, total_memory=int(memory), name="a GPU")
        for name, value in {
            "is_available": lambda: True,
            "device_count": lambda: count,
            "current_device": lambda: self.current[-1].index if self.current else 0,
            "get_device_properties": lambda device=None: facts,
            "set_device": self._set_device,
            "Stream": Pretended,
            "Event": Pretended,
            "current_stream": Pretended,
            "default_stream": Pretended,
            "stream": nullcontext,
            "synchronize": lambda device=None: None,
            "empty_cache": lambda: None,
            "reset_peak_memory_stats": lambda device=None: None,
            "memory_allocated": lambda device=None: 0,
            "memory_reserved": lambda device=None: 0,
            "max_memory_allocated": lambda device=None: 0,
            "max_memory_reserved": lambda device=None: 0,
            "mem_get_info": lambda device=None: (int(memory), int(memory)),
        }.items():
            patch.setattr(torch.cuda, name, value)
        patch.setattr(torch.Tensor, "record_stream", lambda tensor, stream: None)
        # An emulated bf16 tensor can be made on any GPU.
        patch.setattr(torch.cuda, "_check_bf16_tensor_supported", lambda device: True)
        patch.setattr(nn.Module, "to", move)

    def _set_device(self, device) -> None:
        device = torch.device(device)
        if device.index is None:  # as torch has it
            raise ValueError(f"Expected a torch.device with a specified index, but got:{device}")
        self.current.append(device)


def move(module: nn.Module, device: torch.device | str) -> nn.Module:
    """Give a module weights without contents on ``device``, in place, in a FakeTensorMode.

    ``Module.to`` cannot replace a fake parameter by another one.
    """
    device = torch.empty(0, device=device).device  # with a number
    for part in module.modules():
        for name, value in part._parameters.items():
            if value is not None and value.device != device:
                fresh = torch.empty(value.shape, dtype=value.dtype, device=device)
                part._parameters[name] = nn.Parameter(fresh, value.requires_grad)
        for name, value in part._buffers.items():
            if value is not None:
                part._buffers[name] = torch.empty(value.shape, dtype=value.dtype, device=device)
    return module


@contextmanager
def fake_tensors():
    """Within it, tensors have shapes and devices and no contents."""
    with pytest.MonkeyPatch.context() as patch:
        # Before torch 2.9 a tensor on a GPU, contents or none, begins with a start of CUDA.
        patch.setattr(fake_tensor, "init_gpu_context", lambda *device: None, raising=False)
        # Nor with a GPU, which may be pretended, is anything made there.
        patch.setattr(fake_tensor.FakeTensorMode, "avoid_device_init", True, raising=False)
        with fake_tensor.FakeTensorMode(allow_non_fake_inputs=True) as mode:
            yield mode


def _indexes_fake_tensors() -> bool:
    with fake_tensors():
        try:
            torch.empty(2, device="cuda")[0]
        except RuntimeError:  # torch 2.8 makes the tensor's device the current one
            return False
    return True


needs_indexing = pytest.mark.skipif(
    not _indexes_fake_tensors(), reason="this torch asks CUDA to index a tensor without contents"
)
"""Marks tests that index tensors on pretended GPUs."""


class Operators(TorchDispatchMode):
    """Counts what torch is asked to do, by the names of the operators."""

    def __init__(self):
        super().__init__()
        self.count: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count[str(func)] += 1
        return func(*args, **(kwargs or {}))


class PeakMemory(TorchDispatchMode):
    """Counts the bytes of all tensors that are there, by the life of their storages.

    What an operator allocates within itself is not seen.
    """

    def __init__(self):
        super().__init__()
        self.now = self.peak = 0
        self.seen = WeakIdKeyDictionary()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for value in tree_leaves(out):
            if isinstance(value, torch.Tensor):
                self._add(value.untyped_storage())
        return out

    def _add(self, storage: torch.UntypedStorage) -> None:
        if storage not in self.seen:
            size = storage.nbytes()
            self.seen[storage] = size
            self.now += size
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._remove, size)

    def _remove(self, size: int) -> None:
        self.now -= size


def unlabelled_batch(config: PretrainConfig, clips: int) -> Batch:
    """Clips of a pre-training run, without contents; in a FakeTensorMode."""
    grid = config.model.grid()
    units = hpm.unit_count(grid, config.mask.unit)
    size = (clips, 3, grid.frames, grid.height, grid.width)
    nothing = torch.zeros(clips, dtype=torch.long)
    return Batch(
        torch.empty(size, dtype=torch.uint8),
        torch.empty(clips, units, dtype=torch.long),
        nothing, nothing, [],
    )  # fmt: skip


def unbuilt(config: PretrainConfig):
    """Model, scorer and target of a run, without memory: outside any FakeTensorMode."""
    scorer = None
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nothing is copied into what has no memory
        encoders = encoders_of(lambda: scorer, weights=False)
        target = hpm.TARGETS[config.model.target](config.model.grid(), config, encoders)
        architecture = config.model_config(target.dim)
        model = MaskedAutoencoder(architecture, config.engine.checkpoint_activations)
        scorer = hpm.SCORERS[config.scorer](model, config)
    return model, scorer, target


def traced_peak(config: PretrainConfig, clips: int, steps: int = 2) -> int:
    """Bytes at the fullest moment of a training step of ``clips`` clips a micro-batch.

    Of all tensors, weights and AdamW's state among them; nothing is computed.
    """
    model, scorer, target = unbuilt(config)
    with fake_tensors(), PeakMemory() as memory:
        batch = unlabelled_batch(config, clips)
        engine = make_engine(model, config.engine, config.optim)
        if isinstance(scorer, nn.Module):
            engine.attach_ema(scorer)
        options = {"hard_ratio": 0.5, "momentum": 0.9, "lr": 1e-4}
        batches = [batch] * config.engine.grad_accum_steps
        for _ in range(steps):
            train_step(engine, scorer, target, batches, config, **options)
    return memory.peak


def unbuilt_classifier(config: FinetuneConfig, classes: int):
    """The model and the task of fine-tuning, without memory: outside any FakeTensorMode."""
    with torch.device("meta"):
        model = start_classifier(config.model, classes, config.engine.checkpoint_activations)
    task = Classification.__new__(Classification)
    task.config, task.outputs, task.weights = config, classes, None
    return model, task


def labelled_batch(model, clips: int) -> Batch:
    """Clips for a classifier, without contents; in a FakeTensorMode."""
    grid = model.grid
    size = (clips, 3, grid.frames, grid.height, grid.width)
    labels = torch.zeros(clips, dtype=torch.long)
    return Batch(torch.empty(size, dtype=torch.uint8), labels, labels, labels, [])


def traced_classifier_peak(config: FinetuneConfig, clips: int, classes: int) -> int:
    """The same of fine-tuning, with mixup."""
    model, task = unbuilt_classifier(config, classes)
    with fake_tensors(), PeakMemory() as memory:
        batch = labelled_batch(model, clips)
        engine = make_engine(model, config.engine, config.optim)
        for step in range(2):
            finetune_step(engine, task, [batch], config, step=step, lr=1e-4)
    return memory.peak
