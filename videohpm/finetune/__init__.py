"""Fine-tuning of a pre-trained encoder, for classes or numbers, and probing it frozen."""

from videohpm.config import FinetuneConfig
from videohpm.finetune.run import Finetuning, finetune
from videohpm.finetune.start import start_classifier

__all__ = ["FinetuneConfig", "Finetuning", "finetune", "start_classifier"]
