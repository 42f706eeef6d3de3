"""A plan as text."""

from __future__ import annotations

from videohpm.config import PlanConfig
from videohpm.config.checks import AUTO
from videohpm.config.engine import STAGES
from videohpm.config.plan import GPUS
from videohpm.plan.count import (
    flops_of,
    parameters_of,
    target_of,
    traffic_of,
    work_of,
)
from videohpm.plan.fit import USABLE, Batch, fit_plan
from videohpm.plan.memory import Memory, memory_of
from videohpm.plan.reading import clips_wanted, cores_needed


def describe(config: PlanConfig) -> str:
    """All that ``videohpm plan`` prints."""
    chosen = config.engine.grad_accum_steps == AUTO
    config = fit_plan(config)
    parts = _step(config, chosen), _memory(config), _time(config), _assumptions(config)
    return "\n\n".join("\n".join(part) for part in parts)


def _step(config: PlanConfig, chosen: bool) -> list[str]:
    student, teacher, _ = parameters_of(config)
    flops, work, grid = flops_of(config), work_of(config), config.model.grid()
    clips = config.optim.global_batch_size * config.data.repeats
    step, frozen = sum(flops.values()) * clips, target_of(config).parameters
    who = "teacher" if teacher else "scorer"
    lines = [
        f"{_size(config)}, {grid.frames} frames of {grid.height}x{grid.width}, "
        f"{config.gpus} x {config.gpu}, ZeRO-{config.stage}, {config.precision}",
        f"parameters     {_count(student)}"
        + (f", teacher {_count(teacher)}" if teacher else "")
        + (f", target {_count(frozen)}" if frozen else ""),
        f"tokens a clip  {grid.num_tokens} ({grid.t}x{grid.h}x{grid.w}): {work.visible} visible, "
        f"{work.decoded} decoded"
        + (f", {work.queries} scored" if work.queries else "")
        + (f"; the {who} sees {work.scored_tokens}" if work.scored_tokens else ""),
        f"a step         {clips} clips, {config.micro_batch} on a GPU at a time, "
        f"{config.engine.accumulation} times"
        + (" (engine.grad_accum_steps auto)" if chosen else ""),
        f"FLOPs          {flops['student'] / 1e9:.1f} G a clip"
        + (f" + {flops['scorer'] / 1e9:.1f} G of the {who}" if flops["scorer"] else "")
        + (f" + {flops['target'] / 1e9:.1f} G of the target" if flops["target"] else "")
        + f"; {step / 1e15:.3g} P a step",
    ]
    return lines


def _size(config: PlanConfig) -> str:
    """The name of the encoder's size, or where fields give another what it is."""
    model, encoder = config.model, config.model_config().encoder
    if model.dim is None and model.depth is None:
        return model.arch
    return f"ViT of {encoder.depth} blocks {encoder.dim} wide"


def _memory(config: PlanConfig) -> list[str]:
    room = GPUS[config.gpu].memory * USABLE
    names = Memory.KINDS
    lines = [
        "GB on a GPU    " + "".join(f"{name:>12}" for name in [*names, "total"]),
    ]
    for stage in STAGES:
        memory = memory_of(config, stage)
        numbers = "".join(f"{getattr(memory, name) / 1e9:>12.2f}" for name in names)
        mark = "<-" if stage == config.stage else "  "
        fits = "fits" if memory.total <= room else "DOES NOT FIT"
        lines.append(f"ZeRO-{stage} {mark}      {numbers}{memory.total / 1e9:>12.2f}  {fits}")
    memory = memory_of(config, config.stage)
    largest = memory.most_clips(room)
    if largest < 1:
        lines.append(
            "not even one clip fits beside the weights: take a higher --zero, "
            "--engine.offload true, more GPUs or larger ones"
        )
    else:
        lines.append(f"at most {largest} clips fit on a GPU at a time under ZeRO-{config.stage}")
        if memory.total > room:
            batch = Batch(config.optim.global_batch_size, config.gpus, config.data.repeats)
            lines.append(
                f"{config.micro_batch} do not fit: set --engine.grad_accum_steps to at least "
                f"{batch.accumulation_for(largest)}, or --engine.checkpoint_activations true"
            )
    return lines


def _time(config: PlanConfig) -> list[str]:
    gpu = GPUS[config.gpu]
    clips = config.optim.global_batch_size * config.data.repeats
    wanted = clips_wanted(config)
    if not wanted:
        return [f"time           {config.gpu} has no bf16: set --engine.precision fp32"]
    computing = clips / wanted
    sent = traffic_of(config, config.stage)
    sending = sent / gpu.link
    lines = [
        f"communication  {sent / 1e9:.2f} GB sent by each GPU in a step: {sending * 1e3:.1f} ms "
        f"at {gpu.link / 1e9:.0f} GB/s, beside {computing * 1e3:.1f} ms of computing",
        f"pace           {wanted:.0f} to {clips / (computing + sending):.0f} clips/s "
        "(communication hidden, or not)",
        f"data           {wanted:.0f} clips/s wanted, {wanted / config.gpus:.0f} for each GPU: "
        + ", or ".join(cores_needed(config, wanted)),
    ]
    if config.clips_per_core is None:
        lines.append(
            "               (as measured elsewhere; videohpm data bench measures your list)"
        )
    steps = _steps(config)
    if steps is None:
        return [*lines, "whole run      give --samples, or run.steps, for time and energy"]
    hours = steps * (computing + sending) / 3600
    energy = hours * config.gpus * gpu.watts * config.overhead / 1000
    return [
        *lines,
        f"whole run      {steps} steps: {hours:.3g} hours, {hours * config.gpus:.3g} GPU hours, "
        f"{energy:.3g} kWh",
    ]


def _steps(config: PlanConfig) -> int | None:
    run = config.run
    if run.epochs is not None and config.samples is None:
        return None
    return run.total_steps((config.samples or 0) / config.optim.global_batch_size)


def _assumptions(config: PlanConfig) -> list[str]:
    gpu = GPUS[config.gpu]
    peak = (gpu.bf16 if config.precision == "bf16" else gpu.fp32) / 1e12
    return [
        "assumed: matrix products only are counted, at "
        f"{config.utilisation:.0%} of {peak:.0f} TFLOP/s; the teacher scores clips at every step; "
        "data keeps up;",
        f"all GPUs in one machine ({gpu.link / 1e9:.0f} GB/s each way); a GPU draws "
        f"{gpu.watts:.0f} W throughout, machine and cooling {config.overhead - 1:.0%} more;",
        f"{USABLE:.0%} of {gpu.memory / 1e9:.0f} GB is usable; weights, gradients and moments are "
        "fp32, bf16 is autocast's.",
    ]


def _count(number: float) -> str:
    return f"{number / 1e6:.1f} M"
