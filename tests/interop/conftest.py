"""Micro models with every tensor random, and the comparison all these tests use."""

from types import SimpleNamespace

import pytest
import torch

from videohpm.interop import convert, read_weights
from videohpm.interop.core import Weights
from videohpm.models import MaskedAutoencoder, VideoClassifier, VideoViT, vit_config

CLIP = {"frames": 4, "image_size": 32, "patch": 16}
SIZE = CLIP | {"dim": 24, "depth": 2, "heads": 3}
DECODER = {"decoder_dim": 16, "decoder_depth": 1, "decoder_heads": 2}
IMAGE = {"frames": 1, "tubelet": 1, "position": "sincos_2d", "class_token": True}
KINDS = {"MaskedAutoencoder": MaskedAutoencoder.create, "VideoClassifier": VideoClassifier.create,
         "VideoViT": lambda **arguments: VideoViT(vit_config(**arguments))}  # fmt: skip


def randomise(model: torch.nn.Module, seed: int = 0, key_bias: bool = True) -> torch.nn.Module:
    """Every parameter random, norms near one, so that no mistake hides behind a zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
            if "norm" in name and name.endswith("weight"):
                parameter.add_(1)
            if name.endswith("qkv.bias") and not key_bias:
                parameter.view(3, -1)[1].zero_()
    return model.eval()


def make(kind: str, seed: int = 0, key_bias: bool = False, **arguments):
    """A random micro model; the published layouts have no key bias."""
    own = SIZE | (DECODER if kind == "MaskedAutoencoder" else {})
    own |= {"classes": 5} if kind == "VideoClassifier" else {}
    return randomise(KINDS[kind](**own | arguments), seed, key_bias)


def close(found, wanted, tolerance=1e-5):
    torch.testing.assert_close(found, wanted, rtol=tolerance, atol=tolerance)


def clips(frames: int = 4, batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, 3, frames, 32, 32, generator=torch.Generator().manual_seed(7))


def save(model, folder, teacher=None, **extra):
    """Our folder of a model."""
    from videohpm.checkpoint import save_weights

    save_weights(folder, model, teacher, extra)
    return folder


def mutations(tensors):
    """(what was done, the tensors after it), one tensor at a time."""
    for name, tensor in tensors.items():
        rest = {n: t for n, t in tensors.items() if n != name}
        yield f"{name} lost", rest
        yield f"{name} renamed", rest | {f"{name}_": tensor}
        yield f"{name} twice as long", rest | {name: torch.cat([tensor, tensor])}
        yield f"{name} of another rank", rest | {name: tensor[None].contiguous()}
        yield f"{name} a scalar", rest | {name: torch.tensor(1.0)}
        yield f"{name} empty", rest | {name: tensor[:0].contiguous()}
        yield f"{name} of whole numbers", rest | {name: tensor.long()}


@pytest.fixture
def micro() -> SimpleNamespace:
    return SimpleNamespace(
        make=make, randomise=randomise, close=close, clips=clips, save=save, convert=convert,
        read=read_weights, Weights=Weights, mutations=mutations,
        IMAGE=IMAGE, SIZE=SIZE, DECODER=DECODER,
    )  # fmt: skip
