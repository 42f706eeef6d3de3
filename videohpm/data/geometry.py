"""Size and orientation of pictures: one rule for every reader, the probe and the scan.

- A display matrix turns pictures by quarter turns and mirrors them (eight orientations, applied).
  Turns that are less than a degree off are those; any other angle is refused.
- Pixel aspect ratios are not applied, by any reader: frames have the stored pixels. Published
  models were trained and tested on these (decord knows no others), and resized copies of the usual
  data sets often keep a ratio that would undo the resizing. A scan counts the files whose pixels
  are not square; ``videohpm data transcode --square_pixels true`` copies them as displayed.
- A video ends where its stored size or its orientation changes, as it does at damage.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple, cast

import numpy as np

_MOST_OFF = math.sin(math.radians(1.0))


class Orientation(NamedTuple):
    """How stored pictures become upright: first transposed, then flipped."""

    transpose: bool = False
    flip_columns: bool = False
    flip_rows: bool = False

    def turn(self, pixels: np.ndarray) -> np.ndarray:
        """(H, W, …) as stored to (H, W, …) or (W, H, …) as displayed: a view."""
        if self.transpose:
            pixels = pixels.swapaxes(0, 1)
        return pixels[:: -1 if self.flip_rows else 1, :: -1 if self.flip_columns else 1]


UPRIGHT = Orientation()


def orientation(frame: Any) -> Orientation | None:
    """What the PyAV frame's display matrix says; upright without one; None for other angles.

    The matrix (ISO 14496-12, 8.2.2: a b u c d v x y w) takes a stored pixel (p, q), column and row,
    to (a p + c q, b p + d q), up to a shift.
    """
    # Not frame.side_data: that is kept with the frame and refers to it, and in such a ring every
    # decoded picture waits for the garbage collector.
    from av.sidedata.sidedata import SideDataContainer

    sides = cast("Any", SideDataContainer)(frame)
    data = next((one for one in sides if one.type.name == "DISPLAYMATRIX"), None)
    if data is None:
        return UPRIGHT
    matrix = np.frombuffer(bytes(data), np.int32).reshape(3, 3)[:2, :2].astype(float)
    if not matrix.any():
        return UPRIGHT  # a matrix of zeros is one that was left out
    matrix /= np.maximum(np.hypot(matrix[0], matrix[1]), 1)
    transpose = abs(matrix[0, 1]) > abs(matrix[0, 0])
    along = matrix[::-1] if transpose else matrix
    if abs(along[0, 1]) > _MOST_OFF or abs(along[1, 0]) > _MOST_OFF or not np.diag(along).all():
        return None
    if transpose:
        return Orientation(True, bool(matrix[1, 0] < 0), bool(matrix[0, 1] < 0))
    return Orientation(False, bool(matrix[0, 0] < 0), bool(matrix[1, 1] < 0))


def geometry(frame: Any) -> tuple[int, int, Orientation | None]:
    """What must not change within a video: stored height and width, orientation."""
    return frame.height, frame.width, orientation(frame)
