"""What a model and its teacher see, as arrays, pictures and animations.

``inspect`` gives plain arrays, which everything else draws: ``image_grid`` and ``animation`` to the
pixel, ``figure`` with matplotlib. ``visualize`` is the command, ``inspect_videos`` its arrays.
"""

from videohpm.visualize.command import inspect_videos, visualize
from videohpm.visualize.compare import hidden_picture, run_label
from videohpm.visualize.diagnostics import calibration, diagnostics
from videohpm.visualize.figure import figure
from videohpm.visualize.files import gif_bytes, write
from videohpm.visualize.inspection import Inspection, inspect
from videohpm.visualize.pictures import (
    ROWS,
    animation,
    image_grid,
    row_frames,
    training_animation,
    training_picture,
)

__all__ = [
    "ROWS",
    "Inspection",
    "calibration",
    "diagnostics",
    "figure",
    "animation",
    "gif_bytes",
    "hidden_picture",
    "inspect",
    "inspect_videos",
    "row_frames",
    "run_label",
    "image_grid",
    "training_animation",
    "training_picture",
    "visualize",
    "write",
]
