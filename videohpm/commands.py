"""The commands of ``videohpm``: the options of each, and what does its work.

A command is a function, which takes a config or the options that are declared for it. It returns an
exit code, or something to print, or nothing. Options are declared and checked in
:mod:`videohpm.config`, which imports no torch: help and the errors of wrong input are quick. What
does the work is named here and imported when the input is known to be right.
"""

from collections.abc import Callable
from typing import NamedTuple

from videohpm import config
from videohpm.config import convert, options


class Command(NamedTuple):
    """What the command line needs to know of a command, without importing what it does."""

    options: Callable
    """A config dataclass, or a function of :mod:`videohpm.config.options` or
    :mod:`~videohpm.config.convert`: its parameters and their documentation are the options;
    calling it checks them."""
    target: str
    """module:function that does the work, given the config, or the same arguments."""
    summary: str
    init_defaults: str = ""
    """module:function of the parsed config that gives the defaults that follow from the weights in
    ``model.init``."""


COMMANDS = {
    "demo": Command(
        options.demo, "videohpm.demo:demo", "make small videos and train a tiny model, in minutes"
    ),
    "pretrain": Command(
        config.PretrainConfig,
        "videohpm.pretrain:pretrain",
        "train a masked autoencoder on unlabelled clips",
        "videohpm.interop.start:init_defaults",
    ),
    "plan": Command(
        config.PlanConfig,
        "videohpm.plan:plan",
        "what a pre-training run will need",
        "videohpm.interop.start:init_defaults",
    ),
    "visualize": Command(
        options.visualize,
        "videohpm.visualize:visualize",
        "draw what a model and its teacher see",
    ),
    "report": Command(
        options.report, "videohpm.report:report", "put runs side by side in one page"
    ),
    "explore": Command(
        options.explore, "videohpm.report:explore", "serve that page here and follow a run"
    ),
    "finetune": Command(
        config.FinetuneConfig,
        "videohpm.finetune:finetune",
        "train a classifier that starts from an encoder",
        "videohpm.finetune.start:init_defaults",
    ),
    "evaluate": Command(
        config.EvaluateConfig,
        "videohpm.evaluate:evaluate",
        "test a classifier on several views of each video",
    ),
    "probe": Command(
        config.ProbeConfig,
        "videohpm.evaluate:probe",
        "linear, attentive and k-NN probes of frozen features",
    ),
    "features": Command(
        options.features,
        "videohpm.evaluate:features_command",
        "frozen features of videos or images",
    ),
    "predict": Command(
        options.predict,
        "videohpm.evaluate:predict_command",
        "the most probable classes of videos",
    ),
    "export": Command(
        convert.export, "videohpm.interop:export", "weights of a run, for use elsewhere"
    ),
    "data prepare": Command(
        options.prepare, "videohpm.prepare:prepare", "manifests from official annotations"
    ),
    "data scan": Command(
        options.scan, "videohpm.data.scan:scan", "check every file; a manifest of the good ones"
    ),
    "data readers": Command(
        options.readers,
        "videohpm.data.readers:list_readers",
        "which readers are there, what they read, and why not",
    ),
    "data bench": Command(
        config.BenchConfig,
        "videohpm.plan.bench:bench",
        "what reading your list costs, and how many cores a run needs",
    ),
    "data transcode": Command(
        options.transcode, "videohpm.data.transcode:transcode", "a copy for fast random access"
    ),
    "convert": Command(
        convert.convert, "videohpm.interop:convert", "to and from other systems' checkpoints"
    ),
}
