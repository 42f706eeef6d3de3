"""``videohpm visualize --compare``: what several runs hide in the same clips."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from videohpm import checkpoint, visualize
from videohpm.cli import main, parser_of
from videohpm.models import MaskedAutoencoder
from videohpm.visualize.compare import comparison
from videohpm.visualize.files import write

TINY = {
    "arch": "vit_tiny", "frames": 4, "image_size": (16, 24), "patch": 8, "dim": 12, "depth": 1,
    "heads": 2, "decoder_dim": 12, "decoder_depth": 1, "decoder_heads": 2,
}  # fmt: skip
ORANGE = np.array([255, 140, 0])


def run_folder(place, *, mask: dict, mining: bool = True, **changes) -> str:
    """A run at its half, where hard units are a quarter of what is masked."""
    torch.manual_seed(0)
    model = MaskedAutoencoder.create(**TINY | changes, predictor_unit="tube" if mining else None)
    folder = place / "checkpoints" / "step_00000050"
    checkpoint.save_weights(folder, model)
    config = {
        "data": {"stride": 1}, "mask": {"ratio": 0.67} | mask, "hpm": {"enabled": mining},
        "model": TINY | changes | {"image_size": list(changes.get("image_size", (16, 24)))},
    }  # fmt: skip
    state = {"step": 50, "steps": 100, "config": config}
    (folder / "state.json").write_text(json.dumps(state))
    return str(place)


@pytest.fixture
def video(tmp_path) -> str:
    """A clip whose right third flickers: pixels 32 to 48, the tubes 2 and 5 of 6."""
    frames = np.full((4, 32, 48, 3), 128, np.uint8)
    frames[::2, :, 32:] = 255
    write(tmp_path / "clip.mp4", frames, 8)
    return str(tmp_path / "clip.mp4")


@pytest.fixture
def arms(tmp_path) -> list[str]:
    changes = run_folder(tmp_path / "changes", mask={"scorer": "motion"}, mining=False)
    still = run_folder(
        tmp_path / "still", mask={"scorer": "motion", "choice": "easiest"}, mining=False
    )
    plain = run_folder(tmp_path / "plain", mask={"scorer": "none"}, mining=False)
    return [changes, still, plain]


def test_each_run_paints_what_it_would_hide(arms, video):
    seen = [visualize.inspect_videos(arm, [video], hard_ratio=0.5) for arm in arms]
    chosen = [None if one.hard is None else one.hard[0, 0].ravel().nonzero()[0] for one in seen]
    assert chosen[0].tolist() == [2, 5]
    assert len(chosen[1]) == 2 and not {2, 5} & set(chosen[1].tolist())
    assert chosen[2] is None
    for one in seen[:2]:
        assert (one.mask[0, 0][one.hard[0, 0]]).all()
    picture = comparison(seen, ["changes", "still", "plain"], cell=16)
    tall = 16 + 2  # a frame and the gap below it
    top = next(y for y in range(len(picture)) if (picture[y, 160:170] != 255).any())
    middles = [picture[top + row * tall + 4, 152 + 16 + 4] for row in range(4)]  # tube 2, frame 1
    assert np.abs(middles[1].astype(int) - ORANGE).max() < 60  # hidden by the first run
    assert np.abs(middles[2].astype(int) - ORANGE).max() > 60


def test_the_command_draws_all_runs_in_one_picture(arms, video, tmp_path):
    sizes = {}
    for suffix in ("png", "gif"):
        out = tmp_path / f"seen.{suffix}"
        typed = ["visualize", arms[0], video, "-o", str(out), "--cell", "32"]
        assert main([*typed, "--compare", *arms[1:]]) == 0
        with Image.open(out) as image:
            sizes[suffix] = image.size
            assert getattr(image, "n_frames", 1) == (4 if suffix == "gif" else 1)
        assert main(typed) == 0
        with Image.open(out) as image:
            assert image.size != sizes[suffix]
    documented = " ".join(parser_of("visualize").format_help().split())
    assert "further runs, checkpoints or exports" in documented


def test_runs_of_other_clips_are_refused(arms, video, tmp_path, capsys):
    other = run_folder(tmp_path / "other", mask={"scorer": "none"}, mining=False, frames=2)
    assert main(["visualize", arms[0], video, "-o", "x.png", "--compare", other]) == 2
    line = capsys.readouterr().err.strip()
    assert line == (
        f"videohpm: compare: {other} takes clips of 2x16x24 (frames x height x width), {arms[0]} "
        "of 4x16x24; give runs of one size"
    )
