"""The plan beside what is really there: parameters, FLOPs counted by torch, bytes on two ranks."""

import json
import re
from dataclasses import asdict, replace

import held
import pytest
import torch
from several import Starter
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from videohpm import hpm
from videohpm.checkpoint import save_weights
from videohpm.cli import main
from videohpm.config import HPMConfig, MaskConfig, ModelConfig, OptimConfig
from videohpm.data import Batch
from videohpm.engine import EngineConfig, make_engine
from videohpm.interop.frozen import encoders_of
from videohpm.models import MaskedAutoencoder, VideoViT, vit_config
from videohpm.plan import STAGES, PlanConfig, flops_of, memory_of, parameters_of, plan, traffic_of
from videohpm.plan.count import target_of
from videohpm.pretrain import train_step

CLIPS = 2
VIDEO = {"arch": "vit_tiny", "frames": 8, "image_size": 64, "patch": 16}
IMAGE = VIDEO | {"frames": 1, "tubelet": 1, "class_token": True, "position": "sincos_2d"}
CASES = {
    "default": {},
    "plain": {"hpm": HPMConfig(enabled=False)},
    "losses predicted, masks random": {"mask": MaskConfig(scorer="none")},
    "published": {
        "hpm": HPMConfig(
            predictor_unit="token",
            predictor_depth=None,
            teacher_samples_per_tube=0,
            score_readout="visible",
        )  # fmt: skip
    },
    "tokens": {
        "hpm": HPMConfig(predictor_unit="token", teacher_samples_per_tube=0),
        "mask": MaskConfig(ratio=0.6, unit="token"),
    },
    "the student scores": {"mask": MaskConfig(scorer="student")},
    "attention scores": {"mask": MaskConfig(scorer="attention"), "hpm": HPMConfig(enabled=False)},
    "tubes decoded by score": {
        "mask": MaskConfig(scorer="attention", use="decode", decode_ratio=0.5),
        "hpm": HPMConfig(teacher_samples_per_tube=2),
    },
    "features of the teacher": {"model": ModelConfig(**VIDEO | {"target": "ema_encoder"})},
    "shallow": {"hpm": HPMConfig(predictor_depth=1, teacher_samples_per_tube=2)},
    "half decoded": {"mask": MaskConfig(decode_ratio=0.5)},
    "image": {"model": ModelConfig(**IMAGE), "mask": MaskConfig(ratio=0.75)},
    "recomputed": {"engine": EngineConfig(device="cpu", checkpoint_activations=True)},
}


def a_plan(**sections) -> PlanConfig:
    said = {
        "model": ModelConfig(**VIDEO),
        "engine": EngineConfig(device="cpu", precision="fp32"),
        "optim": OptimConfig(global_batch_size=CLIPS),
        "gpus": 1,
    }
    return PlanConfig(**said | sections)


@pytest.fixture(scope="module", params=CASES)
def real(request):
    """A configuration, the engine and teacher it makes, and a batch."""
    config = a_plan(**CASES[request.param])
    dim = target_of(config).dim
    model = MaskedAutoencoder(config.model_config(dim), config.engine.checkpoint_activations)
    teacher = hpm.SCORERS[config.scorer](model, config)
    grid = config.model.grid()
    size = (CLIPS, 3, grid.frames, grid.height, grid.width)
    units = hpm.unit_count(grid, config.mask.unit)
    nothing = torch.zeros(CLIPS, dtype=torch.long)
    batch = Batch(
        torch.randint(256, size, dtype=torch.uint8), hpm.random_shuffle_ids(CLIPS, units),
        nothing, nothing, [],
    )  # fmt: skip
    return config, make_engine(model, config.engine, config.optim), teacher, batch


def test_parameters_are_those_of_the_model_and_its_teacher(real):
    config, engine, teacher, _ = real
    is_copy = isinstance(teacher, hpm.LossTeacher)
    theirs = sum(p.numel() for p in teacher.parameters()) if is_copy else 0
    assert parameters_of(config)[:2] == (sum(p.numel() for p in engine.model.parameters()), theirs)


def test_flops_are_those_that_torch_counts(real, root, monkeypatch):
    monkeypatch.syspath_prepend(root / "benchmarks")
    from clock import count_flops

    config, engine, teacher, batch = real
    encoders = encoders_of(lambda: teacher)
    target = hpm.TARGETS[config.model.target](config.model.grid(), config, encoders)
    options = {"hard_ratio": 0.5, "momentum": 0.9, "lr": 1e-4}
    counted = count_flops(lambda: train_step(engine, teacher, target, [batch], config, **options))
    assert sum(flops_of(config).values()) == pytest.approx(counted / CLIPS, rel=0.01)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("recompute", [False, True])
def test_memory_is_what_a_step_takes_at_its_fullest(precision, recompute, root, monkeypatch):
    monkeypatch.syspath_prepend(root / "benchmarks")
    from arms import Ours
    from clock import peak_memory

    config = a_plan(
        model=ModelConfig(**VIDEO | {"frames": 16, "image_size": 112, "depth": 4}),
        engine=EngineConfig(device="cpu", precision=precision, checkpoint_activations=recompute),
        optim=OptimConfig(global_batch_size=8),
    )
    arm = Ours(config, "wall")
    arm.step()
    found = peak_memory(arm.step, arm.held(), torch.device("cpu"))
    assert 0.95 * found < memory_of(config, 0).total < 1.15 * found


@pytest.fixture(scope="module")
def measured(tmp_path_factory) -> dict[int, dict[str, int]]:
    """Stage → bytes by kind, the mean of two ranks."""
    place = tmp_path_factory.mktemp("held")
    found = {}
    with Starter() as starter:
        for stage in STAGES:
            out = place / str(stage)
            out.mkdir()
            job = starter.start(2, "held:measure", stage, str(out), logs=out / "logs")
            assert job.wait() == [0, 0], job.said()
            ranks = [json.loads((out / f"rank{rank}.json").read_text()) for rank in range(2)]
            found[stage] = {kind: sum(rank[kind] for rank in ranks) / 2 for kind in ranks[0]}
    return found


@pytest.mark.parametrize("stage", STAGES)
def test_bytes_are_those_of_two_ranks(stage, measured):
    config = held.config_of(stage)
    sections = {name: getattr(config, name) for name in asdict(config)}
    planned = memory_of(PlanConfig(**sections, gpus=2), stage)
    for kind, found in measured[stage].items():
        assert getattr(planned, kind) == pytest.approx(found, rel=0.15), kind


def test_deepspeeds_own_estimates_are_ours():
    """They count 16-bit weights and gradients beside 32-bit ones, where we have one kind."""
    from deepspeed.runtime.zero.stage3 import estimate_zero3_model_states_mem_needs
    from deepspeed.runtime.zero.stage_1_and_2 import estimate_zero2_model_states_mem_needs

    config = replace(a_plan(), gpus=8, optim=OptimConfig(global_batch_size=8))
    student, _, largest = parameters_of(config)
    second, third = memory_of(config, 2), memory_of(config, 3)
    theirs = estimate_zero2_model_states_mem_needs(student, 8, 1, cpu_offload=False)[1]
    states = second.weights + second.gradients + second.optimiser
    # Theirs: 2 bytes a parameter whole and 18 divided. Ours: 4 whole and 16 divided.
    assert states == pytest.approx(theirs + 2 * student - 2 * student / 8, rel=0.01)
    theirs = estimate_zero3_model_states_mem_needs(student, largest, 8, 1, False, False)[1]
    states = third.weights + third.gradients + third.optimiser
    assert states == pytest.approx((theirs - 4 * largest) * 20 / 18, rel=0.01)


def test_higher_stages_hold_less_and_send_no_less():
    config = replace(a_plan(), gpus=8, optim=OptimConfig(global_batch_size=8))
    states = [memory_of(config, stage) for stage in STAGES]
    held_ = [m.weights + m.gradients + m.optimiser + m.teacher for m in states]
    assert held_[0] > held_[1] >= held_[2] > held_[3]
    assert traffic_of(config, 3) > traffic_of(config, 2)
    assert traffic_of(replace(config, gpus=1), 0) == 0


def test_a_plan_says_what_does_not_fit_and_what_would(capsys):
    arguments = ["plan", "--model.arch", "vit_huge", "--gpu", "rtx4090", "--gpus", "8"]
    many = ["--optim.global_batch_size", "1024"]
    assert main([*arguments, *many, "--engine.grad_accum_steps", "1"]) == 0
    said = capsys.readouterr().out
    assert "DOES NOT FIT" in said and "--engine.grad_accum_steps" in said
    for fitting in ([*many, "--engine.grad_accum_steps", "16"], many):  # auto
        assert main([*arguments, *fitting]) == 0
        text = capsys.readouterr().out
        assert "ZeRO-1 <-" in text and "do not fit" not in text
    assert "16 times (engine.grad_accum_steps auto)" in text


def test_a_whole_run_takes_time_and_energy_in_proportion(capsys):
    def whole(samples):
        run = replace(a_plan().run, epochs=10.0)
        text = plan(a_plan(run=run, samples=samples, optim=OptimConfig(global_batch_size=8)))
        (line,) = (line for line in text.splitlines() if line.startswith("whole run"))
        words = line.split()
        return int(words[2]), float(words[4]), float(words[-2])

    steps, hours, energy = whole(8000)
    more_steps, more_hours, more_energy = whole(16000)
    assert (steps, more_steps) == (10000, 20000)
    assert more_hours == pytest.approx(2 * hours, rel=0.02)
    assert energy == pytest.approx(hours * 0.7 * 1.4, rel=0.02)
    assert more_energy == pytest.approx(2 * energy, rel=0.02)


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        (["--gpu", "abacus"], "gpu"),
        (["--gpus", "0"], "gpus"),
        (["--gpus", "3", "--optim.global_batch_size", "8"], "optim.global_batch_size"),
        (["--zero", "4"], "zero"),
        (["--utilisation", "2"], "utilisation"),
        (["--samples", "0"], "samples"),
    ],
)
def test_a_wrong_plan_is_one_line_that_names_the_field(arguments, field, capsys):
    assert main(["plan", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert field in line


def test_a_plan_says_what_the_data_must_give(capsys):
    arguments = [
        "plan",
        "--gpus",
        "8",
        "--clips_per_core",
        "20",
        "--optim.global_batch_size",
        "256",
    ]
    assert main(arguments) == 0
    text = capsys.readouterr().out
    pace = float(re.search(r"pace +(\d+) to", text)[1])
    wanted, each, cores = map(
        int,
        re.search(
            r"data +(\d+) clips/s wanted, (\d+) for each GPU: (\d+) cores of 20 clips/s", text
        ).groups(),
    )
    assert wanted == pace
    assert each == pytest.approx(wanted / 8, abs=1)
    assert cores == pytest.approx(wanted / 20, abs=1)


def test_a_frozen_encoder_is_counted_without_being_loaded(tmp_path):
    """Its FLOPs over the whole clip, its weights on every GPU, and the narrower decoder head."""
    encoder = VideoViT(vit_config("vit_tiny", frames=8, image_size=64, dim=48, depth=2, heads=2))
    save_weights(tmp_path / "encoder", encoder)
    model = VIDEO | {"target": "frozen_encoder", "target_encoder": str(tmp_path / "encoder")}
    pixels, features = a_plan(), a_plan(model=ModelConfig(**model))
    plainly = sdpa_kernel(SDPBackend.MATH)  # the counter knows not all kernels of a CPU
    with plainly, FlopCounterMode(display=False) as counted, torch.no_grad():
        encoder(torch.zeros(1, 3, 8, 64, 64))
    assert flops_of(features)["target"] == counted.get_total_flops()
    assert flops_of(pixels)["target"] == 0
    assert flops_of(features)["student"] < flops_of(pixels)["student"]
    weights = sum(p.numel() for p in encoder.parameters())
    for stage in STAGES:
        more = memory_of(features, stage).teacher - memory_of(pixels, stage).teacher
        assert more == 4 * weights
    assert "G of the target" in plan(features) and "G of the target" not in plan(pixels)


def test_a_part_of_the_tubes_costs_less_and_scores_without_a_network_nothing():
    plain = a_plan(hpm=HPMConfig(enabled=False))
    for scorer in ("change", "motion", "noise"):
        scored = a_plan(hpm=HPMConfig(enabled=False), mask=MaskConfig(scorer=scorer))
        assert flops_of(scored) == flops_of(plain)
    half = MaskConfig(scorer="change", use="decode", decode_ratio=0.5)
    half = a_plan(hpm=HPMConfig(enabled=False), mask=half)
    assert flops_of(half)["student"] < 0.85 * flops_of(plain)["student"]
