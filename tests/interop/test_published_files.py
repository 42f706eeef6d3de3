"""Files as others save them: prefixes, entries, odd tables; mae_st against a literal version."""

import argparse

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from videohpm.errors import UserError
from videohpm.interop.rules import write_by
from videohpm.interop.timm import encoder_tensors
from videohpm.interop.videomae import rules_for

GIVEN = {"frames": 4, "image_size": 32, "heads": 3}


def their_names(micro, model, kind):
    from videohpm.interop import ConversionReport

    return write_by(rules_for(kind), model.state_dict(), model.grid, ConversionReport(""))


@pytest.mark.parametrize("prefix", [
    "module.", "_orig_mod.", "module._orig_mod.", "encoder.", "backbone.", "_orig_mod.encoder.",
    "encoder._orig_mod.",
])  # fmt: skip
@pytest.mark.parametrize("entry", ["model", "module", "state_dict", None])
def test_prefixes_and_entries(micro, tmp_path, prefix, entry):
    model = micro.make("VideoClassifier")
    names = their_names(micro, model, "VideoClassifier")
    bare = prefix.endswith(("encoder.", "backbone."))
    tree = {n if bare and n.startswith("head.") else f"{prefix}{n}": t for n, t in names.items()}
    args = argparse.Namespace(model="vit_base_patch16_224", input_size=32, num_frames=4)
    file = tmp_path / "a.pth"
    best = np.float64(71.25)
    torch.save({entry: tree, "args": args, "epoch": 3, "best": best} if entry else tree, file)
    given = GIVEN if entry is None else {"heads": 3}  # the arguments say the rest
    weights, report = micro.read(file, **given)
    assert report.layout == "VideoMAE fine-tuning" and weights.kind == "VideoClassifier"
    assert any("taken off the names" in note for note in report.notes)
    assert all(torch.equal(t, weights.tensors[n]) for n, t in model.state_dict().items())


def test_heads_are_inferred_or_asked_for(micro, tmp_path):
    names = their_names(micro, micro.make("VideoViT"), "VideoViT")
    torch.save(names, tmp_path / "a.pth")
    with pytest.raises(UserError, match="give --heads"):
        micro.read(tmp_path / "a.pth", frames=4, image_size=32)
    with pytest.raises(UserError, match="heads: 5 does not divide"):
        micro.read(tmp_path / "a.pth", frames=4, image_size=32, heads=5)
    wide = micro.make("VideoViT", dim=128, heads=2)
    torch.save(their_names(micro, wide, "VideoViT"), tmp_path / "b.pth")
    weights, report = micro.read(tmp_path / "b.pth")
    assert weights.encoder_config.heads == 2 and weights.encoder_config.frames == 16
    assert weights.encoder_config.image_size == 224  # VideoMAE's own, and the report says so
    assert sum("taken" in note for note in report.notes) == 3


@pytest.mark.parametrize("change", ["equal", "learned"])
def test_videomae_position_tables(micro, tmp_path, change):
    from videohpm.models.vit import position_table

    model = micro.make("VideoViT")
    table = position_table("sincos_1d", model.grid, 24)[None]
    if change == "learned":
        table = table + 0.1
    names = their_names(micro, model, "VideoViT") | {"pos_embed": table}
    torch.save({"model": names}, tmp_path / "a.pth")
    weights, report = micro.read(tmp_path / "a.pth", **GIVEN)
    assert ("pos_embed" in report.left_over) == (change == "equal")
    assert (weights.encoder_config.position == "learned") == (change == "learned")
    with torch.no_grad():
        moved = micro.make("VideoViT")
        moved.positions += 0.1 if change == "learned" else 0.0
        micro.close(weights.build()(micro.clips()), moved(micro.clips()))


def test_half_precision_becomes_single(micro, tmp_path):
    names = their_names(micro, micro.make("VideoViT"), "VideoViT")
    torch.save({"model": {n: t.half() for n, t in names.items()}}, tmp_path / "a.pth")
    weights, _ = micro.read(tmp_path / "a.pth", **GIVEN)
    assert all(t.dtype == torch.float32 for t in weights.tensors.values())
    assert torch.equal(weights.tensors["norm.bias"], names["norm.bias"].half().float())


def test_mae_with_moved_positions_is_refused(micro, tmp_path):
    model = micro.make(
        "MaskedAutoencoder", projection_bias=True, predictor_unit=None, **micro.IMAGE
    )
    micro.convert(micro.save(model, tmp_path / "ours"), tmp_path / "mae", "mae")
    tree = torch.load(tmp_path / "mae/checkpoint.pth", weights_only=True)
    tree["model"]["decoder_pos_embed"][0, 1, 0] += 0.01
    torch.save(tree, tmp_path / "moved.pth")
    with pytest.raises(UserError, match="decoder_pos_embed is not MAE's fixed table"):
        micro.read(tmp_path / "moved.pth")


def test_mae_encoder_alone(micro, tmp_path):
    """As MAE publishes its encoders: under ``model``, without a decoder."""
    from videohpm.interop import ConversionReport

    model = micro.make("VideoViT", **micro.IMAGE)
    weights = micro.Weights(model.config, model.state_dict())
    names = encoder_tensors(weights, "mae", ConversionReport(""))
    torch.save({"model": names}, tmp_path / "a.pth")
    found, report = micro.read(tmp_path / "a.pth", heads=3)
    assert report.layout == "MAE image encoder" and "pos_embed" in report.left_over
    assert all(torch.equal(t, found.tensors[n]) for n, t in model.state_dict().items())


def mae_st_state(classes: int | None, separate: bool) -> dict:
    """Random weights under mae_st's names: 4 frames of 32×32, tubelets of 2, a class token."""
    dim, generator = 24, torch.Generator().manual_seed(3)
    rand = lambda *shape: torch.randn(*shape, generator=generator) * 0.1  # noqa: E731
    state = {"cls_token": rand(1, 1, dim), "patch_embed.proj.weight": rand(dim, 3, 2, 16, 16),
             "patch_embed.proj.bias": rand(dim)}  # fmt: skip
    if separate:
        state |= {"pos_embed_spatial": rand(1, 4, dim), "pos_embed_temporal": rand(1, 2, dim),
                  "pos_embed_class": rand(1, 1, dim)}  # fmt: skip
    else:
        state["pos_embed"] = rand(1, 9, dim)
    linear = {"attn.q": (dim, dim), "attn.k": (dim, dim), "attn.v": (dim, dim),
              "attn.proj": (dim, dim), "mlp.fc1": (48, dim), "mlp.fc2": (dim, 48)}  # fmt: skip
    for n in range(2):
        for name, (rows, columns) in linear.items():
            state[f"blocks.{n}.{name}.weight"] = rand(rows, columns)
            state[f"blocks.{n}.{name}.bias"] = rand(rows)
        for name in ("norm1", "norm2"):
            state[f"blocks.{n}.{name}.weight"] = 1 + rand(dim)
            state[f"blocks.{n}.{name}.bias"] = rand(dim)
    state |= {"norm.weight": 1 + rand(dim), "norm.bias": rand(dim)}
    if classes is None:
        state |= {"mask_token": rand(1, 1, 8), "decoder_cls_token": rand(1, 1, 8),
                  "decoder_embed.weight": rand(8, dim), "decoder_pred.bias": rand(768)}  # fmt: skip
    else:
        state |= {"head.weight": rand(classes, dim), "head.bias": rand(classes)}
    return state


def mae_st_forward(state: dict, clips: torch.Tensor, heads: int = 3) -> torch.Tensor:
    """mae_st's encoder spelled out: tokens before the final norm, class token first."""
    norm = lambda x, name: F.layer_norm(  # noqa: E731
        x, (24,), state[f"{name}.weight"], state[f"{name}.bias"], 1e-6
    )
    linear = lambda x, name: x @ state[f"{name}.weight"].T + state[f"{name}.bias"]  # noqa: E731
    weight, bias = state["patch_embed.proj.weight"], state["patch_embed.proj.bias"]
    x = F.conv3d(clips, weight, bias, stride=(2, 16, 16)).flatten(2).transpose(1, 2)
    x = torch.cat([state["cls_token"].expand(len(x), -1, -1), x], 1)
    if "pos_embed" in state:
        x = x + state["pos_embed"]
    else:
        places = [state["pos_embed_class"][0, 0]]
        for step in state["pos_embed_temporal"][0]:
            places += [place + step for place in state["pos_embed_spatial"][0]]
        x = x + torch.stack(places)
    for n in range(2):
        y = norm(x, f"blocks.{n}.norm1")
        q, k, v = (linear(y, f"blocks.{n}.attn.{p}").unflatten(2, (heads, -1)).transpose(1, 2)
                   for p in "qkv")  # fmt: skip
        weights = (q @ k.transpose(2, 3) / q.shape[-1] ** 0.5).softmax(3)
        x = x + linear((weights @ v).transpose(1, 2).flatten(2), f"blocks.{n}.attn.proj")
        y = F.gelu(linear(norm(x, f"blocks.{n}.norm2"), f"blocks.{n}.mlp.fc1"))
        x = x + linear(y, f"blocks.{n}.mlp.fc2")
    return x


@pytest.mark.parametrize("separate", [True, False])
@pytest.mark.parametrize("classes", [None, 5])
def test_mae_st(micro, tmp_path, classes, separate):
    state, clips = mae_st_state(classes, separate), micro.clips()
    torch.save({"model_state": state, "epoch": 3}, tmp_path / "a.pth")
    weights, report = micro.read(tmp_path / "a.pth", heads=3, image_size=32)
    assert report.layout == f"mae_st {'pre-training' if classes is None else 'fine-tuning'}"
    assert weights.encoder_config.frames == 4
    x = mae_st_forward(state, clips)
    final = (state["norm.weight"], state["norm.bias"], 1e-6)
    if classes is None:
        wanted = F.layer_norm(x, (24,), *final)
        assert {n for n in state if n.startswith(("decoder", "mask"))} == report.left_over.keys()
    else:
        pooled = F.layer_norm(x[:, 1:].mean(1), (24,), *final)
        wanted = pooled @ state["head.weight"].T + state["head.bias"]
        assert not report.left_over
    with torch.no_grad():
        micro.close(weights.build()(clips), wanted)


def test_every_tensor_of_mae_st_counts(micro, tmp_path):
    for classes, separate in ((None, True), (5, False)):
        whole = mae_st_state(classes, separate)
        kept = {n: t for n, t in whole.items() if not n.startswith(("decoder_", "mask_token"))}
        for what, changed in micro.mutations(kept):
            if what in ("cls_token lost", "pos_embed_class lost") or what.startswith("blocks.1."):
                continue  # without a class token is checked below; one block stands for all
            torch.save({"model_state": changed}, tmp_path / "a.pth")
            with pytest.raises(UserError):
                micro.read(tmp_path / "a.pth", heads=3, image_size=32)
                pytest.fail(what)
    whole = mae_st_state(5, True)
    del whole["cls_token"], whole["pos_embed_class"]
    torch.save({"model_state": whole}, tmp_path / "a.pth")
    with pytest.raises(UserError, match="leaves the first patch out of its mean"):
        micro.read(tmp_path / "a.pth", heads=3)


def test_a_headless_encoder_as_hubs_keep_it(micro, tmp_path):
    """Names under ``model.``, the classifier's norm kept and its head gone."""
    model = micro.make("VideoClassifier")
    names = their_names(micro, model, "VideoClassifier")
    bare = {f"model.{n}": t for n, t in names.items() if not n.startswith("head.")}
    torch.save(bare, tmp_path / "a.pth")
    weights, report = micro.read(tmp_path / "a.pth", **GIVEN)
    assert weights.kind == "VideoViT" and not weights.encoder_config.final_norm
    assert report.left_over.keys() == {"fc_norm.weight", "fc_norm.bias"}
    with torch.no_grad():
        micro.close(weights.build()(micro.clips()), model.encoder(micro.clips()))
