"""Learning rates by layer, against the published implementation's own groups and schedule."""

import json

import pytest
import torch

from videohpm.config.optim import OptimConfig, cosine
from videohpm.models import MaskedAutoencoder, VideoClassifier
from videohpm.optim import adamw, parameter_groups, set_lr


@pytest.fixture(scope="module")
def meta(shared):
    return json.loads((shared / "reference/meta.json").read_text())


def classifier(**other):
    return VideoClassifier.create(
        classes=11, frames=16, image_size=64, dim=48, depth=2, heads=3, **other
    )


def by_name(model, groups) -> dict[str, tuple[float, float]]:
    """(learning rate scale, weight decay) of every parameter."""
    names = {id(p): name for name, p in model.named_parameters()}
    return {
        names[id(p)]: (group["lr_scale"], group["weight_decay"])
        for group in groups
        for p in group["params"]
    }


def test_groups_are_the_published_ones(meta):
    wanted = meta["videomae_finetune"]
    model = classifier()
    found = by_name(model, parameter_groups(model, wanted["weight_decay"], wanted["layer_decay"]))
    theirs = {}
    for name, value in found.items():
        name = name.removeprefix("encoder.")
        # Our one bias of query, key and value stands for their q_bias and v_bias.
        parts = ("q_bias", "v_bias") if name.endswith("qkv.bias") else ("qkv.bias",)
        for part in parts:
            theirs[name.replace("qkv.bias", part)] = list(value)
    assert theirs == wanted["groups"]


def test_every_parameter_is_in_one_group_and_none_is_empty():
    for layer_decay in (1.0, 0.6):
        model = classifier(pool="attentive", position="learned")
        groups = parameter_groups(model, 0.05, layer_decay)
        assert len(by_name(model, groups)) == len(list(model.parameters()))
        assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))
        assert all(group["params"] for group in groups)
    found = by_name(model, groups)
    assert found["encoder.positions"] == (0.6**3, 0.0)
    assert found["attentive.query"] == (1.0, 0.0)


def test_frozen_parameters_are_left_out():
    model = classifier()
    model.freeze_encoder()
    found = by_name(model, parameter_groups(model, 0.05, 0.75))
    assert set(found) == {"fc_norm.weight", "fc_norm.bias", "head.weight", "head.bias"}


def test_a_decoder_has_the_full_rate():
    model = MaskedAutoencoder.create(
        frames=4, image_size=32, dim=24, depth=3, heads=2,
        decoder_dim=24, decoder_depth=5, decoder_heads=2,
    )  # fmt: skip
    found = by_name(model, parameter_groups(model, 0.05, 0.5))
    assert found["encoder.blocks.0.mlp.fc1.weight"] == (0.125, 0.05)
    assert found["decoder.blocks.4.mlp.fc1.weight"] == found["mask_token"][:1] + (0.05,)
    assert found["decoder.blocks.0.norm1.weight"] == (1.0, 0.0)


def test_tokens_are_decayed_where_asked():
    """As MAE and HPM pre-train; biases and norms never are."""
    model = MaskedAutoencoder.create(
        frames=1, tubelet=1, image_size=32, dim=24, depth=1, heads=2, class_token=True,
        decoder_dim=24, decoder_depth=1, decoder_heads=2, projection_bias=True,
    )  # fmt: skip
    found = by_name(model, parameter_groups(model, 0.05, no_weight_decay=()))
    assert found["encoder.cls_token"] == found["mask_token"] == (1.0, 0.05)
    assert {decay for name, (_, decay) in found.items() if name.endswith("bias")} == {0.0}
    one = by_name(model, parameter_groups(model, 0.05, no_weight_decay=("cls_token",)))
    assert (one["encoder.cls_token"][1], one["mask_token"][1]) == (0.0, 0.05)
    assert by_name(model, parameter_groups(model, 0.05))["mask_token"] == (1.0, 0.0)
    with pytest.raises(ValueError, match="optim.no_weight_decay: 'norm' is not one of cls_token"):
        OptimConfig(no_weight_decay=("norm",))


def test_the_engine_decays_what_the_config_says():
    from videohpm.engine import EngineConfig, make_engine

    for names, decay in (((), 0.05), (("mask_token",), 0.0)):
        model = MaskedAutoencoder.create(
            frames=4, image_size=32, dim=24, depth=1, heads=2,
            decoder_dim=24, decoder_depth=1, decoder_heads=2,
        )  # fmt: skip
        optim = OptimConfig(no_weight_decay=names)
        engine = make_engine(model, EngineConfig(device="cpu", precision="fp32"), optim)
        assert by_name(model, engine.optimizer.param_groups)["mask_token"][1] == decay


def test_warm_up_reaches_its_peak_at_its_last_step_or_after_it():
    def rates(**options):
        config = OptimConfig(
            base_lr=1.0, min_lr=0.0, global_batch_size=256, warmup_epochs=2, **options
        )
        return [config.lr_at(step, 8, 2) for step in range(6)]

    assert rates() == pytest.approx([0, 1 / 3, 2 / 3, 1, 1, 0.5 * (1 + 2**-0.5)])
    assert rates(warmup_peak="after") == pytest.approx([0, 0.25, 0.5, 0.75, 1, 0.5 * (1 + 2**-0.5)])
    assert rates(warmup_peak="after", warmup_steps=1)[:2] == [0, 1]
    with pytest.raises(ValueError, match="optim.warmup_peak: 'never' is not one of last, after"):
        OptimConfig(warmup_peak="never")


def test_without_layer_decay_there_are_two_groups_of_one_rate():
    groups = parameter_groups(classifier(), 0.05)
    assert [(g["lr_scale"], g["weight_decay"]) for g in groups] == [(1.0, 0.05), (1.0, 0.0)]


def test_the_optimiser_moves_each_layer_at_its_own_rate():
    model, config = classifier(), OptimConfig(layer_decay=0.5, weight_decay=0.0)
    optimizer = adamw(parameter_groups(model, 0.0, 0.5), config)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    set_lr(optimizer, 0.01)
    optimizer.step()  # AdamW's first step is the learning rate, whatever the gradient's size
    moved = {
        name: (before[name] - p.detach()).abs().max().item() for name, p in model.named_parameters()
    }
    assert moved["head.bias"] == pytest.approx(0.01, rel=1e-3)
    assert moved["encoder.blocks.1.norm1.bias"] == pytest.approx(0.005, rel=1e-3)
    assert moved["encoder.blocks.0.norm1.bias"] == pytest.approx(0.0025, rel=1e-3)
    assert moved["encoder.patch_embed.proj.bias"] == pytest.approx(0.00125, rel=1e-3)


def test_the_schedule_is_the_published_one(meta):
    wanted = meta["cosine_schedule"]
    steps = wanted["epochs"] * wanted["steps_per_epoch"]
    warmup = wanted["warmup_epochs"] * wanted["steps_per_epoch"]
    found = [cosine(i, steps, warmup, wanted["base"], wanted["final"]) for i in range(steps)]
    assert found == pytest.approx(wanted["values"], rel=1e-6)


@pytest.mark.parametrize("value", [0.0, 1.5, -1.0])
def test_an_impossible_decay_is_refused(value):
    with pytest.raises(ValueError, match="optim.layer_decay"):
        OptimConfig(layer_decay=value)
