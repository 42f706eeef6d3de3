"""What one GPU holds at the fullest moment of a step, counted from the configuration."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

from videohpm.config import PlanConfig
from videohpm.config.engine import EngineConfig
from videohpm.engine.settings import bucket_of
from videohpm.models import VideoClassifier
from videohpm.plan.count import BlockStack, count, parameters_of, target_of, work_of


@dataclass(frozen=True)
class Memory:
    """Bytes on one GPU.

    Args:
        gradients: where ``gradients_replace`` they come as activations go, and count only where
            there are more of them.
        activations: of ``clips`` clips at the fullest moment of a step.
    """

    weights: float
    gradients: float
    optimiser: float
    teacher: float
    buffers: float
    activations: float
    clips: int
    gradients_replace: bool

    KINDS: ClassVar = ("weights", "gradients", "optimiser", "teacher", "buffers", "activations")

    @property
    def total(self) -> float:
        """At the fullest moment."""
        return self.total_at(self.clips)

    def total_at(self, clips: int) -> float:
        """The same with another number of clips at a time."""
        fixed = self.weights + self.optimiser + self.teacher + self.buffers
        activations = self.activations / self.clips * clips
        if self.gradients_replace:
            return fixed + max(self.gradients, activations)
        return fixed + self.gradients + activations

    def most_clips(self, room: float) -> int:
        """How many clips at a time leave the total within ``room`` bytes."""
        fixed = self.total_at(0)
        if fixed > room:
            return 0
        left = room - fixed + (self.gradients if self.gradients_replace else 0.0)
        return int(left / (self.activations / self.clips))


def memory_of(config: PlanConfig, stage: int, accumulates: bool | None = None) -> Memory:
    """What one GPU holds at the fullest moment of a pre-training step, under a ZeRO stage.

    Args:
        accumulates: whether a step has several micro-batches; None: as ``config`` says.
    """
    student, teacher, largest = parameters_of(config)
    accumulates = config.engine.accumulation > 1 if accumulates is None else accumulates
    engine = replace(config.engine, precision=config.precision)
    parts = states_of(student, largest, engine, stage, config.gpus, accumulates)
    share = 1 / config.gpus if stage == 3 else 1
    return Memory(
        **parts,
        teacher=4 * teacher * share + 4 * target_of(config).parameters,
        activations=config.micro_batch * activations_of(config),
        clips=config.micro_batch,
    )


def states_of(
    weights: int,
    largest: int,
    engine: EngineConfig,
    stage: int,
    gpus: int,
    accumulates: bool,
    trained: int | None = None,
) -> dict[str, Any]:
    """Bytes that do not depend on the batch: the fields of :class:`Memory` about the model.

    Weights, gradients and AdamW's two moments are fp32 (bf16 is autocast's). From stage 1 on
    DeepSpeed also keeps each GPU's share of the weights a second time, which the optimiser updates.

    Args:
        weights: of the model, how many.
        engine: with a precision that is resolved.
        largest: how many its largest layer has.
        trained: how many of them are trained; None for all.
    """
    trained = weights if trained is None else trained
    share, precision = 1 / gpus, engine.precision
    full_gradients = stage == 0 or (stage == 1 and accumulates)
    state, buffers = (8.0 if stage == 0 else 12 * share), 0.0
    if stage or gpus > 1 or engine.uses_deepspeed:
        # What DeepSpeed gathers before gradients are sent; its settings say how much.
        bucket = bucket_of(engine)
        if stage == 0:
            buffers = 4.0 * min(trained, bucket)
        else:
            # For each precision that gradients are sent in; below stage 3 both have fp32's size.
            buffers = bucket * (4.0 if precision == "fp32" else 8.0 if stage < 3 else 6.0)
            buffers *= 2 if stage < 3 else 1  # one is filled while the other is sent
    if precision == "bf16":
        # autocast's copies, kept for the backward pass unless that makes them again
        buffers += 2.0 * (largest if engine.checkpoint_activations else weights)
    if stage == 3:
        buffers += 4.0 * largest * 2  # the layer at work, and the next on its way
    return {
        "weights": 4 * weights * (share if stage == 3 else 1),
        "gradients": 4 * trained * (1 if full_gradients else share),
        "optimiser": 0.0 if engine.offload and stage else state * trained,
        "buffers": buffers,
        "gradients_replace": stage == 0 and not accumulates,
    }


def activations_of(config: PlanConfig) -> float:
    """Bytes one clip takes at the fullest moment: at the loss, or as the backward pass begins."""
    work, grid = work_of(config), config.model.grid()
    wide, narrow = 4, 2 if config.precision == "bf16" else 4
    stacks = [x for x in (work.encoder, work.decoder, work.predictor) if x]
    kept, one = _kept_by(stacks, wide, narrow, config.engine.checkpoint_activations)
    clip = grid.num_tokens * grid.patch_dim * (wide + 1)  # in floating point, and as it came
    kept += clip + work.visible * grid.patch_dim * narrow
    values = work.decoded * work.target_dim
    # What the decoder predicted, the targets and the difference; in bf16 also as it was predicted.
    at_loss = values * (3 * wide + (narrow if narrow < wide else 0))
    if (
        config.hpm.enabled
        and config.model.target in ("per_channel", "joint")
        and config.hpm.hardness != "loss"
    ):
        at_loss += values * 3 * wide / config.micro_batch  # the error in pixels, clip by clip
    going_back = values * narrow + one + max(x.tokens * x.passed_back(wide, narrow) for x in stacks)
    student = kept + max(at_loss, going_back)
    if not work.scorer_encoder:
        return student
    scorer = max(work.scorer_encoder.kept(wide, narrow), default=0)
    return max(student, clip + scorer + work.scored_tokens * grid.patch_dim * 4)


def _kept_by(
    stacks: list[BlockStack], wide: int, narrow: int, recompute: bool
) -> tuple[float, float]:
    """Bytes that blocks keep for the backward pass, and those of the one at work besides."""
    blocks = [size for stack in stacks for size in stack.kept(wide, narrow)]
    if not recompute:
        return sum(blocks), 0
    return sum(wide * x.tokens * x.width * x.depth for x in stacks), max(blocks)


def classifier_memory(
    model: VideoClassifier,
    engine: EngineConfig,
    stage: int,
    gpus: int,
    accumulates: bool,
    *,
    averaged: bool,
) -> Memory:
    """What one GPU holds at the fullest moment of a fine-tuning step, for one clip.

    Args:
        engine: with a precision that is resolved.
        averaged: whether there is a moving average of the weights.
    """
    vit, grid = model.config.encoder, model.grid
    weights = count(model.parameters())
    trained = count(p for p in model.parameters() if p.requires_grad)
    largest = max(count(module.parameters(recurse=False)) for module in model.modules())
    parts = states_of(weights, largest, engine, stage, gpus, accumulates, trained)
    wide, narrow = 4, 2 if engine.precision == "bf16" else 4
    tokens = grid.num_tokens + vit.num_prefix_tokens
    stack = BlockStack(tokens, vit.dim, int(vit.dim * vit.mlp_ratio), vit.depth)
    kept, one = _kept_by([stack], wide, narrow, engine.checkpoint_activations)
    if model.frozen:
        kept, one = 0, 0
    # As it came, in floating point, mixed with another, and cut into patches.
    clip = grid.num_tokens * grid.patch_dim * (1 + 2 * wide + narrow)
    return Memory(
        **parts,
        teacher=4.0 * weights * averaged * (1 / gpus if stage == 3 else 1),
        activations=kept + one + clip + tokens * stack.passed_back(wide, narrow),
        clips=1,
    )
