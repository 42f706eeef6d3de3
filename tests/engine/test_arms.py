"""Every way to choose what is hidden and predicted, as a run: resumed to the bit, alike on 2 ranks.

One process trains each arm, and goes on with it from its half; two ranks under ZeRO-3 train eight
of them in one go.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from facts import read
from made_runs import write_timm_export
from safetensors.torch import load_file

from videohpm import visualize
from videohpm.checkpoint import save_weights
from videohpm.config.mask import CHOICES, SCORERS
from videohpm.models import VideoViT, vit_config
from videohpm.pretrain import pretrain

pytestmark = pytest.mark.slow

STEPS = 6
BASE = {
    "run": {"steps": STEPS, "log_every": 1, "picture_every": 0, "save_every": 3},
    "data": {"workers": 0, "stride": 2},
    "model": {
        "arch": "vit_tiny", "frames": 4, "image_size": 32, "patch": 8, "dim": 96, "depth": 2,
        "heads": 2, "decoder_dim": 48, "decoder_depth": 1, "decoder_heads": 2, "target": "raw",
        "class_token": True,
    },
    "mask": {"ratio": 0.75},
    "hpm": {"momentum_start": 0.9, "momentum_end": 0.99, "momentum_steps": 10,
            "hard_ratio_start": 0.3, "teacher_samples_per_tube": 1},
    "optim": {"global_batch_size": 8, "base_lr": 3e-2, "warmup_steps": 2},
    "engine": {"device": "cpu", "precision": "fp32", "grad_clip": 0.5},
}  # fmt: skip
AT_A_TIME = 8  # arms, within the time that ranks have
DIVIDED = {"zero_stage": 3, "grad_accum_steps": 2}

DRAWN = {"picture_every": STEPS}
ARMS = {
    name: {"mask": {"scorer": name}} for name in SCORERS if name != "none"
} | {
    name: {"mask": {"scorer": "student", "choice": name}} for name in CHOICES if name != "hardest"
} | {
    "decoded by score": {
        "mask": {"scorer": "student", "use": "decode", "decode_ratio": 0.5}, "run": DRAWN,
    },
    "weighed by the teacher": {"mask": {"use": "weight", "decode_ratio": 0.5}},
    "tokens weighed by noise": {
        "mask": {"scorer": "noise", "use": "weight", "unit": "token"}, "hpm": {"enabled": False},
    },
    "tokens decoded by change": {
        "mask": {"scorer": "change", "use": "decode", "unit": "token", "decode_ratio": 0.5},
        "hpm": {"predictor_unit": "token"},
    },
    "centered change": {"mask": {"scorer": "change"}, "hpm": {"center_scores": True}},
    "noise of tokens": {"mask": {"scorer": "noise", "unit": "token"}, "hpm": {"enabled": False}},
    "features of timm": {
        "model": {"target": "frozen_encoder", "target_encoder": "timm:local-dir:{timm}"},
        "run": DRAWN,
    },
    "features of an export": {
        "model": {
            "target": "frozen_encoder", "target_encoder": "{export}", "target_loss": "cosine",
        },
    },
    "features of the teacher": {
        "model": {"target": "ema_encoder", "target_loss": "smooth_l1"}, "run": DRAWN,
    },
    # Through three epochs and into the fourth, from the middle of the third.
    "sampled": {"mask": {"use": "sample"}, "run": {"steps": 14, "save_every": 9}},
    "not sampled": {"mask": {"scorer": "none"}, "run": {"steps": 14, "save_every": 9}},
}  # fmt: skip
UNIFORM = 8
"""Steps of the first two epochs, which hold every clip once."""


def plain(arm: str, folder: Path, shapes: Path, **sections: dict) -> dict:
    """The configuration of an arm, as YAML holds it."""
    made = {name: dict(values) for name, values in BASE.items()}
    given = {"run": {"dir": str(folder)}, "data": {"root": str(shapes / "train")}}
    for changes in (ARMS[arm], given, sections):
        for name, values in changes.items():
            made[name] |= values
    if encoder := made["model"].get("target_encoder"):
        named = {name: str(folder.parents[1] / name) for name in ("timm", "export")}
        made["model"]["target_encoder"] = encoder.format(**named)
    return made


def losses(folder: Path) -> list[float]:
    return [
        json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().split("\n")[:-1]
    ]


def last_checkpoint(folder: Path) -> Path:
    return max((folder / "checkpoints").iterdir())


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(last_checkpoint(folder) / "model.safetensors")


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """Where all runs are, and the encoders whose features some predict."""
    folder = tmp_path_factory.mktemp("arms")
    write_timm_export(folder / "timm", {"mean": [0.5] * 3, "std": [0.25] * 3})
    shape = {"frames": 4, "image_size": 32, "patch": 8, "dim": 24, "depth": 1, "heads": 2}
    save_weights(folder / "export", VideoViT(vit_config("vit_tiny", **shape)))
    return folder


@pytest.fixture(scope="module")
def alone(runs, shapes):
    """alone(arm) → the folder of its run in this process."""

    def run(arm: str) -> Path:
        folder = runs / "alone" / arm
        if not folder.exists():
            pretrain(read(plain(arm, folder, shapes)))
        return folder

    return run


@pytest.fixture(scope="module")
def divided(runs, shapes, starter):
    """divided(arm) → the folder of its run on two ranks, which train some arms at a time."""

    def run(arm: str) -> Path:
        place, names = runs / "divided", list(ARMS)
        if not (place / arm).exists():
            first = names.index(arm) // AT_A_TIME * AT_A_TIME
            some = names[first : first + AT_A_TIME]
            made = [plain(each, place / each, shapes, engine=DIVIDED) for each in some]
            job = starter.start(2, "facts:train_each", made, logs=runs / f"logs{first}")
            assert job.wait() == [0, 0], job.said()
        return place / arm

    return run


@pytest.mark.parametrize("arm", ARMS)
def test_a_run_that_goes_on_is_the_whole_one_to_the_bit(arm, alone, runs, shapes):
    whole, rest = alone(arm), runs / "rest" / arm
    first = min((whole / "checkpoints").iterdir())
    pretrain(read(plain(arm, rest, shapes, run={"resume": str(first)})))
    assert losses(rest) == losses(whole)[int(first.name.removeprefix("step_")) :]
    mine = weights(rest)
    assert all(torch.equal(mine[name], weight) for name, weight in weights(whole).items())


@pytest.mark.parametrize("arm", ARMS)
def test_two_ranks_with_divided_weights_train_as_one_process(arm, alone, divided):
    assert losses(divided(arm)) == pytest.approx(losses(alone(arm)), rel=1e-4)


def test_the_hard_share_of_chosen_clips_is_logged_though_masks_are_random(alone):
    rows = [json.loads(line) for line in (alone("sampled") / "metrics.jsonl").open()]
    logged = [row["hard_ratio"] for row in rows]
    assert logged[0] == 0.3 and logged == sorted(logged) and logged[-1] > 0.4


def test_hard_clips_are_seen_more_often_from_the_third_epoch_on(alone):
    sampled, uniform = alone("sampled"), alone("not sampled")
    assert losses(sampled)[:UNIFORM] == losses(uniform)[:UNIFORM]
    pairs = zip(losses(sampled)[UNIFORM:], losses(uniform)[UNIFORM:], strict=True)
    assert all(a != b for a, b in pairs)
    kept = load_file(last_checkpoint(sampled) / "clip_hardness.safetensors")
    assert kept["hardness"].min() > 0
    assert float(kept["hardness"].mean()) == pytest.approx(1, abs=0.1)


def test_the_arms_differ(alone):
    """Else one of them would not be what its name says."""
    last = {arm: losses(alone(arm))[-1] for arm in ARMS}
    assert len(set(last.values())) == len(last), last


@pytest.mark.parametrize("arm", ARMS)
def test_an_arm_is_drawn(arm, alone, shapes):
    """Also what is no picture: then there is no reconstruction, and the picture says so."""
    video = str(sorted((shapes / "validation").glob("*.mp4"))[0])
    seen = visualize.inspect_videos(alone(arm), [video], hard_ratio=0.5)
    assert (seen.reconstruction is None) == arm.startswith("features")
    assert ("no picture" in visualize.pictures.footnote(seen)) == arm.startswith("features")
    if arm.endswith("sampled"):
        assert seen.hardness is None and seen.hard is None
    else:
        assert np.isfinite(seen.hardness).all() and seen.hard.any()
    assert visualize.image_grid(seen).shape[2] == 3
