"""Configuration of a plan: a pre-training run, and the GPUs it is meant for."""

from __future__ import annotations

from dataclasses import dataclass

from videohpm.config.checks import Section
from videohpm.config.engine import STAGES, check_batch
from videohpm.config.pretrain import PretrainConfig


@dataclass(frozen=True)
class Gpu:
    """A kind of GPU, by its maker's data sheet."""

    bf16: float
    """Dense matrix products in bf16 with fp32 sums, FLOP/s."""
    fp32: float
    """The same in fp32, without TF32."""
    memory: float
    """Bytes."""
    watts: float
    link: float
    """Bytes a second to the others of its machine, in one direction."""


GPUS = {
    "b200": Gpu(2250e12, 75e12, 180e9, 1000, 900e9),
    "h200": Gpu(989e12, 67e12, 141e9, 700, 450e9),
    "h100": Gpu(989e12, 67e12, 80e9, 700, 450e9),
    "a100": Gpu(312e12, 19.5e12, 80e9, 400, 300e9),
    "a100_40gb": Gpu(312e12, 19.5e12, 40e9, 400, 300e9),
    "l40s": Gpu(362e12, 91.6e12, 48e9, 350, 32e9),
    "rtx4090": Gpu(165e12, 82.6e12, 24e9, 450, 32e9),
    "v100": Gpu(0, 15.7e12, 32e9, 300, 150e9),
}


@dataclass(frozen=True, kw_only=True)
class PlanConfig(PretrainConfig):
    """A pre-training run, and the GPUs it is to run on.

    Args:
        gpus: how many.
        gpu: b200, h200, h100, a100, a100_40gb, l40s, rtx4090 or v100.
        zero: ZeRO stage, instead of engine.zero_stage.
        utilisation: share of the GPU's data-sheet FLOP/s that the steps reach.
        samples: clips in the data set; without it, and without run.steps, the length of the run is
            unknown.
        overhead: power of the machine and its cooling, as a multiple of the GPUs' own.
        clips_per_core: clips that a CPU core reads and crops in a second, those of data.repeats
            counted, as ``videohpm data bench`` measures them; by default what was measured of
            videos as they are and of a copy of key frames alone.
    """

    gpus: int = 8
    gpu: str = "h100"
    zero: int | None = None
    utilisation: float = 0.35
    samples: int | None = None
    overhead: float = 1.4
    clips_per_core: float | None = None

    def __post_init__(self):
        super().__post_init__()
        check = Section(self)
        check.choice("gpu", GPUS)
        check.choice("zero", (None, *STAGES))
        check.fraction("utilisation", zero=False)
        check.above_zero("clips_per_core")
        check.at_least(1, "gpus", "samples")
        batch, accumulation = self.optim.global_batch_size, self.engine.accumulation
        check_batch(batch, accumulation, self.gpus, per="GPUs")

    @property
    def micro_batch(self) -> int:
        """Clips that one GPU works on at a time."""
        return (
            self.optim.global_batch_size
            * self.data.repeats
            // (self.gpus * self.engine.accumulation)
        )

    @property
    def stage(self) -> int:
        """The ZeRO stage meant; 0 with one GPU, where nothing is divided."""
        for stage in (self.zero, self.engine.zero_stage):
            if stage is not None:
                return stage
        return 1 if self.gpus > 1 else 0

    @property
    def precision(self) -> str:
        """bf16 or fp32, as the engine would choose on this GPU."""
        if self.engine.precision != "auto":
            return self.engine.precision
        return "bf16" if GPUS[self.gpu].bf16 else "fp32"


@dataclass(frozen=True, kw_only=True)
class BenchConfig(PlanConfig):
    """What reading a list of videos or images costs, for a planned pre-training run.

    Nothing is trained. Give the run's own configuration (with data.root or data.manifest) and the
    GPUs it is meant for. A few files are copied to a temporary folder to see what that gains.

    Args:
        files: samples of the list that are read, spread over it.
        clips: read of each form and reader in a round.
        rounds: of which the medians are shown.
        short_side: of the copies, pixels.
    """

    files: int = 8
    clips: int = 8
    rounds: int = 3
    short_side: int = 256

    def __post_init__(self):
        super().__post_init__()
        check = Section(self)
        check.at_least(1, "files", "clips", "rounds")
        check.at_least(2, "short_side")
