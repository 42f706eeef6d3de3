"""Trained models put to the test: multi-view accuracy, probes, features, predictions."""

from videohpm.evaluate.command import EvaluateConfig, SamplesConfig, check_kind, evaluate
from videohpm.evaluate.extraction import Features, extract, read_features, write_features
from videohpm.evaluate.knn import knn_probabilities
from videohpm.evaluate.linear import attentive_probabilities, linear_probabilities
from videohpm.evaluate.load import BEST, Loaded, about_classifier, find, load
from videohpm.evaluate.metrics import accuracy, confusion
from videohpm.evaluate.multiview import Scores, score
from videohpm.evaluate.prediction import (
    Prediction,
    features,
    features_command,
    predict,
    predict_command,
)
from videohpm.evaluate.probing import ProbeConfig, probe
from videohpm.evaluate.protocol import Protocol, ViewConfig
from videohpm.evaluate.ranks import Ranks, join_ranks
from videohpm.evaluate.results import UNREADABLE, sentence, write_results

__all__ = [
    "BEST",
    "UNREADABLE",
    "EvaluateConfig",
    "Features",
    "Loaded",
    "Prediction",
    "ProbeConfig",
    "Protocol",
    "Ranks",
    "SamplesConfig",
    "Scores",
    "ViewConfig",
    "about_classifier",
    "accuracy",
    "attentive_probabilities",
    "check_kind",
    "confusion",
    "evaluate",
    "extract",
    "features",
    "features_command",
    "find",
    "join_ranks",
    "knn_probabilities",
    "linear_probabilities",
    "load",
    "predict",
    "predict_command",
    "probe",
    "read_features",
    "score",
    "sentence",
    "write_features",
    "write_results",
]
