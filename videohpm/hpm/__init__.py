"""Hard Patches Mining (TPAMI 2025, arXiv 2312.13714) for video: one equation a function.

==============================================  ==========================================
in the paper                                    here
==============================================  ==========================================
how hard each patch is                          :class:`Scorer`, chosen by :data:`SCORERS`
hard in this clip, not at this position         :class:`CenteredScorer`
which of the ranked patches                     :data:`CHOICES`
hide it, reconstruct it, weigh it               :data:`USES`
the mask of a step                              :func:`draw_mask`
or which clips are seen more often              :class:`ClipSampling`
random masking                                  :func:`random_mask`
hard patches: masked units by predicted loss    :func:`hard_mask`
only a part of them decoded (VideoMAEv2)        :func:`subsample_decoded`
easy to hard: α rises over training             :func:`hard_ratio`
reconstruction target                           :class:`Target`, chosen by :data:`TARGETS`
pixels, raw or standardised                     :class:`PixelTarget`, :func:`pixel_targets`
features of a network (MVD, data2vec)           :class:`FeatureTarget`
L_rec, kept for each token                      :func:`token_losses`, :data:`TOKEN_LOSSES`
L_rec                                           :func:`mean_loss`
the same of pixels, targets included            :func:`reconstruction_loss`
the same for each tube (video only)             :func:`loss_per_tube`
L_pred, relative: which of two is harder        :func:`relative_loss`
L_pred, absolute: how hard                      :func:`absolute_loss`
the teacher and its scores                      :class:`LossTeacher`
θ_t ← m·θ_t + (1 − m)·θ_s                       :meth:`LossTeacher.update`
m over training                                 :func:`teacher_momentum`
does it mine, or know positions only?           :class:`MiningStatistics`
==============================================  ==========================================
"""

from videohpm.grid import Mask
from videohpm.hpm.clip_sampling import CLIP_SAMPLINGS, ClipSampling
from videohpm.hpm.diagnostics import (
    effective_rank,
    feature_change,
    feature_spread,
    rank_correlation,
)
from videohpm.hpm.ema import Ema
from videohpm.hpm.features import Encoders, FeatureTarget, FrozenEncoder
from videohpm.hpm.losses import (
    OBJECTIVES,
    TOKEN_LOSSES,
    absolute_loss,
    loss_per_tube,
    mean_loss,
    relative_loss,
    token_losses,
)
from videohpm.hpm.masking import (
    CHOICES,
    hard_count,
    hard_mask,
    masked_count,
    random_mask,
    random_shuffle_ids,
    subsample_decoded,
    unit_count,
    unit_scores,
)
from videohpm.hpm.mining import MiningStatistics, mining_metrics
from videohpm.hpm.schedule import configured_hard_ratio, hard_ratio, teacher_momentum
from videohpm.hpm.scorers import NETWORKS, SCORERS, CenteredScorer, Scorer
from videohpm.hpm.targets import (
    TARGETS,
    PixelTarget,
    Target,
    pixel_targets,
    reconstruction_loss,
)
from videohpm.hpm.teacher import LossTeacher
from videohpm.hpm.uses import USES, draw_mask

__all__ = [
    "FrozenEncoder",
    "FeatureTarget",
    "Encoders",
    "CHOICES",
    "NETWORKS",
    "OBJECTIVES",
    "SCORERS",
    "TARGETS",
    "TOKEN_LOSSES",
    "USES",
    "CenteredScorer",
    "CLIP_SAMPLINGS",
    "ClipSampling",
    "Ema",
    "LossTeacher",
    "Mask",
    "MiningStatistics",
    "PixelTarget",
    "Scorer",
    "Target",
    "absolute_loss",
    "draw_mask",
    "effective_rank",
    "feature_change",
    "feature_spread",
    "hard_count",
    "hard_mask",
    "configured_hard_ratio",
    "hard_ratio",
    "loss_per_tube",
    "masked_count",
    "mean_loss",
    "mining_metrics",
    "pixel_targets",
    "random_mask",
    "random_shuffle_ids",
    "rank_correlation",
    "reconstruction_loss",
    "relative_loss",
    "subsample_decoded",
    "teacher_momentum",
    "token_losses",
    "unit_count",
    "unit_scores",
]
