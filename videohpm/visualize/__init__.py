"""See what the model and its teacher see: arrays, pictures, films."""

from videohpm.visualize.inspection import Inspection, inspect, predicted_pixels
from videohpm.visualize.pictures import row_frames, sheet, training_picture

__all__ = [
    "Inspection",
    "inspect",
    "predicted_pixels",
    "row_frames",
    "sheet",
    "training_picture",
]
