"""The configuration of every command: dataclasses, their checks and the names they accept.

Nothing here imports torch, so that help and the errors of wrong input are quick. Each class
documents its fields.

============== ==============================================================================
checks         checks of single fields, used by all classes
plain          a config as YAML and JSON hold it, and back
run            :class:`RunConfig`: length, seed, checkpoints, logging
data           :class:`DataConfig`: what is read, and how clips are cut
dataset_info   :class:`DatasetInfo`: what a dataset.yaml says, which recipes refer to
sizes          the published sizes of vision transformers
architecture   :class:`ViTConfig`, :class:`MAEConfig` ...: what a model is built from
model          :class:`ModelConfig`: the masked autoencoder
mask           :class:`MaskConfig`: what is hidden
hpm            :class:`HPMConfig`: loss predictor, teacher, easy to hard
optim          :class:`OptimConfig`: AdamW and the learning rate of every step
engine         :class:`EngineConfig`: device, precision, processes
pretrain       :class:`PretrainConfig`: all of a pre-training run
finetune       :class:`FinetuneConfig` and its sections
evaluate       :class:`EvaluateConfig`, :class:`ProbeConfig` and their sections
tasks          what a label is (a class, several, a number), and its metrics
probe          :class:`OnlineProbeConfig`: looks at a run while it trains
plan           :class:`PlanConfig`, :class:`BenchConfig`, and the known GPUs
options        options of the commands that take no configuration file
convert        options of convert and export; :class:`ReadOptions`: what files do not say
============== ==============================================================================
"""

from videohpm.config.architecture import (
    DecoderConfig,
    MAEConfig,
    PredictorConfig,
    VideoClassifierConfig,
    ViTConfig,
    classifier_config,
    mae_config,
    vit_config,
)
from videohpm.config.convert import ReadOptions
from videohpm.config.data import DataConfig
from videohpm.config.dataset_info import DatasetInfo, read_dataset_info
from videohpm.config.engine import EngineConfig
from videohpm.config.evaluate import EvaluateConfig, ProbeConfig, SamplesConfig, ViewConfig
from videohpm.config.finetune import (
    AugmentConfig,
    ClassifierConfig,
    FinetuneConfig,
    LossConfig,
    ValidationConfig,
)
from videohpm.config.hpm import HPMConfig
from videohpm.config.mask import MaskConfig
from videohpm.config.model import ModelConfig
from videohpm.config.optim import OptimConfig
from videohpm.config.plain import as_plain, from_plain
from videohpm.config.plan import BenchConfig, PlanConfig
from videohpm.config.pretrain import PretrainConfig
from videohpm.config.probe import OnlineProbeConfig
from videohpm.config.run import RunConfig
from videohpm.config.sizes import SIZES, size_of

__all__ = [
    "BenchConfig",
    "SIZES",
    "AugmentConfig",
    "ClassifierConfig",
    "DataConfig",
    "DatasetInfo",
    "DecoderConfig",
    "EngineConfig",
    "EvaluateConfig",
    "FinetuneConfig",
    "HPMConfig",
    "LossConfig",
    "MAEConfig",
    "MaskConfig",
    "ModelConfig",
    "OnlineProbeConfig",
    "OptimConfig",
    "PlanConfig",
    "PredictorConfig",
    "PretrainConfig",
    "ProbeConfig",
    "ReadOptions",
    "RunConfig",
    "SamplesConfig",
    "ValidationConfig",
    "ViTConfig",
    "VideoClassifierConfig",
    "ViewConfig",
    "as_plain",
    "classifier_config",
    "from_plain",
    "mae_config",
    "read_dataset_info",
    "size_of",
    "vit_config",
]
