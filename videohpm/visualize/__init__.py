"""See what the model and its teacher see: arrays, pictures, films.

``inspect`` gives plain arrays, which everything else draws: ``sheet`` and ``film`` to the pixel,
``figure`` with matplotlib. ``visualize`` is the command, ``inspect_videos`` its arrays.
"""

from videohpm.visualize.command import inspect_videos, visualize
from videohpm.visualize.diagnostics import calibration, diagnostics
from videohpm.visualize.figure import figure
from videohpm.visualize.files import gif_bytes, write
from videohpm.visualize.inspection import Inspection, inspect, predicted_pixels
from videohpm.visualize.pictures import (
    ROWS,
    film,
    row_frames,
    sheet,
    training_film,
    training_picture,
)

__all__ = [
    "ROWS",
    "Inspection",
    "calibration",
    "diagnostics",
    "figure",
    "film",
    "gif_bytes",
    "inspect",
    "inspect_videos",
    "predicted_pixels",
    "row_frames",
    "sheet",
    "training_film",
    "training_picture",
    "visualize",
    "write",
]
