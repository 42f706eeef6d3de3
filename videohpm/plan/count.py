"""What a step is made of, counted from the configuration: tokens, FLOPs, traffic."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from videohpm import hpm
from videohpm.config import PlanConfig, PretrainConfig, as_plain, from_plain
from videohpm.interop.frozen import encoders_of
from videohpm.models import MAEConfig, MaskedAutoencoder

PROBE_SHARE = 0.02
"""Of the FLOPs of a run, what looks at it may take where their number is not given."""


@dataclass(frozen=True)
class BlockStack:
    """A stack of transformer blocks, of which the last may compute fewer positions."""

    tokens: int
    width: int
    hidden: int
    depth: int
    num_queries: int | None = None

    @property
    def outputs(self) -> int:
        """Positions that leave the last block."""
        return self.tokens if self.num_queries is None else self.num_queries

    def positions(self) -> Iterator[tuple[int, int]]:
        """Positions that enter and leave each block."""
        for number in range(self.depth):
            yield self.tokens, self.outputs if number == self.depth - 1 else self.tokens

    def linear(self) -> int:
        """Forward FLOPs of the linear layers."""
        d = self.width
        return sum(2 * d * (3 * d * n + d * r + 2 * self.hidden * r) for n, r in self.positions())

    def attention(self) -> int:
        """Forward FLOPs of the attention itself."""
        return sum(4 * n * r * self.width for n, r in self.positions())

    def recomputed(self) -> int:
        """FLOPs of activation checkpointing: forward once more, up to the last layer's input."""
        last = sum(2 * r * self.hidden * self.width for _, r in self.positions())
        return self.linear() + self.attention() - last

    def passed_back(self, wide: int, narrow: int) -> int:
        """Bytes a token takes while its gradient goes back through a block's wide layer."""
        return self.width * wide + self.hidden * narrow

    def kept(self, wide: int, narrow: int) -> list[int]:
        """Bytes each block keeps for the backward pass.

        Args:
            wide, narrow: bytes of a number of the residual stream, and of one that enters a
                matrix product.
        """
        d = self.width
        return [
            n * d * (wide + 4 * narrow) + r * (d * (wide + 2 * narrow) + 2 * self.hidden * narrow)
            for n, r in self.positions()
        ]


@dataclass(frozen=True)
class Work:
    """Tokens of one clip, and the stacks of blocks that see them."""

    visible: int
    decoded: int
    queries: int
    scored_tokens: int
    """What the scorer sees, where it is a network."""
    target_dim: int
    encoder: BlockStack
    decoder: BlockStack
    predictor: BlockStack | None
    scorer_encoder: BlockStack | None
    scorer_predictor: BlockStack | None


def work_of(config: PretrainConfig) -> Work:
    """What a clip is made into on its way through a step."""
    model, grid, target = config.model_config(), config.model.grid(), target_of(config)
    visible, decoded, queries = (target.shapes[name] for name in ("visible", "decoded", "units"))
    if config.hpm.predictor_unit == "token":
        queries = decoded
    vit, twin = model.encoder, model.decoder
    prefix = vit.num_prefix_tokens

    def encoder(tokens: int, depth: int = vit.depth) -> BlockStack:
        return BlockStack(tokens + prefix, vit.dim, int(vit.dim * vit.mlp_ratio), depth)

    def decoder(tokens: int, num_queries: int, depth: int) -> BlockStack:
        hidden = int(twin.dim * twin.mlp_ratio)
        return BlockStack(tokens + prefix, twin.dim, hidden, depth, num_queries)

    network, seen = hpm.NETWORKS.get(config.scorer), 0
    scorer_encoder = scorer_predictor = None
    if network is not None:
        samples = config.teacher_samples or grid.t
        samples = samples if network.predictor else max(1, samples)
        seen = grid.num_tokens if samples >= grid.t else len(grid.staggered_tokens(samples))
        scorer_encoder = encoder(seen, vit.depth - (not network.predictor))
        if network.predictor:
            inside, scored = seen, seen
            if config.hpm.score_readout == "query":
                by_tube = config.hpm.predictor_unit == "tube"
                scored = grid.num_tubes if by_tube else grid.num_tokens
                inside = seen + scored
            scorer_predictor = decoder(inside, scored, model.predictor_depth)
    mines = config.hpm.enabled
    return Work(
        visible, decoded, queries if mines else 0, seen, target.dim, encoder(visible),
        decoder(visible + decoded, decoded, twin.depth),
        decoder(visible + queries, queries, model.predictor_depth) if mines else None,
        scorer_encoder, scorer_predictor,
    )  # fmt: skip


@dataclass(frozen=True)
class TargetWork:
    """What the target of one clip is made from."""

    dim: int
    """Values of a token."""
    flops: int
    parameters: int
    """Of a network that is not trained."""
    shapes: dict[str, int]
    """Tokens that are visible and decoded, and units that have a loss."""


def target_of(config: PretrainConfig) -> TargetWork:
    """Counted by running a step's mask and target without memory, so whatever they are."""
    sections = {name: as_plain(getattr(config, name)) for name in ("data", "model", "mask", "hpm")}
    return _target_of(json.dumps(sections))


@lru_cache(maxsize=4)
def _target_of(sections: str) -> TargetWork:
    config = from_plain(PretrainConfig, json.loads(sections))
    grid = config.model.grid()
    units = hpm.unit_count(grid, config.mask.unit)
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nothing is copied into what has no memory

        def teacher() -> hpm.LossTeacher:
            return hpm.LossTeacher(MaskedAutoencoder(config.model_config())).to("meta")

        encoders = encoders_of(teacher, weights=False)
        target = hpm.TARGETS[config.model.target](grid, config, encoders)
        if isinstance(target, nn.Module):
            target.to("meta")
        clips = torch.empty(1, 3, grid.frames, grid.height, grid.width)
        ids = torch.empty(1, units, dtype=torch.long)
        mask = hpm.draw_mask(None, clips, ids, grid, config.mask, 0.0)
        with FlopCounterMode(display=False) as counted:
            target(clips, mask)
    held = count(target.parameters()) if isinstance(target, nn.Module) else 0
    hidden = mask.decoded if mask.tubes is None else mask.tubes
    shapes = {"visible": mask.visible, "decoded": mask.decoded, "units": hidden}
    return TargetWork(
        target.dim, counted.get_total_flops(), held, {k: v.shape[1] for k, v in shapes.items()}
    )


def parameters_of(config: PretrainConfig) -> tuple[int, int, int]:
    """Parameters of the student, of its teacher, and of the student's largest layer."""
    model = _meta_model(config.model_config(target_of(config).dim))
    network, teacher = hpm.NETWORKS.get(config.scorer), 0
    if network is not None and network.copy:
        rest = model.decoder.parameters() if model.decoder else ()
        teacher = count(model.parameters()) - count(rest)
    largest = max(count(module.parameters(recurse=False)) for module in model.modules())
    return count(model.parameters()), teacher, largest


def flops_of(config: PretrainConfig) -> dict[str, int]:
    """FLOPs of one clip in one step: of the student (both passes), the scorer and the target.

    A linear layer costs twice as much backward as forward, attention two and a half times (it
    computes its weights again); the embedding has no input to pass a gradient to.
    """
    work, model, grid = work_of(config), config.model_config(), config.model.grid()
    wide, narrow = model.encoder.dim, model.decoder.dim

    def embedding_and_projection(tokens: int) -> tuple[int, int]:
        encoded = tokens + model.encoder.num_prefix_tokens
        return 2 * tokens * grid.patch_dim * wide, 2 * encoded * wide * narrow

    embedding, projection = embedding_and_projection(work.visible)
    linear = projection + 2 * narrow * (work.decoded * work.target_dim + work.queries)
    stacks = [x for x in (work.encoder, work.decoder, work.predictor) if x]
    student = 2 * embedding + 3 * (linear + sum(x.linear() for x in stacks))
    student += 7 * sum(x.attention() for x in stacks) // 2
    if config.engine.checkpoint_activations:
        student += sum(x.recomputed() for x in stacks)
    flops = {"student": student, "scorer": 0, "target": target_of(config).flops}
    if work.scorer_encoder is None:
        return flops
    seen, stacks = work.scored_tokens, [work.scorer_encoder]
    embedding, projection = embedding_and_projection(seen)
    scorer = embedding
    if work.scorer_predictor is not None:
        stacks.append(work.scorer_predictor)
        scorer += projection + 2 * narrow * work.scorer_predictor.outputs
    else:  # queries and keys of the last block, and the weights of one query
        inside = seen + model.encoder.num_prefix_tokens
        scorer += 6 * wide * wide * (inside + 1) + 2 * wide * inside
    return flops | {"scorer": scorer + sum(x.linear() + x.attention() for x in stacks)}


def flops_of_probe(config: PretrainConfig) -> int:
    """FLOPs of one look at a run, see :class:`videohpm.config.OnlineProbeConfig`.

    All clips go through the encoder whole; those without labels are reconstructed, too.
    """
    grid, flops = config.model.grid(), flops_of(config)
    encoder = work_of(config).encoder
    tokens = grid.num_tokens + config.model_config().encoder.num_prefix_tokens
    whole = replace(encoder, tokens=tokens)
    features = (
        whole.linear() + whole.attention() + 2 * grid.num_tokens * (grid.patch_dim * encoder.width)
    )
    clips, labelled = config.probe.clips, config.probe.samples if config.probe.manifest else 0
    return clips * (flops["student"] // 3 + flops["target"]) + (clips + labelled) * features


def probe_period(config: PretrainConfig) -> int:
    """Steps between two looks at a run, a multiple of run.log_every; 0 for none."""
    every, log = config.probe.every, config.run.log_every
    if every is None:
        step = config.optim.global_batch_size * config.data.repeats * sum(flops_of(config).values())
        every = math.ceil(flops_of_probe(config) / (PROBE_SHARE * step))
    return math.ceil(every / log) * log


def traffic_of(config: PlanConfig, stage: int) -> float:
    """Bytes that one GPU sends in an optimiser step, by rings.

    Under bf16 DeepSpeed exchanges gradients, and under stage 3 weights, in bf16.
    """
    student, teacher, _ = parameters_of(config)
    around = (config.gpus - 1) / config.gpus
    small, micro_batches = 2 if config.precision == "bf16" else 4, config.engine.accumulation
    if stage == 0:
        return around * 2 * small * student
    if stage == 3:  # weights for both passes, gradients, and the teacher's weights
        return around * micro_batches * small * (3 * student + teacher)
    reductions = micro_batches if stage == 2 else 1
    return around * student * (reductions * small + 4)  # and the moved fp32 weights


@lru_cache(maxsize=4)
def _meta_model(config: MAEConfig) -> MaskedAutoencoder:
    """The model without memory for its weights."""
    with torch.device("meta"):
        return MaskedAutoencoder(config)


def count(parameters) -> int:
    """How many numbers some parameters hold."""
    return sum(parameter.numel() for parameter in parameters)
