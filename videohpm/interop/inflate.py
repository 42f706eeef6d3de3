"""An image model made into a video model that sees a repeated frame as the image."""

from __future__ import annotations

from dataclasses import replace

from videohpm.config.architecture import with_encoder
from videohpm.errors import UserError
from videohpm.interop.core import Weights
from videohpm.interop.report import ConversionReport
from videohpm.models.adapt import adapt_tensor


def inflate(weights: Weights, tubelet: int, frames: int, report: ConversionReport) -> None:
    """Give every patch ``tubelet`` frames and the clip ``frames``; changes ``weights``.

    The patch embedding is repeated over the tubelet and divided by its length (as published video
    models start from images); the pixel head predicts each frame alike; a learned position table
    is repeated over time, sin-cos tables are computed for the longer clip.

    Raises UserError when the model is no image model, or tubelets do not tile the clip.
    """
    grid = weights.grid
    if grid.tubelet != 1 or grid.t != 1:
        raise UserError(
            f"inflate: {report.source} is a video model already ({grid.frames} frames, tubelets "
            f"of {grid.tubelet}); leave inflate out"
        )
    encoder = replace(weights.encoder_config, tubelet=tubelet, frames=frames)
    weights.config = with_encoder(weights.config, encoder)
    for tensors in filter(None, (weights.tensors, weights.teacher)):
        for name, tensor in tensors.items():
            tensors[name] = adapt_tensor(name, tensor, grid, weights.grid)
    report.note(f"inflated from images to {frames} frames in tubelets of {tubelet}")
