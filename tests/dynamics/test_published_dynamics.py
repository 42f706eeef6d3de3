"""Forty steps of the published training loops, tensor by tensor, and that wrong ones are told."""

from dataclasses import replace

import pytest
from golden_runs import (
    EPOCHS,
    Deviation,
    HPMVariant,
    image_hpm,
    videomae_finetuning,
    videomae_pretraining,
)

from videohpm import hpm
from videohpm.config.optim import UNDECAYED
from videohpm.hpm import relative_loss

PUBLISHED = HPMVariant()


@pytest.fixture(scope="module")
def reference(shared):
    folder = shared / "reference/dynamics"
    if not folder.is_dir():
        pytest.skip("reference data (../shared/reference/dynamics) is not on this machine")
    return folder


def test_image_hpm_trains_as_published(reference):
    image_hpm(reference, PUBLISHED)


def test_videomae_pre_trains_as_published(reference):
    videomae_pretraining(reference)


@pytest.mark.parametrize("kind", ["finetune", "mixup", "accumulated"])
def test_videomae_fine_tunes_as_published(reference, kind):
    videomae_finetuning(reference, kind)


class Easiest:
    """The teacher's scores turned round."""

    def __init__(self, teacher, engine, momentum):
        self.teacher, self.after_step = teacher, teacher.after_step

    def __call__(self, clips, shuffle_ids):
        return -self.teacher(clips)


class BeforeTheOptimiser:
    """The teacher follows before the optimiser moves the student, not after."""

    def __init__(self, teacher, engine, momentum):
        self.teacher, self.engine, self.momentum = teacher, engine, momentum

    def __call__(self, clips, shuffle_ids):
        scores = self.teacher(clips)
        self.teacher.after_step(self.engine.model, self.momentum)
        return scores

    def after_step(self, student, momentum):
        pass


def decay_everything(engine):
    for group in engine.optimizer.param_groups:
        group["weight_decay"] = 0.05


WRONG = {
    "learning rate a step late": replace(PUBLISHED, lr_step=lambda s: max(0, s - 1)),
    "momentum by step, not by epoch": replace(
        PUBLISHED, momentum=lambda s: hpm.teacher_momentum(s / 5 / 100)
    ),
    "momentum fixed": replace(PUBLISHED, momentum=lambda s: 0.999),
    "hard ratio an epoch late": replace(
        PUBLISHED, hard_ratio=lambda s: hpm.hard_ratio((s // 5) / EPOCHS)
    ),
    "betas of fine-tuning": PUBLISHED.changed(betas=(0.9, 0.999)),
    "no weight decay": PUBLISHED.changed(weight_decay=0.0),
    "biases and norms decayed": replace(PUBLISHED, prepare=decay_everything),
    "teacher before the optimiser": replace(PUBLISHED, scorer=BeforeTheOptimiser),
    "objective turned round": replace(PUBLISHED, objective=lambda s, t: relative_loss(-s, t)),
    "teacher read at queries": replace(PUBLISHED, score_readout="query"),
    "easiest instead of hardest": replace(PUBLISHED, scorer=Easiest),
    "class and mask token not decayed": PUBLISHED.changed(no_weight_decay=UNDECAYED),
    "warm-up of VideoMAE": PUBLISHED.changed(warmup_peak="last"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_not_as_published_is_told(reference, name, monkeypatch):
    """Each by what it computes: losses, masks and weights, not by the schedule it was given."""
    variant = WRONG[name]
    if variant.objective:
        monkeypatch.setitem(hpm.OBJECTIVES, "relative", variant.objective)
    with pytest.raises(Deviation):
        image_hpm(reference, variant, check_schedules=False)


@pytest.mark.parametrize("wrong", [{"warmup_peak": "after"}, {"no_weight_decay": ()}], ids=str)
def test_videomae_is_told_from_hpms_way(reference, wrong):
    with pytest.raises(Deviation):
        videomae_pretraining(reference, **wrong)
