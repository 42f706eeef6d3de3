"""What pre-training and fine-tuning share: resume, read, step, log, evaluate, save, stop."""

from videohpm.training.run import TrainingRun, nothing_to_do, read_once

__all__ = ["TrainingRun", "nothing_to_do", "read_once"]
