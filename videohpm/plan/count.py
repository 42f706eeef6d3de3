"""What a step is made of, counted from the configuration: tokens, FLOPs, traffic."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import torch

from videohpm import hpm
from videohpm.config import PlanConfig, PretrainConfig
from videohpm.models import MAEConfig, MaskedAutoencoder


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
    teacher_tokens: int
    encoder: BlockStack
    decoder: BlockStack
    predictor: BlockStack | None
    teacher_encoder: BlockStack | None
    teacher_predictor: BlockStack | None


def work_of(config: PretrainConfig) -> Work:
    """What a clip is made into on its way through a step."""
    model, grid = config.model_config(), config.model.grid()
    units = hpm.unit_count(grid, config.mask.unit)
    tokens_of_unit = grid.t if config.mask.unit == "tube" else 1
    masked_units = hpm.masked_count(units, config.mask.ratio)
    masked = masked_units * tokens_of_unit
    visible, decoded = grid.num_tokens - masked, _decoded(config, masked_units)
    vit, twin = model.encoder, model.decoder
    prefix = vit.num_prefix_tokens

    def encoder(tokens: int) -> BlockStack:
        return BlockStack(tokens + prefix, vit.dim, int(vit.dim * vit.mlp_ratio), vit.depth)

    def decoder(tokens: int, num_queries: int, depth: int) -> BlockStack:
        hidden = int(twin.dim * twin.mlp_ratio)
        return BlockStack(tokens + prefix, twin.dim, hidden, depth, num_queries)

    pixels = decoder(visible + decoded, decoded, twin.depth)
    if not config.hpm.enabled:
        return Work(visible, decoded, 0, 0, encoder(visible), pixels, None, None, None)
    depth = model.predictor_depth
    by_tube = config.hpm.predictor_unit == "tube"
    queries = masked // grid.t if by_tube else decoded
    predictor = decoder(visible + queries, queries, depth)
    if config.scorer not in ("loss_teacher", "student"):
        return Work(visible, decoded, queries, 0, encoder(visible), pixels, predictor, None, None)
    samples = config.teacher_samples or grid.t
    seen_whole = samples >= grid.t
    teacher_tokens = grid.num_tokens if seen_whole else len(grid.staggered_tokens(samples))
    teacher_predictor = (teacher_tokens, teacher_tokens)  # positions in, scores out
    if config.hpm.score_readout == "query":
        scored = grid.num_tubes if by_tube else grid.num_tokens
        teacher_predictor = (teacher_tokens + scored, scored)
    return Work(
        visible, decoded, queries, teacher_tokens, encoder(visible), pixels,
        predictor, encoder(teacher_tokens),
        decoder(*teacher_predictor, depth),
    )  # fmt: skip


def _decoded(config: PretrainConfig, masked_units: int) -> int:
    ratio, t = config.mask.decode_ratio, config.model.grid().t
    if config.mask.unit == "tube":
        return masked_units * max(1, round(ratio * t))
    return max(1, round(ratio * masked_units))


def parameters_of(config: PretrainConfig) -> tuple[int, int, int]:
    """Parameters of the student, of its teacher, and of the student's largest layer."""
    model = _meta_model(config.model_config())
    teacher = 0
    if config.scorer == "loss_teacher":
        rest = model.decoder.parameters() if model.decoder else ()
        teacher = count(model.parameters()) - count(rest)
    largest = max(count(module.parameters(recurse=False)) for module in model.modules())
    return count(model.parameters()), teacher, largest


def flops_of(config: PretrainConfig) -> dict[str, int]:
    """FLOPs of one clip in one step: of the student (both passes) and of the teacher.

    A linear layer costs twice as much backward as forward, attention two and a half times (it
    computes its weights again); the embedding has no input to pass a gradient to.
    """
    work, model, grid = work_of(config), config.model_config(), config.model.grid()
    wide, narrow = model.encoder.dim, model.decoder.dim

    def embedding_and_projection(tokens: int) -> tuple[int, int]:
        encoded = tokens + model.encoder.num_prefix_tokens
        return 2 * tokens * grid.patch_dim * wide, 2 * encoded * wide * narrow

    embedding, projection = embedding_and_projection(work.visible)
    linear = projection + 2 * narrow * (work.decoded * grid.patch_dim + work.queries)
    stacks = [x for x in (work.encoder, work.decoder, work.predictor) if x]
    student = 2 * embedding + 3 * (linear + sum(x.linear() for x in stacks))
    student += 7 * sum(x.attention() for x in stacks) // 2
    if config.engine.checkpoint_activations:
        student += sum(x.recomputed() for x in stacks)
    if work.teacher_encoder is None or work.teacher_predictor is None:
        return {"student": student, "teacher": 0}
    teacher = sum(embedding_and_projection(work.teacher_tokens))
    teacher += 2 * narrow * work.teacher_predictor.outputs
    for stack in (work.teacher_encoder, work.teacher_predictor):
        teacher += stack.linear() + stack.attention()
    return {"student": student, "teacher": teacher}


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
