"""What makes steps fast changes nothing that they compute, and makes nothing wait."""

import copy
import resource
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from videohpm import hpm
from videohpm.cli import main
from videohpm.config import HPMConfig, MaskConfig, ModelConfig, OptimConfig, PretrainConfig
from videohpm.data import Batch
from videohpm.engine import EngineConfig, make_engine
from videohpm.engine.compile import compile_blocks
from videohpm.grid import TokenGrid
from videohpm.hpm import LossTeacher
from videohpm.models import MaskedAutoencoder, VideoClassifier, VideoViT, ViTConfig
from videohpm.models.vit import Block, DropPath, run_blocks
from videohpm.pretrain import train_step

MICRO = {
    "arch": "vit_tiny", "frames": 8, "image_size": 32, "patch": 8, "dim": 32, "depth": 2,
    "heads": 2, "decoder_dim": 16, "decoder_depth": 2, "decoder_heads": 2,
}  # fmt: skip


def close(got, expected):
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


def test_embedding_the_visible_is_embedding_all_by_convolution_and_dropping_the_rest():
    torch.manual_seed(0)
    encoder = VideoViT(
        ViTConfig(frames=8, image_size=32, patch=8, tubelet=2, dim=24, depth=0, heads=2)
    )
    convolution = nn.Conv3d(3, 24, (2, 8, 8), (2, 8, 8))
    embedding = encoder.patch_embed.proj
    convolution.weight.data = embedding.weight.data.view(24, 3, 2, 8, 8)
    convolution.bias.data = embedding.bias.data
    clips = torch.randn(3, 3, 8, 32, 32)
    mask = hpm.random_mask(encoder.grid, 0.75, hpm.random_shuffle_ids(3, 16))
    everything = convolution(clips).flatten(2).transpose(1, 2) + encoder.positions
    literal = encoder.norm(everything[~mask.is_masked].view(3, -1, 24))
    close(encoder(clips, mask.visible), literal)


@pytest.mark.parametrize("target", ["raw", "per_channel", "joint"])
def test_targets_of_the_masked_are_targets_of_all_that_are_masked(target):
    grid, std = TokenGrid(4, 4, 4, patch=8), (0.2, 0.3, 0.4)
    clips = torch.randn(2, 3, 8, 32, 32)
    clips[:, :, :2, :8, :8] = 0.1  # flat: where the deviation's epsilon counts
    mask = hpm.random_mask(grid, 0.75, hpm.random_shuffle_ids(2, 16))
    pixels = grid.patchify(clips).unflatten(-1, (-1, 3))
    if target == "per_channel":
        pixels = pixels * torch.tensor(std)
        pixels = (pixels - pixels.mean(2, keepdim=True)) / (pixels.std(2, keepdim=True) + 1e-6)
    elif target == "joint":
        variance, average = torch.var_mean(pixels, dim=(2, 3), keepdim=True)
        pixels = (pixels - average) / (variance + 1e-6).sqrt()
    literal = pixels.flatten(2)[mask.is_masked].view(2, -1, grid.patch_dim)
    close(hpm.pixel_targets(clips, mask, grid, target, std), literal)


def test_the_lean_loss_has_the_gradient_of_the_plain_one():
    grid = TokenGrid(2, 2, 2, patch=4)
    clips = torch.randn(3, 3, 4, 8, 8)
    mask = hpm.random_mask(grid, 0.75, hpm.random_shuffle_ids(3, 4))
    predicted = torch.randn(3, 6, grid.patch_dim, requires_grad=True)
    weights = torch.rand(3, 6)
    (hpm.reconstruction_loss(predicted, clips, mask, grid) * weights).sum().backward()
    plain = predicted.detach().clone().requires_grad_()
    off = plain - hpm.pixel_targets(clips, mask, grid)
    ((off**2).mean(-1) * weights).sum().backward()
    close(predicted.grad, plain.grad)


@pytest.mark.parametrize("recompute", [False, True])
def test_a_last_block_that_ends_with_what_is_read_is_a_whole_one_cut(recompute):
    torch.manual_seed(0)
    blocks = nn.ModuleList(Block(16, 2) for _ in range(2))
    whole = copy.deepcopy(blocks)
    x = torch.randn(2, 9, 16, requires_grad=True)
    y = x.detach().clone().requires_grad_()
    got, expected = run_blocks(blocks, x, recompute, num_queries=4), y
    for block in whole:
        expected = block(expected)
    close(got, expected[:, 5:])
    got.square().sum().backward()
    expected[:, 5:].square().sum().backward()
    close(x.grad, y.grad)
    for mine, theirs in zip(blocks.parameters(), whole.parameters(), strict=True):
        close(mine.grad, theirs.grad)


def test_fused_attention_is_softmax_of_scaled_products():
    torch.manual_seed(0)
    attention = Block(16, 2).attn
    x = torch.randn(2, 7, 16)
    q, k, v = attention.qkv(x).chunk(3, -1)
    heads = []
    for number in range(2):
        part = slice(8 * number, 8 * number + 8)
        weights = (q[..., part] @ k[..., part].transpose(1, 2) / 8**0.5).softmax(-1)
        heads.append(weights @ v[..., part])
    close(attention(x), attention.proj(torch.cat(heads, -1)))


def test_the_teachers_foreach_update_is_one_parameter_after_another():
    torch.manual_seed(0)
    student = MaskedAutoencoder.create(**MICRO)
    teacher = LossTeacher(student)
    before = copy.deepcopy(dict(teacher.model.named_parameters()))
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(torch.randn_like(parameter))
    teacher.update(student, 0.9)
    theirs = dict(student.named_parameters())
    for name, parameter in teacher.model.named_parameters():
        close(parameter, 0.9 * before[name] + 0.1 * theirs[name])


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 9), st.floats(0.05, 0.99), st.integers(0, 2**31))
def test_of_each_tube_the_same_share_is_decoded(t, share, seed):
    grid = TokenGrid(t, 3, 4)
    shuffle_ids = hpm.random_shuffle_ids(2, 12, torch.Generator().manual_seed(seed))
    mask = hpm.random_mask(grid, 0.75, shuffle_ids)
    part = hpm.subsample_decoded(mask, grid, share, shuffle_ids)
    steps = max(1, round(share * t))
    for sample in range(2):
        chosen = part.decoded[sample].tolist()
        assert len(set(chosen)) == len(chosen) == steps * 9
        assert set(chosen) <= set(mask.masked[sample].tolist())
        for tube in mask.tubes[sample].tolist():
            seen = sorted(n // 12 for n in chosen if n % 12 == tube)
            gaps = [b - a for a, b in zip(seen, [*seen[1:], seen[0] + t], strict=True)]
            assert len(seen) == steps
            assert max(gaps) - min(gaps) <= 1  # evenly spread


@pytest.mark.parametrize("unit", ["tube", "token"])
def test_a_part_is_scored_as_it_would_be_within_the_whole(unit):
    torch.manual_seed(0)
    grid = TokenGrid(4, 4, 4, patch=8)
    shuffle_ids = hpm.random_shuffle_ids(2, hpm.unit_count(grid, unit))
    mask = hpm.random_mask(grid, 0.75, shuffle_ids, unit)
    part = hpm.subsample_decoded(mask, grid, 0.5, shuffle_ids)
    clips = torch.randn(2, 3, 8, 32, 32)
    whole = torch.zeros(2, grid.num_tokens, grid.patch_dim)
    index = mask.masked[:, :, None].expand(-1, -1, grid.patch_dim)
    whole.scatter_(1, index, hpm.pixel_targets(clips, mask, grid))
    index = part.decoded[:, :, None].expand(-1, -1, grid.patch_dim)
    close(hpm.pixel_targets(clips, part, grid), whole.gather(1, index))
    assert hpm.subsample_decoded(mask, grid, 1.0, shuffle_ids) is mask
    if unit == "tube":
        losses = torch.rand(2, part.decoded.shape[1])
        per_tube = hpm.loss_per_tube(losses, part)
        for number, tube in enumerate(part.tubes[0].tolist()):
            mean = losses[0][part.decoded[0] % grid.num_tubes == tube].mean()
            close(per_tube[0, number], mean)


@pytest.mark.parametrize(
    "sections",
    [
        {"mask": MaskConfig(ratio=0.75, decode_ratio=0.5)},
        {
            "mask": MaskConfig(ratio=0.75, decode_ratio=0.5),
            "hpm": HPMConfig(predictor_unit="token"),
        },
        {
            "mask": MaskConfig(ratio=0.75, decode_ratio=0.5, unit="token"),
            "hpm": HPMConfig(predictor_unit="token", teacher_samples_per_tube=0),
        },
    ],
)
def test_steps_on_a_part_learn(sections):
    config, engine, teacher, target, batch = a_step(**sections)
    options = {"hard_ratio": 0.5, "momentum": 0.9, "lr": 3e-3}
    losses = [
        float(train_step(engine, teacher, target, [batch], config, **options)["loss"])
        for _ in range(30)
    ]
    assert losses[-1] < 0.9 * losses[0]


def test_an_image_has_no_part_of_a_tube(capsys):
    image = ["--model.frames", "1", "--model.tubelet", "1", "--mask.decode_ratio", "0.5"]
    assert main(["plan", *image]) == 2
    assert "mask.decode_ratio" in capsys.readouterr().err


def a_step(device="cpu", **sections):
    """A configuration, its engine, teacher and target, and a batch of two clips."""
    torch.manual_seed(0)
    said = {
        "model": ModelConfig(**MICRO, target="raw"),
        "mask": MaskConfig(ratio=0.75),
        "optim": OptimConfig(global_batch_size=2),
        "engine": EngineConfig(device=device, precision="fp32"),
    }
    config = PretrainConfig(**said | sections)
    model = MaskedAutoencoder(config.model_config(), config.engine.checkpoint_activations)
    steps, read = config.teacher_samples, config.hpm.score_readout
    teacher = LossTeacher(model, steps, read)
    engine = make_engine(model, config.engine, config.optim)
    engine.attach_ema(teacher)
    units = hpm.unit_count(model.grid, config.mask.unit)
    nothing = torch.zeros(2, dtype=torch.long)
    smooth = functional.interpolate(torch.rand(2, 3, 2, 4, 4), (8, 32, 32)) * 255
    batch = Batch(smooth.byte(), hpm.random_shuffle_ids(2, units), nothing, nothing, [])
    target = hpm.TARGETS[config.model.target](model.grid, config)
    return config, engine, teacher, target, batch


@pytest.mark.slow
def test_compiled_blocks_compute_the_same_under_the_same_names():
    torch.manual_seed(0)
    plain = VideoViT(
        ViTConfig(frames=4, image_size=16, patch=8, tubelet=2, dim=16, depth=2, heads=2)
    )
    compiled = copy.deepcopy(plain)
    compile_blocks(compiled)
    assert compiled.state_dict().keys() == plain.state_dict().keys()
    clips = torch.randn(2, 3, 4, 16, 16)
    said = [encoder(clips) for encoder in (plain, compiled)]
    close(*said)
    for out in said:
        out.square().mean().backward()
    for mine, theirs in zip(compiled.parameters(), plain.parameters(), strict=True):
        close(mine.grad, theirs.grad)


@pytest.fixture
def graphs(monkeypatch):
    """graphs(): how many torch.compile has made since; they are run as they were traced."""
    compile_module = nn.Module.compile
    monkeypatch.setattr(
        nn.Module,
        "compile",
        lambda self, **options: compile_module(self, backend="eager", **options),
    )
    torch._dynamo.reset()
    before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    yield lambda: torch._dynamo.utils.counters["stats"]["unique_graphs"] - before
    torch._dynamo.reset()


@pytest.mark.parametrize("drop_path", [0.0, 0.3])
def test_the_blocks_of_a_classifier_are_one_graph_whatever_their_drop_path(graphs, drop_path):
    model = VideoClassifier.create(
        "vit_tiny", classes=3, frames=4, image_size=16, patch=8, dim=16, depth=10, heads=2,
        drop_path=drop_path,
    )  # fmt: skip
    compile_blocks(model)
    for _ in range(2):
        model(torch.randn(2, 3, 4, 16, 16)).square().mean().backward()
    assert graphs() == 1
    with torch.no_grad():
        model.eval()(torch.randn(2, 3, 4, 16, 16))
    assert graphs() == 2  # and one for validation


def test_drop_path_keeps_a_sample_whole_or_not_at_all_and_its_mean():
    torch.manual_seed(0)
    drop = DropPath(0.3)
    x = torch.rand(4000, 2, 3) + 1
    out = drop(x)
    kept = out[:, 0, 0] != 0
    close(out[kept], x[kept] / 0.7)
    assert not out[~kept].any()
    assert kept.float().mean() == pytest.approx(0.7, abs=0.03)
    assert torch.equal(DropPath(0.0)(x), x) and torch.equal(drop.eval()(x), x)
    assert drop.train()(x.bfloat16()).dtype == torch.bfloat16
    assert not drop.state_dict()  # weights of before load


def test_compiling_does_not_go_with_divided_weights():
    with pytest.raises(ValueError, match="engine.compile"):
        EngineConfig(compile=True, zero_stage=3)


@pytest.mark.skipif(sys.platform != "linux", reason="counts page faults as Linux does")
def test_freed_memory_is_kept_for_the_next_step():
    """In a process of its own: what this one does with its memory is nobody's business here."""
    code = """
import resource, torch
from videohpm.engine.compile import keep_freed_memory
kept = keep_freed_memory()
faults = []
for _ in range(10):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(64 << 20, dtype=torch.uint8)
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(kept, min(faults[-4:]))
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    kept, faults = said.stdout.split()
    if kept == "False":
        pytest.skip("the C library is not glibc")
    assert int(faults) < 64 * 2**20 / resource.getpagesize() / 10


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("decode_ratio", [1.0, 0.5])
def test_nothing_in_a_step_waits_for_the_gpu(decode_ratio):
    config, engine, teacher, target, batch = a_step(
        "cuda", mask=MaskConfig(ratio=0.75, decode_ratio=decode_ratio)
    )
    batch = batch._replace(
        clips=batch.clips.pin_memory(), shuffle_ids=batch.shuffle_ids.pin_memory()
    )
    options = {"hard_ratio": 0.5, "momentum": 0.9, "lr": 1e-3}
    train_step(engine, teacher, target, [batch], config, **options)  # first times may wait
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        train_step(engine, teacher, target, [batch], config, **options)
    finally:
        torch.cuda.set_sync_debug_mode("default")
