"""DeepSpeed's settings: what follows from ours, and a user's file that agrees or contradicts."""

import json

import pytest

from videohpm.config import OptimConfig
from videohpm.engine import EngineConfig
from videohpm.engine.settings import deepspeed_settings, for_ema_module
from videohpm.errors import UserError


def settings(engine, precision="fp32"):
    return deepspeed_settings(
        engine, OptimConfig(global_batch_size=48), world=2, precision=precision
    )


@pytest.fixture
def file(tmp_path):
    def write(content):
        path = tmp_path / "mine.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return str(path)

    return write


def test_all_that_we_decide_is_said():
    said = settings(EngineConfig(grad_accum_steps=3, zero_stage=2))
    assert said["train_batch_size"] == 48
    assert said["train_micro_batch_size_per_gpu"] * 2 * 3 == 48
    assert said["gradient_accumulation_steps"] == 3
    assert said["gradient_clipping"] == 0  # not DeepSpeed's default
    assert said["zero_optimization"]["stage"] == 2
    assert said["torch_autocast"]["enabled"] is False
    assert settings(EngineConfig(grad_clip=0.3))["gradient_clipping"] == 0.3
    assert settings(EngineConfig(), "bf16")["torch_autocast"] == {
        "enabled": True, "dtype": "bfloat16",
    }  # fmt: skip


def test_a_file_is_laid_over_them(file):
    mine = {
        "zero_optimization": {"reduce_bucket_size": 1000},
        "train_batch_size": 48,  # repeats
        "gradient_clipping": "auto",
        "wall_clock_breakdown": True,
    }
    said = settings(EngineConfig(zero_stage=3, deepspeed_config=file(mine)))
    assert said["zero_optimization"]["reduce_bucket_size"] == 1000
    assert said["zero_optimization"]["stage"] == 3
    assert said["wall_clock_breakdown"] is True
    assert said["gradient_clipping"] == 0
    assert said["train_batch_size"] == 48


def test_a_stage_that_only_the_file_names_counts(file):
    mine = file({"zero_optimization": {"stage": 3}})
    assert settings(EngineConfig(deepspeed_config=mine))["zero_optimization"]["stage"] == 3


@pytest.mark.parametrize(
    ("mine", "both"),
    [
        (
            {"train_batch_size": 64},
            ("train_batch_size = 64", "optim.global_batch_size makes it 48"),
        ),
        ({"gradient_clipping": 1.0}, ("gradient_clipping = 1.0", "engine.grad_clip makes it 0")),
        (
            {"gradient_accumulation_steps": 4},
            ("gradient_accumulation_steps = 4", "engine.grad_accum_steps makes it 1"),
        ),
        (
            {"zero_optimization": {"stage": 3}},
            ("zero_optimization.stage = 3", "engine.zero_stage makes it 2"),
        ),
        (
            {"zero_optimization": {"offload_optimizer": {"device": "cpu"}}},
            ("zero_optimization.offload_optimizer", "engine.offload"),
        ),
        ({"fp16": {"enabled": True}}, ("fp16.enabled = true", "engine.precision makes it false")),
        ({"bf16": {"enabled": True}}, ("bf16.enabled = true", "engine.precision")),
        ({"optimizer": {"type": "Adam"}}, ("section optimizer", "optim")),
        ({"scheduler": {"type": "WarmupLR"}}, ("section scheduler", "optim")),
        ({"bfloat16": {"enabled": True}}, ("section bfloat16", "engine.precision")),
        ({"amp": {"enabled": True}}, ("section amp", "engine.precision")),
        ({"elasticity": {"enabled": True}}, ("section elasticity", "optim.global_batch_size")),
        (
            {"zero_optimization": {"cpu_offload": True}},
            ("section zero_optimization.cpu_offload", "engine.offload"),
        ),
        ({"zero_optimization": True}, ("zero_optimization = true", "must be a JSON object")),
        ({"fp16": True}, ("fp16 = true", "must be a JSON object")),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_contradiction_names_both_sides(file, mine, both):
    with pytest.raises(UserError) as caught:
        settings(EngineConfig(zero_stage=2, deepspeed_config=file(mine)))
    assert all(part in str(caught.value) for part in ("mine.json", *both))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "shards",
    [
        {"zero_hpz_partition_size": 2},
        {"mics_shard_size": 2},
        {"zero_quantized_nontrainable_weights": True},
        {"offload_param": {"device": "nvme", "nvme_path": "/fast"}},
    ],
    ids=lambda shards: next(iter(shards)),
)
def test_shards_that_the_teacher_cannot_follow_are_refused(file, shards):
    with pytest.raises(UserError, match=next(iter(shards))):
        mine = file({"zero_optimization": {"stage": 3} | shards})
        settings(EngineConfig(deepspeed_config=mine))


def test_a_files_stage_must_go_with_compiling(file):
    mine = file({"zero_optimization": {"stage": 3}})
    with pytest.raises(UserError, match=r"mine\.json .*stage = 3.*engine\.compile"):
        settings(EngineConfig(deepspeed_config=mine, compile=True))


@pytest.mark.parametrize("content", ["{", "[1]"])
def test_a_file_that_is_no_json_object_is_named(file, content):
    with pytest.raises(UserError, match=r"engine\.deepspeed_config: .*mine\.json"):
        settings(EngineConfig(deepspeed_config=file(content)))


def test_what_is_never_trained_has_no_optimiser_to_offload():
    ours = settings(EngineConfig(zero_stage=3, offload=True))
    assert ours["zero_optimization"]["offload_optimizer"]["device"] == "cpu"
    theirs = for_ema_module(ours)["zero_optimization"]
    assert "offload_optimizer" not in theirs
    assert theirs["stage"] == 3


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("zero_stage", 4),
        ("timeout", 0.0),
        ("grad_accum_steps", 0),
        ("grad_clip", -1.0),
        ("device", "tpu"),
    ],
)
def test_impossible_values_name_their_field(field, value):
    with pytest.raises(ValueError, match=rf"engine\.{field}: "):
        EngineConfig(**{field: value})


def test_offloading_needs_something_divided():
    with pytest.raises(ValueError, match=r"engine\.offload.*zero_stage"):
        EngineConfig(offload=True, zero_stage=0)


@pytest.mark.parametrize(
    ("asked", "world", "wanted"),
    [
        ({}, "1", False),
        ({}, "2", True),
        ({"zero_stage": 0}, "1", True),
        ({"offload": True}, "1", 1),
    ],
)
def test_deepspeed_is_used_when_asked_for_or_needed(monkeypatch, asked, world, wanted):
    monkeypatch.setenv("WORLD_SIZE", world)
    assert EngineConfig(**asked).uses_deepspeed == wanted
