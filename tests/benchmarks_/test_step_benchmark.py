"""The benchmarks' own machinery, at toy size; no number of seconds is judged here."""

import json
import subprocess
import sys

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import flop_registry

from videohpm import hpm
from videohpm.checkpoint import save_weights
from videohpm.config import MaskConfig, ModelConfig, OptimConfig, PretrainConfig
from videohpm.engine import EngineConfig
from videohpm.hpm import LossTeacher
from videohpm.models import MaskedAutoencoder, VideoViT, vit_config
from videohpm.plan import PlanConfig, flops_of

RATIOS = (
    "hpm_over_plain", "published_over_plain", "plain_over_transformers", "plain_over_limit",
    "hpm_memory_over_plain",
)  # fmt: skip


@pytest.fixture(scope="module")
def tools(benchmarks_on_path):
    import arms
    import clock
    import step

    return {"arms": arms, "clock": clock, "step": step}


@pytest.fixture(scope="module")
def result(root, tmp_path_factory):
    """What a toy run of the benchmark wrote, and its chart."""
    place = tmp_path_factory.mktemp("benchmark")
    command = [sys.executable, root / "benchmarks/step.py", "--cases", "toy", "--rounds", "2",
               "--precision", "fp32", "--device", "cpu", "--threads", "1",
               "--json", place / "step.json", "--chart", place / "step.png"]  # fmt: skip
    said = subprocess.run(command, capture_output=True, text=True)
    assert said.returncode == 0, said.stderr
    assert "hpm_over_plain" in said.stdout
    return json.loads((place / "step.json").read_text()), place / "step.png"


def test_all_arms_and_ratios_are_there(result):
    said, chart = result
    (case,) = said["cases"]
    assert list(case["arms"]) == ["transformers", "plain", "hpm", "published"]
    assert all(said["ratios"][name] > 0 for name in RATIOS)
    assert case["rounds"] == len(case["load_average"]) == 2
    assert chart.read_bytes().startswith(b"\x89PNG")


def test_ratios_and_parts_belong_to_the_seconds(result):
    arms = result[0]["cases"][0]["arms"]
    pairs = zip(arms["hpm"]["all_seconds"], arms["plain"]["all_seconds"], strict=True)
    paired = sorted(a / b for a, b in pairs)
    assert result[0]["ratios"]["hpm_over_plain"] == pytest.approx(sum(paired) / 2)
    for name, arm in arms.items():
        assert arm["clips_per_second"] == pytest.approx(2 / arm["seconds"])
        assert (arm["parts"]["teacher"] > 0) == (name in ("hpm", "published"))
        assert sum(arm["parts"].values()) == pytest.approx(arm["seconds"], rel=0.5)


def test_the_arms_do_what_they_are_said_to(result):
    arms = result[0]["cases"][0]["arms"]
    names = ("transformers", "plain", "hpm", "published")
    flops = [arms[name]["flops"] for name in names]
    # transformers embeds every token, and its last decoder block works for all of them
    assert 1 < flops[0] / flops[1] < 1.25
    assert flops[1] < flops[2] < flops[3]
    count = {name: arms[name]["parameters"] for name in names}
    assert count["transformers"] == pytest.approx(count["plain"], rel=0.01)
    assert count["published"] > count["hpm"] > count["plain"]  # a predictor as deep as the decoder


def test_the_published_teacher_answers_as_ours_would_and_decodes_besides(tools):
    torch.manual_seed(0)
    student = MaskedAutoencoder.create("vit_tiny", image_size=64, predictor_unit="token")
    teacher = LossTeacher(student, None, "visible")
    theirs = tools["arms"].PixelTeacher(student, None, "visible")
    clips = torch.randn(1, 3, 16, 64, 64)
    torch.testing.assert_close(theirs(clips), teacher(clips), atol=1e-5, rtol=1e-5)
    count, tokens = tools["clock"].count_flops, student.grid.num_tokens
    context = torch.randn(1, tokens, student.mask_token.shape[-1])
    decoding = count(lambda: theirs.decoder(context, tokens))
    assert count(lambda: theirs(clips)) == count(lambda: teacher(clips)) + decoding > decoding > 0
    theirs.update(student, 0.5)  # its decoder follows too


@pytest.mark.parametrize(("backend", "backward"), [("FLASH_ATTENTION", 5), ("MATH", 4)])
def test_attention_is_counted_whichever_way_it_is_computed(tools, backend, backward):
    """Two products forward, and two for each of them backward; the fused ones do one again."""
    batch, heads, queries, keys, channels = 2, 3, 5, 7, 16
    q, k, v = (
        torch.randn(batch, heads, n, channels, requires_grad=True) for n in (queries, keys, keys)
    )
    product = 2 * batch * heads * queries * keys * channels
    count = tools["clock"].count_flops
    with sdpa_kernel(getattr(SDPBackend, backend)):
        attended = torch.nn.functional.scaled_dot_product_attention
        assert count(lambda: attended(q, k, v)) == 2 * product
        assert count(lambda: attended(q, k, v).sum().backward()) == (2 + backward) * product


def test_products_that_nothing_counts_are_said(tools, monkeypatch):
    clock = tools["clock"]
    x = torch.randn(4, 4, requires_grad=True)
    with pytest.raises(RuntimeError, match=r"cannot be counted: torch .* aten\.dot"):
        clock.count_flops(lambda: torch.dot(x[0], x[1]))
    foreign = torch.library.Library("videohpm_test", "FRAGMENT")
    foreign.define("attend(Tensor q) -> Tensor")
    foreign.impl("attend", lambda q: q @ q, "CompositeExplicitAutograd")
    with pytest.raises(RuntimeError, match=r"no formula for videohpm_test\.attend"):
        clock.count_flops(lambda: torch.ops.videohpm_test.attend(x.detach()))
    # As a release whose fused attention nobody has given a formula.
    name = "_scaled_dot_product_flash_attention_for_cpu"
    monkeypatch.setattr(clock, "CPU_ATTENTION", {})
    monkeypatch.delitem(flop_registry, getattr(torch.ops.aten, name), raising=False)
    q = torch.randn(1, 2, 8, 16)
    with pytest.raises(RuntimeError, match=rf"no formula for aten\.{name}"):
        clock.count_flops(lambda: torch.nn.functional.scaled_dot_product_attention(q, q, q))
    # All else goes on.
    assert clock.count_flops(lambda: x @ x) == 2 * 4**3
    assert clock.count_flops(lambda: (x + 1).softmax(0).sum().backward()) == 0


def test_products_are_told_by_their_names(tools):
    counted = [op for op in flop_registry if str(op).startswith("aten.")]
    others = [
        getattr(torch.ops.aten, name)
        for name in ("add", "gelu", "native_layer_norm", "_softmax", "upsample_bilinear2d", "sum")
    ]
    assert len(counted) > 10
    for operators, product in ((counted, True), (others, False)):
        for operator in operators:
            for name in operator.overloads():
                overload = getattr(operator, name)
                assert tools["clock"].may_multiply_matrices(overload) == product, overload


def test_the_fullest_moment_is_found(tools):
    numbers = torch.zeros(1000)

    def step():
        a = numbers + 1
        b = a + 1
        del a
        return (b + 1).sum()

    found = tools["clock"].peak_memory(step, [numbers, numbers.view(10, 100)], torch.device("cpu"))
    assert 12_000 <= found < 13_000  # the numbers themselves, and two of a, b and b + 1 at a time


def test_times_are_compared_within_their_round(tools):
    seconds = {"plain": [1.0, 10.0, 2.0], "hpm": [1.2, 13.0, 2.8]}  # the second round was disturbed
    facts = {name: {"flops": 100, "peak_memory": 1} for name in seconds}
    said = tools["step"].ratios(facts, seconds, rates=[200.0, 20.0, 100.0])
    assert said["hpm_over_plain"] == pytest.approx(1.3)
    assert said["plain_over_limit"] == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("section", "kind", "field", "values"),
    [
        ("model", ModelConfig, "frames", (8, 16, 32, 64)),
        ("model", ModelConfig, "image_size", (112, 160, 224, 320)),
        ("mask", MaskConfig, "ratio", (0.95, 0.9, 0.75, 0.6)),
    ],
)
def test_the_teacher_does_not_grow_faster_than_the_student(section, kind, field, values):
    shares = []
    for value in values:
        size = {"arch": "vit_small"} if kind is ModelConfig else {}
        config = PlanConfig(**{section: kind(**size, **{field: value})}, gpus=1)
        flops = flops_of(config)
        shares.append(flops["scorer"] / flops["student"])
    assert all(b < a * 1.001 for a, b in zip(shares, shares[1:], strict=False))


def test_the_relative_objective_never_holds_all_pairs(tools):
    scores = torch.randn(2, 5000, requires_grad=True)
    losses = torch.rand(2, 5000)
    all_pairs = 2 * 5000 * 5000 * 4
    found = tools["clock"].peak_memory(
        lambda: hpm.relative_loss(scores, losses).backward(), [], torch.device("cpu")
    )
    assert found < all_pairs / 2


def test_growth_measures_each_value(root):
    command = [sys.executable, root / "benchmarks/growth.py", "--sweeps", "frames", "--values",
               "2", "4", "--size", "vit_tiny", "--rounds", "1", "--device", "cpu"]  # fmt: skip
    said = subprocess.run(command, capture_output=True, text=True)
    assert said.returncode == 0, said.stderr
    rows = [line.split() for line in said.stdout.splitlines() if line.split()[:1] in (["2"], ["4"])]
    assert [int(row[1]) for row in rows] == [196, 392]


@pytest.mark.parametrize(
    "name",
    ["plain", "student", "motion", "attention", "decode", "weight"]
    + ["ema_encoder", "frozen_encoder", "predictor", "centered", "half", "raw"],
)
def test_the_plan_counts_what_an_arm_computes(tools, tmp_path, name):
    encoder = VideoViT(vit_config("vit_tiny", image_size=64, depth=2))
    save_weights(tmp_path / "encoder", encoder)
    config = PretrainConfig(
        model=ModelConfig(arch="vit_tiny", image_size=64),
        engine=EngineConfig(device="cpu", precision="fp32"),
        optim=OptimConfig(global_batch_size=2),
    )
    made = tools["arms"].make_arms(config, [name], "cpu", str(tmp_path / "encoder"))
    counted = tools["clock"].count_flops(made[name].step)
    assert sum(flops_of(made[name].config).values()) == pytest.approx(counted / 2, rel=0.01)
