"""Memory: the plan beside traced steps, and runs that take as many micro-batches as they need."""

import json
import re
from dataclasses import replace

import pytest
import torch
from pretended import PretendedGpus, move, traced_classifier_peak, traced_peak
from torch import nn

from videohpm.cli import main, parser_of
from videohpm.config import (
    ClassifierConfig,
    FinetuneConfig,
    HPMConfig,
    ModelConfig,
    OptimConfig,
    PretrainConfig,
)
from videohpm.engine import EngineConfig, collectives, distributed, single
from videohpm.errors import UserError
from videohpm.finetune import start_classifier
from videohpm.plan import PlanConfig, fit, memory_of
from videohpm.plan.memory import classifier_memory

CLIPS = 16


@pytest.fixture
def traced(monkeypatch):
    monkeypatch.setattr(nn.Module, "to", move)
    monkeypatch.setattr(single, "keep_freed_memory", lambda: False)


def planned(arch="vit_base", precision="bf16", accumulation=1, recompute=False, **sections):
    engine = EngineConfig(
        device="cpu", precision=precision, grad_accum_steps=accumulation,
        checkpoint_activations=recompute,
    )  # fmt: skip
    optim = OptimConfig(global_batch_size=CLIPS * accumulation)
    return PlanConfig(model=ModelConfig(arch=arch), engine=engine, optim=optim, gpus=1, **sections)


@pytest.mark.parametrize(
    "config",
    [
        *({"arch": f"vit_{size}"} for size in ("small", "base", "large", "huge")),
        {"precision": "fp32"},
        {"recompute": True},
        {"accumulation": 2},
        {"hpm": HPMConfig(enabled=False)},
    ],
    ids=str,
)
def test_a_plans_memory_is_that_of_a_traced_step(traced, config):
    config = planned(**config)
    assert memory_of(config, 0).total == pytest.approx(traced_peak(config, CLIPS), rel=0.1)


@pytest.mark.parametrize("recompute", [False, True])
def test_so_is_that_of_fine_tuning(traced, recompute):
    engine = EngineConfig(device="cpu", precision="bf16", checkpoint_activations=recompute)
    config = FinetuneConfig(
        model=ClassifierConfig(arch="vit_base"), engine=engine,
        optim=OptimConfig(global_batch_size=CLIPS),
    )  # fmt: skip
    with torch.device("meta"):
        model = start_classifier(config.model, 174, recompute)
    memory = classifier_memory(model, engine, 0, 1, False, averaged=False)
    found = traced_classifier_peak(config, CLIPS, 174)
    assert memory.total_at(CLIPS) == pytest.approx(found, rel=0.1)


# --- runs ----------------------------------------------------------------------------------------


def recipe(root, name: str, *options: str) -> PretrainConfig:
    parser = parser_of("pretrain")
    file = root / "configs/pretrain" / f"{name}.yaml"
    parsed = vars(parser.instantiate(parser.parse_args(["--config", str(file), *options])))
    parsed.pop("config")
    return PretrainConfig(**parsed)


@pytest.mark.parametrize("card", [24e9, 80e9])
def test_the_readmes_first_command_fits_one_card(root, monkeypatch, capsys, card):
    PretendedGpus(monkeypatch, count=1, memory=card)
    config = recipe(root, "ssv2_base")
    fitted = fit.fit_pretraining(config)
    assert fitted.optim == config.optim
    steps = fitted.engine.grad_accum_steps
    assert steps > 1 and config.optim.global_batch_size % steps == 0
    text = capsys.readouterr().out
    clips, used = re.search(
        rf"grad_accum_steps: {steps}, of (\d+) clips.*about ([\d.]+) of", text
    ).groups()
    assert int(clips) * steps == config.optim.global_batch_size
    assert 0.3 * card < float(used) * 1e9 <= fit.USABLE * card  # nor are there too many


def test_a_recipe_too_large_for_its_cards_is_divided_further(root, monkeypatch):
    """117 GB on each of 8 GPUs of 80 GB, were it done at once."""
    PretendedGpus(monkeypatch, count=8, memory=80e9)
    monkeypatch.setenv("WORLD_SIZE", "8")
    monkeypatch.setattr(distributed, "world_size", lambda: 8)
    monkeypatch.setattr(collectives, "all_reduce_min", lambda count: count)
    config = recipe(root, "kinetics400_huge")
    assert fit.fit_pretraining(config).engine.grad_accum_steps > 1
    given = replace(config, engine=replace(config.engine, grad_accum_steps=1))
    with pytest.raises(UserError, match=r"engine\.grad_accum_steps: 1, .*GB.*give \d+, or auto"):
        fit.fit_pretraining(given)


def test_a_model_that_fits_no_card_names_what_saves_memory(monkeypatch):
    PretendedGpus(monkeypatch, count=1, memory=4e9)
    config = PretrainConfig(model=ModelConfig(arch="vit_huge"))
    with pytest.raises(UserError, match=r"model\.arch: 1 clips.*zero_stage 3.*videohpm plan"):
        fit.fit_pretraining(config)


def test_a_fine_tuning_run_is_divided_into_pairs_for_mixup(monkeypatch):
    PretendedGpus(monkeypatch, count=1, memory=8e9)
    config = FinetuneConfig(model=ClassifierConfig(arch="vit_base"))
    with torch.device("meta"):
        model = start_classifier(config.model, 174)
    steps = fit.fit_finetuning(config, model).engine.grad_accum_steps
    assert config.optim.global_batch_size // steps % 2 == 0 and steps > 1


def test_the_slowest_card_decides_for_all(monkeypatch):
    PretendedGpus(monkeypatch, count=1, memory=80e9)
    least = []
    monkeypatch.setattr(collectives, "all_reduce_min", lambda n: least.append(n) or min(n, 10))
    config = PretrainConfig(optim=OptimConfig(global_batch_size=640))
    assert fit.fit_pretraining(config).engine.grad_accum_steps == 64
    assert least[0] > 10


def test_a_run_on_a_small_machine_takes_more_steps_to_the_same_losses(
    shapes, tmp_path, monkeypatch, capsys
):
    """Half of its main memory holds about two of eight clips."""
    words = [
        "pretrain", "--data.root", str(shapes / "train"), "--data.workers", "0",
        "--data.stride", "2", "--model.arch", "vit_tiny", "--model.frames", "4",
        "--model.image_size", "32", "--model.patch", "8", "--model.dim", "24", "--model.depth",
        "1", "--model.heads", "2", "--model.decoder_dim", "16", "--model.decoder_depth", "1",
        "--model.decoder_heads", "2", "--optim.global_batch_size", "8", "--run.steps", "3",
        "--run.log_every", "1", "--engine.device", "cpu", "--engine.precision", "fp32",
        "--mask.ratio", "0.75", "--run.picture_every", "0", "--hpm.hard_ratio_end", "0",
    ]  # fmt: skip
    assert main([*words, "--run.dir", str(tmp_path / "large")]) == 0
    assert "grad_accum_steps" not in capsys.readouterr().out
    monkeypatch.setattr(fit, "device_memory", lambda device: int(3.4e6))
    assert main([*words, "--run.dir", str(tmp_path / "small")]) == 0
    steps = int(re.search(r"grad_accum_steps: (\d+), of", capsys.readouterr().out)[1])
    assert steps > 1
    losses = [
        [json.loads(line)["loss"] for line in (tmp_path / name / "metrics.jsonl").open()]
        for name in ("large", "small")
    ]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
