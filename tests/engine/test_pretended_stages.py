"""DeepSpeed's stages, and what processes tell each other, on pretended GPUs."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from pretended import needs_indexing

from videohpm.config.machine import cores_per_rank

STAGES = ("stage 0", "stage 1", "stage 2", "stage 3", "offloaded", "parameters offloaded")
BATCH = ["_to_copy", "videohpm/data/batches.py:to", False]
NORM = ["_to_copy", "videohpm/engine/deepspeed.py:step", True]
"""Where AdamW works on the CPU, the gradient's norm is known there."""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def stages(tmp_path_factory):
    """What ``pretended_stages.py`` prints, by stage."""
    file = tmp_path_factory.mktemp("stages") / "offload.json"
    file.write_text(json.dumps({"zero_optimization": {"offload_param": {"device": "cpu"}}}))
    script = Path(__file__).with_name("pretended_stages.py")
    done = subprocess.run([sys.executable, script, file], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@needs_indexing
@pytest.mark.parametrize("name", STAGES)
def test_every_stage_trains_on_its_gpu(stages, name):
    found = stages[name]
    assert (found["engine"], found["device"], found["current"]) == ("ZeroEngine", "cuda:0", 0)
    assert found["applied"]


@needs_indexing
@pytest.mark.parametrize("name", STAGES)
def test_every_collective_is_of_tensors_on_the_gpu(stages, name):
    """NCCL knows no others: gradients, weights, centers, distances and what checkpoints keep."""
    found = stages[name]
    assert {each.partition(" of ")[2] for each in found["collectives"]} <= {"cuda", ""}
    assert found["collectives"]["all_reduce of cuda"] > 1
    assert found["distance"] == "cuda" and found["kept"] == ["cuda"]


@needs_indexing
@pytest.mark.parametrize("name", STAGES)
def test_nothing_of_ours_waits_in_a_step(stages, name):
    *_, later = stages[name]["crossed"]
    ours = [crossing for *crossing, _ in later if crossing[1].startswith("videohpm")]
    assert ours == [BATCH, NORM] if name == "offloaded" else [BATCH]


@needs_indexing
def test_deepspeed_asks_once_a_step_whether_the_gradient_is_finite(stages):
    """The one wait that is left at the stages that skip such steps; not at every parameter."""
    for name in STAGES[1:4]:
        *_, later = stages[name]["crossed"]
        items = {where: count for what, where, _, count in later if what == "item"}
        assert set(items) == {"deepspeed/runtime/utils.py:is_invalid_grad_norm"}
        assert items.popitem()[1] <= 3


@needs_indexing
def test_an_optimiser_in_main_memory_works_with_all_cores_of_its_process(stages):
    found = {name: stages[name]["threads"] for name in STAGES}
    assert found.pop("offloaded") == cores_per_rank()
    assert set(found.values()) == {1}


def test_what_ranks_tell_each_other_goes_over_the_cpu(starter, tmp_path):
    """Under NCCL: flags, metrics and the results of evaluations, each on its own GPU."""
    job = starter.start(2, "facts:on_pretended_gpus", str(tmp_path), logs=tmp_path / "logs")
    assert job.wait() == [0, 0], job.said()
    for rank in range(2):
        found = json.loads((tmp_path / f"facts{rank}.json").read_text())
        assert found["backends"] == ["nccl"]
        assert found["current"] == [str(torch.device("cuda", rank))]
        assert found["gathered"] == ["results of 0", "results of 1"]
        assert found["over nccl"] == []
        assert len(found["over gloo"]) > 8
