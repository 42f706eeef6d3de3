"""All of a pre-training run, and the checks between its sections."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from videohpm.config.architecture import MAEConfig, mae_config
from videohpm.config.data import DataConfig
from videohpm.config.dataset_info import read_dataset_info
from videohpm.config.engine import EngineConfig, check_batch
from videohpm.config.hpm import HPMConfig
from videohpm.config.mask import LARGEST_SHARE, MaskConfig, masked_count, unit_count
from videohpm.config.model import ModelConfig
from videohpm.config.optim import OptimConfig
from videohpm.config.probe import OnlineProbeConfig
from videohpm.config.run import RunConfig
from videohpm.errors import ConfigError
from videohpm.grid import TokenGrid

ASK_THE_MODEL = ("loss_teacher", "student", "attention")
"""Scorers that show clips to a model, which need not see all of their time steps."""


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """All of a pre-training run.

    Args:
        dataset: dataset.yaml (or its folder). On the command line and in recipes data.sampling and
            data.stride are the data set's where they are not given.
    """

    dataset: str | None = None
    run: RunConfig = field(default_factory=RunConfig)
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    mask: MaskConfig = field(default_factory=MaskConfig)
    hpm: HPMConfig = field(default_factory=HPMConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    probe: OnlineProbeConfig = field(default_factory=OnlineProbeConfig)

    def __post_init__(self):
        """What no section can see alone. Raises ConfigError naming the fields."""
        grid, hpm = self.model.grid(), self.hpm
        try:
            masked = masked_count(unit_count(grid, self.mask.unit), self.mask.ratio)
        except ValueError as error:
            raise ConfigError(f"mask.{error}") from None
        if hpm.enabled and hpm.objective == "absolute" and masked < 2:
            raise ConfigError(
                "hpm.objective: absolute standardises the losses of what is masked, and with "
                f"mask.ratio {self.mask.ratio:g} that is one {self.mask.unit}; mask more, or give "
                "relative"
            )
        check_batch(self.optim.global_batch_size, self.engine.accumulation)
        self._check_decoded(grid)
        by_token = self.mask.unit == "token" and grid.t > 1
        if by_token and hpm.enabled and hpm.predictor_unit == "tube":
            raise ConfigError(
                "hpm.predictor_unit: a score a tube cannot choose tokens; with mask.unit token set "
                "hpm.predictor_unit token"
            )
        if self.mask.use == "sample":
            self._check_sampling()
        else:
            self._check_scorer()
        samples = self.teacher_samples
        if samples and samples < 1 and hpm.enabled and hpm.score_readout == "visible":
            raise ConfigError(
                "hpm.teacher_samples_per_tube: below 1 some tubes are not seen, and scores can be "
                "read at visible tubes only; set hpm.score_readout query"
            )
        if by_token and self.scorer in ASK_THE_MODEL and samples and samples < grid.t:
            raise ConfigError(
                f"hpm.teacher_samples_per_tube: with mask.unit token {self.scorer} must see "
                "every time step; set hpm.teacher_samples_per_tube 0"
            )

    def _check_decoded(self, grid: TokenGrid) -> None:
        """What is reconstructed of a tube, or which tubes are."""
        by_tube, share = self.mask.use == "decode", self.mask.decode_ratio
        if by_tube and share == 1:
            raise ConfigError(
                "mask.decode_ratio: with mask.use decode give the share of what is masked that is "
                "reconstructed, less than 1"
            )
        if not by_tube and share < 1 and grid.t == 1 and self.mask.unit == "tube":
            raise ConfigError(
                "mask.decode_ratio: a tube of one time step is decoded whole or not at all; give "
                "1, or mask.use decode"
            )

    def _check_sampling(self) -> None:
        """Clips are chosen by what they were like, and masks at random."""
        mask, hpm, why = self.mask, self.hpm, "with mask.use sample masks are random"
        if mask.scorer not in (MaskConfig.scorer, "none"):
            raise ConfigError(f"mask.scorer: {why}; leave {mask.scorer} out")
        if mask.choice != MaskConfig.choice:
            raise ConfigError(f"mask.choice: {why}; leave {mask.choice} out")
        if hpm.center_scores:
            raise ConfigError(f"hpm.center_scores: {why}, and there are no scores; leave it out")
        if self.model.target == "ema_encoder":
            raise ConfigError(
                f"model.target: {why}, and there is no teacher; ema_encoder needs one"
            )
        if max(hpm.hard_ratio_start, hpm.hard_ratio_end) > LARGEST_SHARE:
            raise ConfigError(
                f"hpm.hard_ratio_start, hpm.hard_ratio_end: with mask.use sample how far a clip's "
                f"share of an epoch lies from 1; give at most {LARGEST_SHARE}"
            )

    def _check_scorer(self) -> None:
        """What needs scores needs a scorer."""
        if self.scorer != "none":
            return
        because = "and there is none" + (
            "; set hpm.enabled true, or another mask.scorer"
            if self.mask.scorer != "none"
            else " with mask.scorer none; give another"
        )
        if self.mask.choice != MaskConfig.choice:
            raise ConfigError(f"mask.choice: {self.mask.choice} ranks by a scorer, {because}")
        if self.mask.use != MaskConfig.use:
            raise ConfigError(f"mask.use: {self.mask.use} ranks by a scorer, {because}")
        if self.hpm.center_scores:
            raise ConfigError(f"hpm.center_scores: centers the scores of a scorer, {because}")

    @staticmethod
    def dataset_defaults(dataset: str) -> dict[str, Any]:
        """Fields, by dotted name, that the data set decides where the user does not."""
        return read_dataset_info(dataset).pretrain_defaults()

    @property
    def scorer(self) -> str:
        """The scorer of the masks: there is no loss teacher without a loss predictor, or where
        clips are chosen and not what is masked."""
        without = self.mask.scorer == "loss_teacher" and not self.hpm.enabled
        without = without or self.mask.use == "sample"
        return "none" if without else self.mask.scorer

    @property
    def teacher_samples(self) -> float | None:
        """At how many of its time steps the teacher sees each tube, below 1 the share of the tubes
        that it sees; None for all steps. See :meth:`videohpm.grid.TokenGrid.staggered_tokens`."""
        given, t = self.hpm.teacher_samples_per_tube, self.model.grid().t
        if given is None:
            if self.mask.unit == "token" and t > 1:
                return None
            return 1 if self.hpm.score_readout == "visible" else (2 / 7 if t == 1 else 2 / 3)
        return given or None

    def model_config(self, target_dim: int | None = None) -> MAEConfig:
        """The architecture, for :class:`videohpm.MaskedAutoencoder`.

        Args:
            target_dim: values of a token that are predicted; None for its pixels.
        """
        hpm = self.hpm
        return mae_config(
            **self.model.architecture(),
            target_dim=None if target_dim == self.model.grid().patch_dim else target_dim,
            predictor_unit=hpm.predictor_unit if hpm.enabled else None,
            predictor_depth=hpm.predictor_depth,
            predictor_detach=hpm.predictor_detach,
        )
