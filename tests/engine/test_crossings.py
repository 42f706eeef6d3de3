"""A training step of every kind waits for nothing between a GPU and its host.

Traced on pretended GPUs with tensors without contents. What is allowed is listed here; whatever
depends on values in another way is refused by torch's FakeTensorMode.
"""

from collections import Counter

import numpy as np
import pytest
import torch
from crossings import Crossing, Crossings, backward
from pretended import (
    PretendedGpus,
    fake_tensors,
    labelled_batch,
    move,
    needs_indexing,
    unbuilt,
    unbuilt_classifier,
    unlabelled_batch,
)
from torch import nn

from videohpm import hpm
from videohpm.config import (
    AugmentConfig,
    ClassifierConfig,
    FinetuneConfig,
    HPMConfig,
    MaskConfig,
    ModelConfig,
    OptimConfig,
    PretrainConfig,
)
from videohpm.data import Manifest
from videohpm.engine import EngineConfig, make_engine
from videohpm.evaluate import EvalProcesses, EvalProtocol, views
from videohpm.finetune.run import train_step as finetune_step
from videohpm.pretrain import train_step

pytestmark = needs_indexing

CLIPS = 2
SHAPE = {
    "arch": "vit_tiny", "frames": 4, "image_size": 32, "patch": 8, "dim": 24, "depth": 1,
    "heads": 2, "class_token": True,
}  # fmt: skip
DECODER = {"decoder_dim": 12, "decoder_depth": 1, "decoder_heads": 2}
PUBLISHED = {
    "predictor_unit": "token", "predictor_depth": None, "teacher_samples_per_tube": 0,
    "score_readout": "visible",
}  # fmt: skip
IMAGES = {"frames": 1, "tubelet": 1}
KINDS = {
    "plain": {"hpm": {"enabled": False}},
    "hpm, fp32, clipped": {"engine": {"precision": "fp32", "grad_clip": 1.0}},
    "as published, accumulated": {
        "hpm": PUBLISHED, "model": {"target": "raw"}, "engine": {"grad_accum_steps": 2},
    },
    "absolute, tokens chosen by chance": {
        "mask": {"unit": "token", "choice": "drawn"},
        "hpm": {"objective": "absolute", "predictor_unit": "token", "teacher_samples_per_tube": 0},
    },
    "images, all but the hardest": {
        "model": IMAGES | {"target": "joint"}, "mask": {"choice": "skip_hardest"},
    },
    "student, easiest, recomputed": {
        "mask": {"scorer": "student", "choice": "easiest"},
        "engine": {"checkpoint_activations": True},
    },
    "change, centered, decoded in part": {
        "mask": {"scorer": "change", "decode_ratio": 0.5}, "hpm": {"center_scores": True},
    },
    "decoded by motion": {"mask": {"scorer": "motion", "use": "decode", "decode_ratio": 0.5}},
    "weighed by noise": {"mask": {"scorer": "noise", "use": "weight"}},
    "attention, features of an image model": {
        "model": {
            "target": "frozen_encoder", "target_encoder": "timm:test_vit",
            "patch": 16, "target_loss": "cosine",
        },
        "mask": {"scorer": "attention"},
    },
    "clips chosen": {"mask": {"use": "sample"}},
    "random, features of the teacher": {
        "model": {"target": "ema_encoder", "target_loss": "smooth_l1"},
    },
}  # fmt: skip

BATCH = Crossing("_to_copy", "videohpm/data/batches.py:to", waits=False)
"""Clips, shuffle ids and labels, from pinned memory."""
AT_FIRST = {Crossing("_to_copy", "videohpm/models/mae.py:_seen", waits=True)}
"""Kept from the first step on: the numbers of the tokens that a teacher sees."""


@pytest.fixture
def gpus(monkeypatch):
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(torch.Tensor, "backward", backward)
    return PretendedGpus(monkeypatch)


def configured(model=(), mask=(), hpm=(), engine=()) -> PretrainConfig:
    engine = EngineConfig(**{"device": "cuda"} | dict(engine))
    return PretrainConfig(
        model=ModelConfig(**SHAPE | DECODER | dict(model)),
        mask=MaskConfig(**{"ratio": 0.5} | dict(mask)),
        hpm=HPMConfig(**dict(hpm)),
        engine=engine,
        optim=OptimConfig(global_batch_size=CLIPS * engine.accumulation),
    )


def crossings_of_steps(engine, batch, step) -> list[Counter]:
    """What crosses in each of two steps; ``step`` gets the micro-batches."""
    found = []
    for _ in range(2):
        with Crossings() as crossings:
            metrics = step(batch.to(engine.device) for _ in range(engine.config.accumulation))
        assert {value.device for value in metrics.values()} == {engine.device}
        found.append(crossings.found)
    assert all(state["step"].device == engine.device for state in engine.optimizer.state.values())
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_of_pre_training_gets_its_batch_and_gives_nothing_back(gpus, kind):
    config = configured(**KINDS[kind])
    model, scorer, target = unbuilt(config)
    with fake_tensors():
        batch = unlabelled_batch(config, CLIPS)
        engine = make_engine(model, config.engine, config.optim)
        if isinstance(scorer, nn.Module):
            engine.attach_ema(scorer)
        if isinstance(target, nn.Module):
            move(target, engine.device)
        if config.hpm.center_scores:
            scorer = hpm.CenteredScorer(scorer)
        units = hpm.unit_count(model.grid, config.mask.unit)
        clips = hpm.ClipSampling(8, CLIPS, lambda step: 0.5)
        mining = hpm.MiningStatistics(units, device=engine.device, clips=clips)

        def step(batches):
            options = {"hard_ratio": 0.5, "momentum": 0.9, "lr": 1e-4, "mining": mining}
            return train_step(engine, scorer, target, batches, config, **options)

        first, later = crossings_of_steps(engine, batch, step)
    copies = 3 * config.engine.accumulation
    assert first[BATCH] == copies
    assert set(first) <= {BATCH} | AT_FIRST
    assert later == Counter({BATCH: copies})


FINETUNING = {
    "mixed": {"augment": AugmentConfig()},
    "not mixed": {"augment": AugmentConfig(mixup=0, cutmix=0)},
    "accumulated": {"engine": {"grad_accum_steps": 2}},
    "images": {"model": IMAGES},
    "weighed classes": {},
}


@pytest.mark.parametrize("kind", FINETUNING)
def test_so_does_one_of_fine_tuning(gpus, kind):
    given = dict(FINETUNING[kind])
    engine = EngineConfig(**{"device": "cuda"} | given.pop("engine", {}))
    model = ClassifierConfig(**SHAPE | given.pop("model", {}))
    optim = OptimConfig(global_batch_size=CLIPS * engine.accumulation)
    config = FinetuneConfig(model=model, engine=engine, optim=optim, **given)
    model, task = unbuilt_classifier(config, 5)
    moved = set()
    if kind == "weighed classes":
        task.weights = torch.ones(5)
        moved = {Crossing("_to_copy", "videohpm/finetune/task.py:loss", waits=True)}
    with fake_tensors():
        batch, engine = labelled_batch(model, CLIPS), make_engine(model, engine, optim)

        def step(batches):
            return finetune_step(engine, task, batches, config, step=1, lr=1e-4)

        first, later = crossings_of_steps(engine, batch, step)
    copies = 3 * config.engine.accumulation
    assert set(first) == {BATCH} | moved
    assert later == Counter({BATCH: copies})


def test_evaluation_copies_videos_ahead_and_waits_once_a_batch(gpus, monkeypatch):
    """From pinned memory, on a stream of its own: the next batch while one is computed."""
    events, pinned = [], []

    class Loader:
        def __init__(self, dataset, batches, collate, *, workers, pin_memory):
            self.batches, self.pin_memory = batches, pin_memory

        def __iter__(self):
            for rows in self.batches:
                events.append("read")
                read = [views.Video(row, torch.zeros(2, 3, 4, 32, 32), None) for row in rows]
                read[0] = views.Video(rows[0], None, None, "damaged")
                yield [video.pin_memory() for video in read] if self.pin_memory else read

    def pin_memory(tensor):
        pinned.append(tensor)
        return tensor

    monkeypatch.setattr(views, "Loader", Loader)
    monkeypatch.setattr(torch.Tensor, "pin_memory", pin_memory)
    protocol = EvalProtocol(frames=4, size=(32, 32), clips=2, crops=1)
    manifest = Manifest([f"{number}.mp4" for number in range(8)], kind="video")

    def call(clips):
        events.append("compute")
        return clips.mean((1, 2, 3, 4))

    with fake_tensors(), Crossings() as crossings:
        options = {"processes": EvalProcesses(), "device": torch.device("cuda", 0), "batch": 4}
        outputs = list(views.run_views(call, manifest, np.arange(7), protocol, **options))
    assert [output.index for output in outputs] == list(range(7))
    assert [output.error for output in outputs].count("damaged") == 4
    assert len(pinned) == 3
    # The first batch is not held up by the second; from then on one is ready ahead.
    read, compute = "read", "compute"
    assert events == [read, compute, read, read, compute, read, compute, compute]
    assert crossings.found == {
        Crossing("_to_copy", "videohpm/evaluate/views.py:_on_device", waits=False): 3,
        Crossing("_to_copy", "videohpm/evaluate/views.py:_forward", waits=True): 4,
    }


CROSSING = {
    "item": lambda x, few: x.sum().item(),
    "float": lambda x, few: float(x[0]),
    "if": lambda x, few: bool((x > 0).any()),
    "list": lambda x, few: x.tolist(),
    "cpu": lambda x, few: x.cpu(),
    "numbers": lambda x, few: x.new_tensor([1.0, 2.0]),
    "a number": lambda x, few: torch.tensor(1.0, device="cuda"),
    "index of a list": lambda x, few: x[[0, 1]],
    "index on the CPU": lambda x, few: x[few],
    "copy": lambda x, few: torch.empty(4).copy_(x),
}


@pytest.mark.parametrize("name", CROSSING)
def test_what_crosses_is_seen(gpus, name):
    with fake_tensors():
        x, few = torch.empty(4, device="cuda"), torch.tensor([1, 0])
        with Crossings() as crossings:
            CROSSING[name](x, few)
    assert sum(crossings.found.values()) >= 1


def test_what_does_not_is_not(gpus):
    with fake_tensors():
        x = torch.empty(4, device="cuda")
        with Crossings() as crossings:
            (x * 2 + torch.tensor(1.0)).mean().mul(torch.tensor(2.0)).clone()
            x[1:].copy_(x[:-1])
    assert not crossings.found


@pytest.mark.parametrize("act", [lambda x: x.nonzero(), lambda x: x[x > 0], torch.unique])
def test_sizes_that_depend_on_values_are_refused(gpus, act):
    with fake_tensors(), Crossings(), pytest.raises(RuntimeError):
        act(torch.empty(4, device="cuda"))


def test_the_traced_backward_pass_is_torchs():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 4), nn.GELU(), nn.LayerNorm(4), nn.Linear(4, 6))
    left, right, unused = network(torch.randn(5, 3)).chunk(3, 1)
    scores, losses = (left * right + left), right.detach().square()
    loss = (left - right).square().mean() + hpm.relative_loss(scores, losses)
    loss = loss + hpm.token_losses(left[:, None], losses[:, None]).mean()
    loss.backward(retain_graph=True)
    expected = [p.grad for p in network.parameters()]
    network.zero_grad()
    backward(loss)
    found = [p.grad for p in network.parameters()]
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)
