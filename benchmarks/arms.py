"""What is compared: four ways to do one step, at equal model, batch, clip and precision.

============== ==================================================================================
transformers   ``VideoMAEForPreTraining``, fused attention, the same optimiser: plain VideoMAE
plain          ours without mining: plain VideoMAE
hpm            ours with mining, as configured by default
published      ours with mining the published way: the predictor asks for each token, the teacher
               sees the whole clip, runs its pixel decoder too, and is read at visible tokens
============== ==================================================================================
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from clock import Clock
from torch import Tensor, nn

from videohpm import hpm
from videohpm.config import HPMConfig, PretrainConfig, size_of
from videohpm.data import Batch, normalise
from videohpm.engine import TorchEngine, resolved_precision, torch_device
from videohpm.hpm import LossTeacher, Scorer
from videohpm.interop.frozen import encoders_of
from videohpm.models import MaskedAutoencoder
from videohpm.pretrain import train_step

PARTS = ("teacher", "mask", "forward", "losses", "backward", "optimiser")
SCORED = ("student", "change", "motion", "noise", "attention")
"""Arms named by what scores their tubes."""
OTHER_ARMS = {
    "predictor": {"mask": {"scorer": "none"}, "hpm": {"enabled": True}},
    "centered": {"hpm": {"enabled": True, "center_scores": True}},
    "half": {"mask": {"decode_ratio": 0.5}},
    "raw": {"model": {"target": "raw"}},
    "decode": {"mask": {"scorer": "motion", "use": "decode", "decode_ratio": 0.5}},
    "weight": {"mask": {"scorer": "motion", "use": "weight"}},
    "ema_encoder": {"model": {"target": "ema_encoder"}, "hpm": {"enabled": True}},
    "frozen_encoder": {"model": {"target": "frozen_encoder"}},
}
"""Arms by what differs from the plain step; frozen_encoder needs the encoder besides."""
HARD_RATIO = 0.25
"""As half-way through a run."""
PUBLISHED = HPMConfig(
    predictor_unit="token", predictor_depth=None, teacher_samples_per_tube=0,
    score_readout="visible",
)  # fmt: skip


def make_batch(config: PretrainConfig, seed: int = 0) -> Batch:
    """Random pixels and mask shuffle ids."""
    grid, count = config.model.grid(), config.optim.global_batch_size
    generator = torch.Generator().manual_seed(seed)
    size = (count, 3, grid.frames, grid.height, grid.width)
    clips = torch.randint(256, size, dtype=torch.uint8, generator=generator)
    units = hpm.unit_count(grid, config.mask.unit)
    return Batch(
        clips=clips,
        shuffle_ids=hpm.random_shuffle_ids(count, units, generator),
        labels=torch.full((count,), -1),
        index=torch.arange(count),
        bad=[],
    )


class Ours:
    """The step of :func:`videohpm.pretrain.train_step`, with marks between its lines."""

    def __init__(self, config: PretrainConfig, kind: str, *, pixel_teacher: bool = False):
        torch.manual_seed(0)
        self.config = config
        encoders = encoders_of(lambda: self.teacher)
        self.target = hpm.TARGETS[config.model.target](config.model.grid(), config, encoders)
        architecture = config.model_config(self.target.dim)
        model = MaskedAutoencoder(architecture, config.engine.checkpoint_activations)
        self.clock = Clock(torch_device(config.engine.device), kind)
        scorer = hpm.SCORERS[config.scorer](model, config)
        if pixel_teacher:
            scorer = PixelTeacher(model, config.teacher_samples, config.hpm.score_readout)
        self.teacher = scorer if isinstance(scorer, LossTeacher) else None
        if config.hpm.center_scores and scorer is not None:
            scorer = hpm.CenteredScorer(scorer, config.hpm.center_momentum)
        self.scorer = None if scorer is None else MarkedScorer(scorer, self.clock)
        self.engine = MarkedEngine(model, config.engine, config.optim)
        if isinstance(self.target, nn.Module):
            self.target.to(self.engine.device)
        self.engine.clock = self.clock
        if self.teacher is not None:
            self.engine.attach_ema(self.teacher)
        self.batch = make_batch(config).to(self.engine.device)

    def step(self) -> dict[str, float]:
        """Seconds of each part."""
        self.clock.start()
        metrics = train_step(
            self.engine, self.scorer, self.target, [self.batch], self.config,
            hard_ratio=HARD_RATIO, momentum=0.999, lr=1e-6,
        )  # fmt: skip
        self.clock.mark("optimiser")
        self.loss = metrics["loss"]
        return self.clock.parts()

    def held(self) -> Iterator[Tensor]:
        """What is in memory between two steps."""
        model, optimizer = self.engine.model, self.engine.optimizer
        yield from (*model.parameters(), *model.buffers(), self.batch.clips)
        for network in (self.teacher, self.target):
            if isinstance(network, nn.Module):
                yield from (*network.parameters(), *network.buffers())
        for state in optimizer.state.values():
            yield from (x for x in state.values() if isinstance(x, Tensor))


class MarkedEngine(TorchEngine):
    """An engine that notes when it was entered and left."""

    def __call__(self, *inputs):
        self.clock.mark("mask")
        out = super().__call__(*inputs)
        self.clock.mark("forward")
        return out

    def backward(self, loss: Tensor) -> None:
        self.clock.mark("losses")
        super().backward(loss)
        self.clock.mark("backward")


class MarkedScorer(Scorer):
    """A scorer, with a note of when it was called and when it returned."""

    def __init__(self, scorer: Scorer, clock: Clock):
        self.scorer, self.clock = scorer, clock

    def __call__(self, clips: Tensor, shuffle_ids: Tensor) -> Tensor:
        self.clock.mark("mask")
        scores = self.scorer(clips, shuffle_ids)
        self.clock.mark("teacher")
        return scores

    def after_step(self, student: nn.Module, momentum: float) -> None:
        self.scorer.after_step(student, momentum)


class PixelTeacher(LossTeacher):
    """A teacher that is a full copy of the student and reconstructs all pixels, to no purpose."""

    def __init__(self, student: MaskedAutoencoder, *options):
        super().__init__(student, *options)
        self.decoder = copy.deepcopy(student.decoder).requires_grad_(False)

    @torch.no_grad()
    def forward(self, clips: Tensor, shuffle_ids: Tensor | None = None) -> Tensor:
        grid = self.model.grid
        tokens = torch.arange(grid.num_tokens, device=clips.device).expand(len(clips), -1)
        context = self.model._context(clips, tokens)
        self.decoder(context, grid.num_tokens)
        return self.model.predictor(context, grid.num_tokens).squeeze(2)

    @torch.no_grad()
    def update(self, student: MaskedAutoencoder, momentum: float) -> None:
        super().update(student, momentum)
        source = list(student.decoder.parameters())
        torch._foreach_lerp_(list(self.decoder.parameters()), source, 1.0 - momentum)


class Transformers:
    """Hugging Face's VideoMAE, trained with the same optimiser on the same masks."""

    def __init__(self, config: PretrainConfig, kind: str):
        from transformers import VideoMAEForPreTraining

        torch.manual_seed(0)
        self.config = config
        self.engine = TorchEngine(
            VideoMAEForPreTraining(transformers_config(config)), config.engine, config.optim
        )
        self.clock = Clock(self.engine.device, kind)
        self.batch = make_batch(config).to(self.engine.device)

    def step(self) -> dict[str, float]:
        """Seconds of each part; its forward pass includes targets and loss."""
        grid, engine = self.config.model.grid(), self.engine
        self.clock.start()
        clips = normalise(self.batch.clips, self.config.data.mean, self.config.data.std)
        mask = hpm.random_mask(grid, self.config.mask.ratio, self.batch.shuffle_ids)
        self.clock.mark("mask")
        with engine.autocast():
            loss = engine(clips.transpose(1, 2), mask.is_masked).loss
        self.clock.mark("forward")
        engine.backward(loss)
        self.clock.mark("backward")
        engine.step(1e-6)
        self.clock.mark("optimiser")
        self.loss = loss.detach()
        return self.clock.parts()

    def held(self) -> Iterator[Tensor]:
        """What is in memory between two steps."""
        yield from (*self.engine.model.parameters(), *self.engine.model.buffers())
        yield self.batch.clips
        for state in self.engine.optimizer.state.values():
            yield from (x for x in state.values() if isinstance(x, Tensor))


def transformers_config(config: PretrainConfig):
    """The same model under the names that transformers gives its numbers."""
    from transformers import VideoMAEConfig

    numbers, grid = size_of(config.model.arch), config.model.grid()
    chosen = {
        name: getattr(config.model, name) or getattr(numbers, name)
        for name in ("dim", "depth", "heads", "decoder_dim", "decoder_depth", "decoder_heads")
    }
    return VideoMAEConfig(
        image_size=grid.height,
        patch_size=grid.patch,
        num_frames=grid.frames,
        tubelet_size=grid.tubelet,
        hidden_size=chosen["dim"],
        num_hidden_layers=chosen["depth"],
        num_attention_heads=chosen["heads"],
        intermediate_size=int(chosen["dim"] * numbers.mlp_ratio),
        decoder_hidden_size=chosen["decoder_dim"],
        decoder_num_hidden_layers=chosen["decoder_depth"],
        decoder_num_attention_heads=chosen["decoder_heads"],
        decoder_intermediate_size=4 * chosen["decoder_dim"],
        attn_implementation="sdpa",
    )


@dataclass(frozen=True)
class Case:
    """A model, a clip and a precision, at which the arms are compared."""

    name: str
    config: PretrainConfig

    @property
    def dtype(self) -> torch.dtype:
        engine = self.config.engine
        wanted = resolved_precision(engine.precision, torch_device(engine.device))
        return torch.bfloat16 if wanted == "bf16" else torch.float32


def make_arms(
    config: PretrainConfig, names: list[str], kind: str, encoder: str | None = None
) -> dict[str, object]:
    """The named arms, each with weights, optimiser and batch of its own.

    Args:
        encoder: of frozen_encoder, see ``model.target_encoder``.
    """
    plain = replace(config, hpm=replace(config.hpm, enabled=False))
    made = {
        "transformers": lambda: Transformers(plain, kind),
        "plain": lambda: Ours(plain, kind),
        "hpm": lambda: Ours(config, kind),
        "published": lambda: Ours(replace(config, hpm=PUBLISHED), kind, pixel_teacher=True),
    }
    for name in SCORED:
        # Without the student's predictor where the scorer does not need one.
        section = config.hpm if name == "student" else plain.hpm
        scored = replace(config, hpm=section, mask=replace(config.mask, scorer=name))
        made[name] = functools.partial(Ours, scored, kind)
    for name, changes in OTHER_ARMS.items():
        made[name] = functools.partial(_changed, plain, changes, encoder, kind)
    return {name: made[name]() for name in names}


def _changed(plain: PretrainConfig, changes: dict, encoder: str | None, kind: str) -> Ours:
    sections = {name: replace(getattr(plain, name), **c) for name, c in changes.items()
                if name != "model"}  # fmt: skip
    model = changes.get("model", {})
    if model.get("target") == "frozen_encoder":
        model = model | {"target_encoder": encoder}
    sections["model"] = replace(plain.model, **model)
    return Ours(replace(plain, **sections), kind)
