"""DeepSpeed itself on pretended GPUs, a step at every stage: what crosses, and what is exchanged.

A process of its own, because DeepSpeed decides for a kind of device once. Prints JSON.
"""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
os.environ |= {"DS_ACCELERATOR": "cuda", "WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"}

import pytest
import torch
import torch.distributed as dist
from crossings import Crossings, backward
from pretended import PretendedGpus, fake_tensors, move, unbuilt, unlabelled_batch
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._pytree import tree_leaves

from videohpm import hpm
from videohpm.config import ModelConfig, OptimConfig, PretrainConfig
from videohpm.engine import EngineConfig, collectives, make_engine
from videohpm.pretrain import train_step

CLIPS = 2
COLLECTIVES = (
    "all_gather", "all_gather_into_tensor", "all_reduce", "barrier", "broadcast", "reduce",
    "reduce_scatter", "reduce_scatter_tensor", "send", "recv", "all_to_all_single",
)  # fmt: skip


def listen(patch: pytest.MonkeyPatch) -> Counter:
    """Counts collectives, each with the kinds of device of its tensors."""
    heard: Counter = Counter()

    def wrapped(name: str):
        call = getattr(dist, name)

        def collective(*args, **kwargs):
            tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
            kinds = sorted({tensor.device.type for tensor in tensors})
            heard[f"{name} of {'+'.join(kinds)}"] += 1
            return call(*args, **kwargs)

        return collective

    for name in COLLECTIVES:
        patch.setattr(dist, name, wrapped(name))
    return heard


def without_values(patch: pytest.MonkeyPatch) -> None:
    """Leave out of DeepSpeed what compares values, or asks torch's engine of the backward pass."""
    from deepspeed.runtime.zero import partitioned_param_coordinator, stage3, stage_1_and_2

    patch.setattr(
        partitioned_param_coordinator, "assert_ints_same_as_other_ranks", lambda ints: None
    )
    for module in (stage3, stage_1_and_2):
        patch.setattr(module, "count_used_parameters_in_backward", len, raising=False)


def steps_of(config: PretrainConfig, heard: Counter) -> dict:
    """Two steps, and what pictures and checkpoints ask of the engine."""
    heard.clear()
    torch.set_num_threads(1)  # as launchers have it
    model, scorer, target = unbuilt(config)
    with fake_tensors():
        batch = unlabelled_batch(config, CLIPS)
        engine = make_engine(model, config.engine, config.optim)
        move(scorer, engine.device)
        engine.attach_ema(scorer)
        centered = hpm.CenteredScorer(scorer, all_reduce=collectives.all_reduce_device)
        options = {"hard_ratio": 0.5, "momentum": 0.9, "lr": 1e-4}
        crossed = []
        for _ in range(2):
            with Crossings() as crossings:
                batches = [batch.to(engine.device)] * config.engine.accumulation
                train_step(engine, centered, target, batches, config, **options)
            crossed.append([[*crossing, n] for crossing, n in crossings.found.items()])
        with Crossings():
            distance = scorer.distance(engine.model).device.type
            engine.rank = 1  # one that does not write: what it gives stays on its GPU
            parameter = next(engine.model.parameters())
            kept = {engine.full_tensor(parameter).device.type}
            kept |= {engine.moment(parameter, name).device.type for name in engine.moments}
            engine.rank = 0
    threads, current = torch.get_num_threads(), torch.cuda.current_device()
    return {
        "engine": type(engine).__name__, "device": str(engine.device), "current": current,
        "applied": engine.step_applied, "crossed": crossed, "collectives": dict(heard),
        "distance": distance, "kept": sorted(kept), "threads": threads,
    }  # fmt: skip


def main() -> None:
    patch = pytest.MonkeyPatch()
    dist.init_process_group("fake", rank=0, world_size=2, store=FakeStore())
    PretendedGpus(patch)
    patch.setattr(torch.Tensor, "backward", backward)
    patch.setattr(torch.cuda, "_lazy_init", lambda: None)
    patch.setattr(torch.Tensor, "pin_memory", lambda tensor, device=None: tensor)
    heard = listen(patch)
    without_values(patch)
    found = {}
    for name, engine in {
        **{f"stage {stage}": {"zero_stage": stage} for stage in range(4)},
        "offloaded": {"zero_stage": 2, "offload": True},
        "parameters offloaded": {"zero_stage": 3, "deepspeed_config": sys.argv[1]},
    }.items():
        config = PretrainConfig(
            model=ModelConfig(
                arch="vit_tiny", frames=4, image_size=32, patch=8, dim=96, depth=1, heads=2,
                decoder_dim=48, decoder_depth=1, decoder_heads=2,
            ),
            engine=EngineConfig(device="cuda", grad_clip=1.0, grad_accum_steps=2, **engine),
            optim=OptimConfig(global_batch_size=4 * CLIPS),
        )  # fmt: skip
        found[name] = steps_of(config, heard)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
