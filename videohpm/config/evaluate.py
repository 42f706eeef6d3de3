"""Configuration of evaluation and probing."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from videohpm.config.checks import AUTO, Section, auto_or_at_least, choice, text_path
from videohpm.config.data import KINDS, SAMPLINGS
from videohpm.config.engine import PRECISIONS, check_device
from videohpm.config.tasks import CLASSIFY, TASKS
from videohpm.errors import ConfigError

PROBES = ("linear", "attentive", "knn")
STRENGTHS = (0.001, 0.01, 0.1, 1.0, 10.0)
"""Tried for the linear probe: from strong regularisation to weak."""


@dataclass(frozen=True, kw_only=True)
class ViewConfig:
    """How a video is cut into views. What is left out is as the data set or the model says.

    Args:
        clips: clips over the length of a video.
        crops: crops over the frame, along its longer side; 1 is the centre.
        sampling: dense (frames a fixed stride apart) or segments (spread over the video).
        stride: of dense sampling, in frames.
        resize: the frame's shorter side before cropping, in pixels; the model's size if left out.
        antialias: resize with antialiasing; false to compare published classifiers of VideoMAE.
        batch: clips of one forward pass.
    """

    clips: int | None = None
    crops: int | None = None
    sampling: str | None = None
    stride: int | None = None
    resize: int | None = None
    antialias: bool | None = None
    batch: int = 16

    def __post_init__(self):
        check = Section(self, "test")
        check.at_least(1, "clips", "crops", "stride", "resize", "batch")
        check.choice("sampling", (None, *SAMPLINGS))

    def given(self) -> dict:
        """The fields of the views that are set."""
        names = ("clips", "crops", "sampling", "stride", "resize", "antialias")
        return {n: getattr(self, n) for n in names if getattr(self, n) is not None}


@dataclass(frozen=True, kw_only=True)
class SamplesConfig:
    """The samples of a test.

    Args:
        root: folder of a folder per class; also the base of a manifest's paths.
        manifest: file that lists the samples and their labels.
        kind: auto, video, image or frames (each folder of pictures is a video).
        workers: reading processes for each rank; 0 reads in the main process, auto takes one for
            each core.
        decode_timeout: longest time that reading one file may take; 0 waits for ever.
    """

    root: str | None = None
    manifest: str | None = None
    kind: str = "auto"
    workers: int | Literal["auto"] = AUTO
    decode_timeout: float = 120.0

    def __post_init__(self):
        check = Section(self, "data")
        check.choice("kind", KINDS)
        check.at_least(0, "decode_timeout")
        auto_or_at_least(check, 0, "workers")


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """All of an evaluation.

    Args:
        model: run folder (its best weights, else its newest), checkpoint or export.
        out: folder for the results; empty: ``evaluation`` in the run folder.
        dataset: dataset.yaml (or its folder) with the test views and class names; those the
            model was fine-tuned with if left out.
        data: what is tested on.
        test: how a video is cut into views.
        device: auto, cpu, cuda or cuda:N.
        precision: auto (bf16 where the GPU has it, else fp32), fp32 or bf16.
        timeout: seconds one process waits for another that gives no sign of life; then all end.
    """

    model: str = "runs/finetune"
    out: str = ""
    dataset: str | None = None
    data: SamplesConfig = field(default_factory=SamplesConfig)
    test: ViewConfig = field(default_factory=ViewConfig)
    device: str = "auto"
    precision: str = "auto"
    timeout: float = 600.0

    def __post_init__(self):
        check_device("device", self.device)
        check = Section(self)
        check.choice("precision", PRECISIONS)
        check.above_zero("timeout", finite=False)


@dataclass(frozen=True, kw_only=True)
class ProbeConfig:
    """All of a probing.

    Args:
        model: run folder, checkpoint or export, of any kind.
        random: probe untrained weights of the same architecture: for comparison.
        train: labelled samples to learn from: a folder of a folder per class, or a manifest.
        validation: labelled samples to test on, likewise.
        root: folder that the manifests' paths start from; their own folders if left out.
        kind: auto (by suffix), video or image: which of the files in a folder of both; frames: each
            folder of pictures is a video.
        out: folder for the features and the result; empty: ``probe`` in the run folder.
        task: what a label is: classify, one class; multi_label, several (``a;b`` in a list);
            regress, one number.
        probes: which of linear, attentive and knn; attentive needs all tokens in memory.
        test: how a video is cut into views; what is left out is one view, cut as in training.
        strength: of the linear probe, scikit-learn's C (of standardised numbers 1/(2 alpha) of its
            Ridge); several: the best on a fifth of the training features.
        k: neighbours of the k-NN.
        temperature: of its votes; 0 lets all neighbours count alike.
        epochs: of the attentive probe.
        batch: samples of one step of the attentive probe.
        lr: its learning rate.
        weight_decay: its weight decay.
        seed: of the attentive probe, and of random weights.
        workers: reading processes for each rank; 0 reads in the main process, auto takes one for
            each core.
        device: auto, cpu, cuda or cuda:N.
        timeout: seconds one process waits for another that gives no sign of life; then all end.
    """

    model: str = "runs/pretrain"
    random: bool = False
    train: str | None = None
    validation: str | None = None
    root: str | None = None
    kind: str = "auto"
    out: str = ""
    task: str = CLASSIFY
    probes: list[str] = field(default_factory=lambda: list(PROBES))
    test: ViewConfig = field(default_factory=ViewConfig)
    strength: list[float] = field(default_factory=lambda: list(STRENGTHS))
    k: int = 20
    temperature: float = 0.07
    epochs: int = 20
    batch: int = 64
    lr: float = 1e-3
    weight_decay: float = 0.05
    seed: int = 0
    workers: int | Literal["auto"] = AUTO
    device: str = "auto"
    timeout: float = 600.0

    def __post_init__(self):
        check = Section(self)
        for name in self.probes:
            choice("probes", name, PROBES)
        check.choice("kind", KINDS)
        check.choice("task", TASKS)
        text_path("out", self.out)
        if not self.probes:
            raise ConfigError(f"probes: none; give some of {', '.join(PROBES)}")
        if not self.strength or min(self.strength) <= 0:
            raise ConfigError("strength: give numbers above 0")
        check.at_least(1, "k", "epochs", "batch")
        check.at_least(0, "temperature", "lr", "weight_decay")
        auto_or_at_least(check, 0, "workers")
        check.above_zero("timeout", finite=False)
        check_device("device", self.device)
