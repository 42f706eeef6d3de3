"""Targets and the way back; their values are compared with literal ones in test_losses.py."""

import pytest
import torch

from videohpm import hpm, visualize
from videohpm.config import DataConfig, ModelConfig, PretrainConfig
from videohpm.config.hpm import HARDNESS
from videohpm.config.model import TARGETS
from videohpm.grid import Mask, TokenGrid
from videohpm.hpm.targets import NORMALISATIONS
from videohpm.models import MaskedAutoencoder

GRID = TokenGrid(2, 2, 3, patch=4)
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.1)
CLIPS = torch.randn(2, 3, 4, 8, 12, generator=torch.Generator().manual_seed(0))
TUBES = Mask.from_units(torch.tensor([[0, 4], [2, 3]]), GRID)


def masks() -> dict[str, Mask]:
    """All of it decoded, and one time step of each tube."""
    shuffle_ids = hpm.random_shuffle_ids(2, GRID.num_tubes, torch.Generator().manual_seed(0))
    return {"all": TUBES, "part": hpm.subsample_decoded(TUBES, GRID, 0.5, shuffle_ids)}


def literal_pixels(predicted, clips, token, normalisation):
    """Colours of one token of one clip, (tubelet, patch, patch, channel) flattened."""
    step, row, column = token // 6, token // 3 % 2, token % 3
    cube = clips[:, 2 * step : 2 * step + 2, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
    values = predicted.view(2, 4, 4, 3)
    colours = []
    for c in range(3):
        channel = values[..., c]
        if normalisation == "per_channel":
            pixels = cube[c] * STD[c] + MEAN[c]
            colours.append(channel * (pixels.std(unbiased=True) + 1e-6) + pixels.mean())
            continue
        if normalisation == "joint":
            channel = channel * (cube.var(unbiased=True) + 1e-6).sqrt() + cube.mean()
        colours.append(channel * STD[c] + MEAN[c])
    return torch.stack(colours, -1).flatten()


@pytest.mark.parametrize("part", ["all", "part"])
@pytest.mark.parametrize("normalisation", ["raw", "per_channel", "joint"])
def test_pixels_come_back_as_the_literal_inverse(normalisation, part):
    target, mask = hpm.PixelTarget(GRID, normalisation, MEAN, STD), masks()[part]
    predicted = torch.randn(2, mask.decoded.shape[1], GRID.patch_dim)
    found = target.to_pixels(predicted, CLIPS, mask)
    for clip in range(2):
        for place, token in enumerate(mask.decoded[clip].tolist()):
            expected = literal_pixels(predicted[clip, place], CLIPS[clip], token, normalisation)
            torch.testing.assert_close(found[clip, place], expected, atol=1e-5, rtol=1e-5)
    true = GRID.patchify(CLIPS, mask.decoded).unflatten(-1, (-1, 3))
    colours = (true * torch.tensor(STD) + torch.tensor(MEAN)).flatten(-2)
    back = target.to_pixels(target(CLIPS, mask), CLIPS, mask)
    torch.testing.assert_close(back, colours, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("part", ["all", "part"])
@pytest.mark.parametrize("normalisation", ["raw", "per_channel", "joint"])
def test_hardness_in_pixels_is_the_error_of_the_picture(normalisation, part):
    """Of the prediction turned back to pixels, in units of the data's deviation."""
    target, mask = hpm.PixelTarget(GRID, normalisation, MEAN, STD, "pixels"), masks()[part]
    targets = target(CLIPS, mask)
    predicted = torch.randn_like(targets)
    losses = hpm.token_losses(predicted, targets)
    found = target.hardness(losses, predicted, targets, CLIPS, mask)
    drawn = target.to_pixels(predicted, CLIPS, mask).unflatten(-1, (-1, 3))
    true = GRID.patchify(CLIPS, mask.decoded).unflatten(-1, (-1, 3))
    for clip in range(2):
        for place in range(mask.decoded.shape[1]):
            colours = (drawn[clip, place] - torch.tensor(MEAN)) / torch.tensor(STD)
            expected = (colours - true[clip, place]).square().mean()
            torch.testing.assert_close(found[clip, place], expected, atol=1e-4, rtol=1e-4)
    by_loss = hpm.PixelTarget(GRID, normalisation, MEAN, STD)
    assert by_loss.hardness(losses, predicted, targets, CLIPS, mask) is losses


def test_a_flat_token_is_hard_by_its_loss_and_easy_in_pixels():
    clips = CLIPS.clone()
    clips[:, :, :, :4, :4] = 1e-3 * clips[:, :, :, :4, :4]  # tube 0
    mask = Mask.from_units(torch.tensor([[0, 4], [0, 3]]), GRID)
    hardness = {}
    for name in HARDNESS:
        target = hpm.PixelTarget(GRID, "per_channel", MEAN, STD, name)
        targets = target(clips, mask)
        losses = hpm.token_losses(0 * targets, targets)  # as of noise that nothing can predict
        of_tokens = target.hardness(losses, 0 * targets, targets, clips, mask)
        hardness[name] = hpm.loss_per_tube(of_tokens, mask)
    torch.testing.assert_close(hardness["loss"][:, 0], hardness["loss"][:, 1], rtol=0.05, atol=0)
    assert (hardness["pixels"][:, 0] < 1e-4 * hardness["pixels"][:, 1]).all()


def test_an_unknown_hardness_is_refused():
    with pytest.raises(ValueError, match="hardness: 'size' is not one of loss, pixels"):
        hpm.PixelTarget(GRID, hardness="size")


@pytest.mark.parametrize("name", NORMALISATIONS)
def test_the_configuration_chooses_the_target(name):
    config = PretrainConfig(model=ModelConfig(target=name), data=DataConfig(mean=MEAN, std=STD))
    target = hpm.TARGETS[name](GRID, config)
    assert target.dim == GRID.patch_dim
    assert target.uses_true_statistics == (name != "raw")
    expected = hpm.pixel_targets(CLIPS, TUBES, GRID, name, STD)
    assert torch.equal(target(CLIPS, TUBES), expected)
    predicted = torch.randn(2, 4, GRID.patch_dim)
    losses = hpm.token_losses(predicted, target(CLIPS, TUBES))
    assert torch.equal(losses, hpm.reconstruction_loss(predicted, CLIPS, TUBES, GRID, name, STD))


def test_the_configuration_knows_the_targets():
    assert tuple(hpm.TARGETS) == TARGETS


def test_an_unknown_normalisation_is_refused():
    with pytest.raises(ValueError, match="target: 'hog' is not one of raw, per_channel, joint"):
        hpm.PixelTarget(GRID, "hog")


class MeanColour(hpm.Target):
    """Three values a token, of which no picture can be made."""

    dim = 3

    def __call__(self, clips, mask):
        return GRID.patchify(clips, mask.decoded).unflatten(-1, (-1, 3)).mean(-2)


def test_a_target_needs_its_dimension_and_its_call_only():
    target = MeanColour()
    model = MaskedAutoencoder.create(
        "vit_tiny", frames=4, image_size=(8, 12), patch=4, dim=12, depth=1, heads=2,
        decoder_dim=12, decoder_depth=1, decoder_heads=2, target_dim=target.dim,
    )  # fmt: skip
    out = model(CLIPS, TUBES)
    assert out.pixels.shape == (2, 4, 3)
    seen = visualize.inspect(model, CLIPS, TUBES, None, target, mean=MEAN, std=STD)
    assert seen.reconstruction is None and seen.reconstruction_with_visible is None
    losses = hpm.token_losses(out.pixels, target(CLIPS, TUBES))
    assert seen.loss[0].reshape(-1)[TUBES.masked[0]] == pytest.approx(losses[0].detach().numpy())
    shown = visualize.pictures.rows_of(seen)
    assert shown == ["input", "masked", "loss", "scores"]
    assert "no picture" in visualize.pictures.footnote(seen)
    for drawn in (visualize.training_picture(seen), visualize.training_animation(seen)):
        assert drawn.shape[-1] == 3
    assert MaskedAutoencoder(model.config).decoder.head.out_features == 3


def test_the_width_of_pixels_follows_the_geometry():
    """What is saved with a model says nothing of it, so that another patch or tubelet fits."""
    config = PretrainConfig(model=ModelConfig(arch="vit_tiny", frames=4, image_size=32))
    grid = config.model.grid()
    dim = hpm.TARGETS[config.model.target](grid, config).dim
    architecture = config.model_config(dim)
    assert architecture.target_dim is None
    assert MaskedAutoencoder(architecture).decoder.head.out_features == grid.patch_dim
