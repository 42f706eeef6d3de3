"""Evaluation of trained models: multi-view accuracy, probes, features, predictions."""

from videohpm.config import EvaluateConfig, ProbeConfig, SamplesConfig, ViewConfig
from videohpm.evaluate.command import check_kind, evaluate
from videohpm.evaluate.extraction import Features, extract, read_features, write_features
from videohpm.evaluate.knn import knn_probabilities
from videohpm.evaluate.linear import attentive_probabilities, linear_probabilities
from videohpm.evaluate.load import Loaded, classifier_metadata, load
from videohpm.evaluate.metrics import accuracy, confusion
from videohpm.evaluate.multiview import Scores, score
from videohpm.evaluate.online import OnlineProbe, Rows, labelled_manifest, read_labelled
from videohpm.evaluate.prediction import (
    Prediction,
    features,
    features_command,
    predict,
    predict_command,
)
from videohpm.evaluate.probing import probe
from videohpm.evaluate.processes import EvalProcesses, init_eval_processes
from videohpm.evaluate.protocol import EvalProtocol
from videohpm.evaluate.results import UNREADABLE, sentence, write_results
from videohpm.evaluate.tasks import TASKS, MultiLabel, OutputTask, Regression, as_tensor

__all__ = [
    "TASKS",
    "UNREADABLE",
    "MultiLabel",
    "OutputTask",
    "Regression",
    "as_tensor",
    "EvaluateConfig",
    "Features",
    "Loaded",
    "OnlineProbe",
    "Prediction",
    "Rows",
    "ProbeConfig",
    "EvalProtocol",
    "EvalProcesses",
    "SamplesConfig",
    "Scores",
    "ViewConfig",
    "classifier_metadata",
    "accuracy",
    "attentive_probabilities",
    "check_kind",
    "confusion",
    "evaluate",
    "extract",
    "features",
    "features_command",
    "init_eval_processes",
    "knn_probabilities",
    "labelled_manifest",
    "linear_probabilities",
    "load",
    "predict",
    "predict_command",
    "probe",
    "read_features",
    "read_labelled",
    "score",
    "sentence",
    "write_features",
    "write_results",
]
