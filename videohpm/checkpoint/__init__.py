"""Weights out and in; checkpoints that a crash at any byte cannot spoil.

A folder of weights, whether a checkpoint or an export, holds ``model.safetensors`` and
``config.json`` (which model, in which configuration); ``teacher.safetensors`` where there is
a teacher. A checkpoint adds what a run needs to go on.

============== ==============================================================================
weights        a model out and in, and its teacher
metadata       what stands beside weights: which model, and how its run went
runs           a checkpoint of a run, written and read by any number of ranks
folders        where weights lie; how checkpoint folders appear and go in one move
resume         which checkpoint a run goes on from
soundness      whether a checkpoint holds what was written to it
checksums      what tells that a file holds what was written to it
stream         safetensors files written tensor by tensor
============== ==============================================================================
"""

from videohpm.checkpoint.folders import (
    BEST,
    check_writable,
    checkpoints,
    find_weights,
    latest,
    set_aside,
    tidy,
)
from videohpm.checkpoint.metadata import (
    CUT,
    FORMAT,
    OWN,
    VERSION,
    read_config,
    read_described,
    read_metadata,
)
from videohpm.checkpoint.resume import going_on_from, note_not_finite, to_resume
from videohpm.checkpoint.runs import Saved, restore, restore_moments, save
from videohpm.checkpoint.soundness import find_damage, newest_sound, read_state
from videohpm.checkpoint.weights import (
    OF_WHOLE,
    load_encoder,
    load_model,
    load_teacher,
    save_weights,
)

__all__ = [
    "BEST",
    "CUT",
    "FORMAT",
    "OF_WHOLE",
    "OWN",
    "VERSION",
    "Saved",
    "check_writable",
    "checkpoints",
    "find_damage",
    "find_weights",
    "going_on_from",
    "latest",
    "load_encoder",
    "load_model",
    "load_teacher",
    "newest_sound",
    "note_not_finite",
    "read_config",
    "read_described",
    "read_metadata",
    "read_state",
    "restore",
    "restore_moments",
    "save",
    "save_weights",
    "set_aside",
    "tidy",
    "to_resume",
]
