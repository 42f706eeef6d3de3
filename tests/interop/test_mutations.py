"""Any one tensor lost, renamed, reshaped or of another rank: loaded in full, or one clear line."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from videohpm.errors import UserError

IMAGE = {"frames": 1, "tubelet": 1, "position": "sincos_2d", "class_token": True}
HPM = IMAGE | {"projection_bias": True, "depth": 1}
CASES = [
    ("videomae", "MaskedAutoencoder", {"predictor_unit": None, "depth": 1}),
    ("videomae", "VideoClassifier", {"position": "learned", "depth": 1}),
    ("huggingface", "VideoClassifier", {"depth": 1}),
    ("timm", "VideoClassifier", IMAGE | {"position": "learned", "depth": 1}),
    ("mae", "MaskedAutoencoder", HPM),
    ("videohpm", "VideoViT", {"position": "learned", "depth": 1}),
]


@pytest.mark.parametrize(("layout", "kind", "arguments"), CASES)
def test_every_tensor_counts(micro, tmp_path, layout, kind, arguments):
    micro.save(micro.make(kind, **arguments), tmp_path / "ours")
    micro.convert(tmp_path / "ours", tmp_path / "there", layout)
    pickled = layout in ("videomae", "mae")
    file = tmp_path / "there" / ("checkpoint.pth" if pickled else "model.safetensors")
    if pickled:
        tree = torch.load(file, weights_only=True)
        entry = "state_dict" if "state_dict" in tree else "model"
        tensors = tree[entry]
    else:
        tensors = load_file(file)
    for what, changed in micro.mutations(tensors):
        if pickled:
            torch.save(tree | {entry: changed}, file)
        else:
            save_file(changed, file)
        with pytest.raises(UserError) as caught:
            weights, _ = micro.read(file if pickled else file.parent)
            pytest.fail(f"{what}: read all the same, as {weights.config}")
        assert "\n" not in str(caught.value), what
