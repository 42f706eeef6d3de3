"""What the models compute, by properties: parity with published numbers is in tests/interop."""

import pytest
import torch

from videohpm import hpm
from videohpm.grid import Mask, TokenGrid
from videohpm.models import MaskedAutoencoder, VideoClassifier, VideoViT, ViTConfig

MICRO = {
    "frames": 4, "image_size": (32, 48), "patch": 8, "dim": 24, "depth": 2, "heads": 2,
}  # fmt: skip
DECODER = {"decoder_dim": 16, "decoder_depth": 1, "decoder_heads": 2}


def autoencoder(**changes) -> MaskedAutoencoder:
    torch.manual_seed(0)
    return MaskedAutoencoder.create("vit_tiny", **(MICRO | DECODER | changes)).eval()


def clips_and_mask(model, ratio=0.5, unit="tube", seed=0):
    generator = torch.Generator().manual_seed(seed)
    grid = model.grid
    clips = torch.randn(2, 3, grid.frames, grid.height, grid.width, generator=generator)
    shuffle_ids = hpm.random_shuffle_ids(2, hpm.unit_count(grid, unit), generator)
    return clips, hpm.random_mask(grid, ratio, shuffle_ids, unit)


def test_embedding_is_the_strided_convolution():
    encoder = VideoViT(ViTConfig(**MICRO))
    clips = torch.randn(2, 3, 4, 32, 48)
    weight = encoder.patch_embed.proj.weight.view(24, 3, 2, 8, 8)
    wanted = torch.nn.functional.conv3d(
        clips, weight, encoder.patch_embed.proj.bias, stride=(2, 8, 8)
    )
    got = encoder.patch_embed(encoder.grid.gather_patches(clips))
    torch.testing.assert_close(got, wanted.flatten(2).transpose(1, 2), atol=1e-5, rtol=1e-4)


def test_encoding_visible_tokens_never_sees_the_masked_ones():
    model = autoencoder()
    clips, mask = clips_and_mask(model)
    out = model(clips, mask)
    values = model.grid.patchify(clips)
    noise = torch.randn_like(values)
    spoilt = model.grid.unpatchify(torch.where(mask.is_masked[..., None], noise, values))
    again = model(spoilt, mask)
    assert torch.equal(again.pixels, out.pixels)
    assert torch.equal(again.scores, out.scores)


def test_order_of_visible_tokens_does_not_matter_and_all_is_the_default():
    encoder = VideoViT(ViTConfig(**MICRO)).eval()
    clips = torch.randn(2, 3, 4, 32, 48)
    order = torch.stack([torch.randperm(encoder.grid.num_tokens) for _ in range(2)])
    every = encoder(clips)
    shuffled = encoder(clips, order)
    expected = torch.stack([every[i][order[i]] for i in range(2)])
    torch.testing.assert_close(shuffled, expected, atol=1e-5, rtol=1e-4)


def test_class_token_comes_first_and_has_no_place():
    model = autoencoder(class_token=True)
    clips, mask = clips_and_mask(model)
    encoded = model.encoder(clips, mask.visible)
    assert encoded.shape[1] == mask.visible.shape[1] + 1
    context = model._context(clips, mask.visible)
    torch.testing.assert_close(context[:, 0], model.decoder_embed(encoded)[:, 0])


@pytest.mark.parametrize("level", ["tube", "token"])
def test_detaching_keeps_the_predictor_from_the_rest(level):
    for detach in (True, False):
        model = autoencoder(predictor_unit=level, predictor_detach=detach)
        clips, mask = clips_and_mask(model)
        model(clips, mask).scores.sum().backward()
        trained = {n.split(".")[0] for n, p in model.named_parameters() if p.grad is not None}
        rest = {"encoder", "decoder_embed", "mask_token"}
        assert trained == ({"predictor"} if detach else {"predictor"} | rest)


def test_predictor_changes_nothing_for_the_pixels():
    plain, mining = autoencoder(predictor_unit=None), autoencoder(predictor_unit="tube")
    clips, mask = clips_and_mask(plain)
    assert torch.equal(plain(clips, mask).pixels, mining(clips, mask).pixels)
    assert plain(clips, mask).scores is None


def test_scores_are_of_tubes_or_tokens():
    for level, count in (("tube", 12), ("token", 24)):
        model = autoencoder(predictor_unit=level)
        clips, mask = clips_and_mask(model)
        assert model(clips, mask).scores.shape == (2, count)
    clips, mask = clips_and_mask(model, unit="token")
    with pytest.raises(ValueError, match="tube"):
        autoencoder(predictor_unit="tube")(clips, mask)


def test_recomputing_blocks_gives_the_same_gradients():
    gradients = []
    for recompute in (False, True):
        model = autoencoder(checkpoint_activations=recompute).train()
        clips, mask = clips_and_mask(model)
        out = model(clips, mask)
        (out.pixels.square().mean() + out.scores.mean()).backward()
        gradients.append([p.grad for p in model.parameters()])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


def test_position_tables_tell_all_tokens_apart_and_extend_images():
    for kind in ("sincos_1d", "sincos_2d"):
        encoder = VideoViT(ViTConfig(**MICRO, position=kind))
        assert torch.cdist(encoder.positions, encoder.positions).fill_diagonal_(1).min() > 1e-3
    image = VideoViT(ViTConfig(**(MICRO | {"frames": 1, "tubelet": 1}), position="sincos_2d"))
    assert torch.equal(encoder.positions[: image.grid.num_tokens], image.positions)


def test_tube_queries_tell_all_tubes_apart():
    for size in ((16, 224), (32, 224), (16, 112)):
        model = MaskedAutoencoder.create(
            "vit_tiny", frames=size[0], image_size=size[1], depth=1, decoder_depth=1
        )
        apart = torch.cdist(model.tube_positions, model.tube_positions)
        assert apart.fill_diagonal_(9).min() > 0.1


def test_classifier_pools_tokens_then_norms():
    torch.manual_seed(0)
    model = VideoClassifier.create("vit_tiny", classes=5, head_scale=1.0, **MICRO).eval()
    clips = torch.randn(2, 3, 4, 32, 48)
    pooled = model.fc_norm(model.encoder(clips).mean(1))
    torch.testing.assert_close(model(clips), pooled @ model.head.weight.T + model.head.bias)
    with pytest.raises(ValueError, match="class token"):
        VideoClassifier.create("vit_tiny", classes=5, pool="class_token", **MICRO)


def test_an_image_is_a_clip_of_one_step():
    grid = TokenGrid.of_clip(1, 32, 32, tubelet=1, patch=8)
    assert (grid.num_tokens, grid.num_tubes) == (16, 16)
    tubes = Mask.from_units(torch.tensor([[3, 5]]), grid)
    tokens = Mask.from_units(torch.tensor([[3, 5]]), grid, "token")
    assert torch.equal(tubes.masked, tokens.masked)


def spread(tensor) -> tuple[float, float]:
    """Standard deviation and largest absolute value."""
    return tensor.detach().std().item(), tensor.detach().abs().max().item()


def uniform(bound: float):
    """What :func:`spread` of a uniform distribution over ±bound gives, roughly."""
    return pytest.approx((bound / 3**0.5, bound), rel=0.03)


@pytest.mark.parametrize("system", ["VideoMAE", "HPM"])
def test_initial_weights_are_distributed_as_published(system):
    """Encoder 192 wide, decoder 96, patches of 2x8x8; fan-ins and fan-outs are spelled out."""
    torch.manual_seed(0)
    xavier = system == "HPM"
    model = MaskedAutoencoder.create(
        "vit_tiny", frames=4, image_size=32, patch=8, depth=1, decoder_dim=96, decoder_depth=1,
        patch_init="xavier" if xavier else "default", projection_bias=xavier,
    )  # fmt: skip
    pixels, embed = 3 * 2 * 8 * 8, model.encoder.patch_embed.proj
    assert spread(embed.weight) == uniform((6 / (pixels + 192)) ** 0.5 if xavier else pixels**-0.5)
    assert spread(embed.bias) == pytest.approx(((pixels * 3) ** -0.5, pixels**-0.5), rel=0.15)
    projection = model.decoder_embed
    assert spread(projection.weight) == uniform((6 / (192 + 96)) ** 0.5 if xavier else 192**-0.5)
    assert (projection.bias == 0).all() if xavier else projection.bias is None
    deviation, largest = spread(model.mask_token)
    if xavier:
        assert deviation == pytest.approx(0.02, rel=0.2) and largest > 0.03
    else:  # a normal distribution of .02 within ±.02 has a deviation of .0108
        assert deviation == pytest.approx(0.0108, rel=0.2) and largest <= 0.02
    # Both draw all blocks alike.
    for block in (model.encoder.blocks[0], model.decoder.blocks[0], model.predictor.blocks[0]):
        width = block.mlp.fc1.in_features
        assert spread(block.mlp.fc1.weight) == uniform((6 / (5 * width)) ** 0.5)
        assert (block.mlp.fc1.bias == 0).all()


def test_scores_of_bf16_are_told_apart():
    """All 64 patches of a picture have scores of their own, as in fp32; so ties decide nothing."""
    torch.manual_seed(0)
    model = MaskedAutoencoder.create(
        "vit_tiny", frames=1, tubelet=1, image_size=64, patch=8, dim=48, depth=2, heads=2,
        decoder_dim=48, decoder_depth=1, decoder_heads=2, predictor_unit="token",
    ).eval()  # fmt: skip
    clips = torch.randn(4, 3, 1, 64, 64)
    full = model.score(clips, read="visible")
    with torch.autocast("cpu", torch.bfloat16):
        scores = model.score(clips, read="visible")
        mask = hpm.random_mask(model.grid, 0.75, hpm.random_shuffle_ids(4, 64))
        out = model(clips, mask)
    assert scores.dtype == out.scores.dtype == torch.float32
    assert out.pixels.dtype == torch.bfloat16
    assert [len(row.unique()) for row in scores] == [64] * 4
    assert [len(row.unique()) for row in out.scores] == [48] * 4
    assert (scores - full).abs().max() < 0.05 * full.std()
    rounded = [len(row.unique()) for row in full.bfloat16()]
    assert max(rounded) < 64, "bf16 would not do"
