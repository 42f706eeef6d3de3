"""How a clip of the shapes is drawn: where its object goes, the object, and the ground."""

from dataclasses import dataclass

import numpy as np

SHAPES = ("square", "triangle", "cross", "ring")
MOTIONS = ("left", "right", "up", "down", "clockwise", "anticlockwise", "grow", "shrink")


@dataclass(frozen=True)
class Track:
    """Where the object is: T frames, in pixels and radians, x to the right, y downwards."""

    centre: np.ndarray  # (T, 2) float32: x, y; the centre of the top left pixel is (0, 0)
    radius: np.ndarray  # (T,) float32: of the unit of signed_distance, about that of the object
    angle: np.ndarray  # (T,) float32: grows clockwise


# --- the object ---------------------------------------------------------------------------------


def make_track(
    motion: str, frames: int, size: int, rng: np.random.Generator, scale: float = 1.0
) -> Track:
    """The object's way through one clip: a part of a loop that begins at a random moment.

    Four phases in [0, 1) place the object on x, y, size and angle. All start uniformly at random
    and the motion moves one of them on: equal draws in equal order for every motion keep the
    distribution of any single frame independent of it, and that of the place uniform over the
    frame. Opposite sides of the frame are joined, so going on and turning need no jump; a size
    changes for one clip and starts over. A whole turn takes about three clips, slow enough that a
    square still turns visibly one way at every second frame.
    """
    start = rng.random(4)
    travel = rng.uniform(0.3, 0.45)
    growth = rng.uniform(1.7, 1.9)
    radius = scale * size * rng.uniform(0.22, 0.25)
    turns = rng.uniform(0.26, 0.36)
    axis, step = {"left": (0, -travel), "right": (0, travel),
                  "up": (1, -travel), "down": (1, travel), "shrink": (2, -1), "grow": (2, 1),
                  "anticlockwise": (3, -turns), "clockwise": (3, turns)}[motion]  # fmt: skip
    phase = np.repeat(start[None], frames, 0)
    phase[:, axis] = (phase[:, axis] + step * np.arange(frames) / frames) % 1.0
    return Track(
        centre=(size * phase[:, :2] - 0.5).astype(np.float32),
        radius=(radius * growth ** (phase[:, 2] - 0.5)).astype(np.float32),
        angle=(2 * np.pi * phase[:, 3]).astype(np.float32),
    )


def signed_distance(shape: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Distance to the outline of a shape of radius 1 at the origin, negative inside.

    The proportions give all shapes about the same area (1.8 to 2.3 squared radii). Near outer
    corners it is a lower bound of the distance, which is all that drawing needs.
    """
    if shape == "square":
        return np.maximum(np.abs(x), np.abs(y)) - 0.76
    if shape == "triangle":
        sides = [np.cos(a) * x + np.sin(a) * y for a in (np.pi / 2, np.pi * 7 / 6, -np.pi / 6)]
        return np.maximum.reduce(sides) - 0.59
    if shape == "cross":
        x, y = np.abs(x), np.abs(y)
        return np.minimum(np.maximum(x - 0.98, y - 0.33), np.maximum(x - 0.33, y - 0.98))
    return np.abs(np.hypot(x, y) - 0.74) - 0.26  # ring


def draw_object(shape: str, track: Track, size: int, mark: float) -> tuple[np.ndarray, np.ndarray]:
    """Coverage of each pixel by the object, and its shading there; both (T, H, W) in [0, 1].

    What is over one side of the frame is drawn at the opposite one: the object is always whole, and
    no place of the frame is covered more often than another. (One that is wider than the frame
    ends where it would meet itself.)

    The shading runs from 0 to 1 across the object, at angle `mark` to the shape. It is the same
    for every shape, shows the turning of shapes that look alike when turned, and leaves no patch
    flat (a flat patch is nothing but coding noise once a target is normalised).
    """
    grid = np.arange(size, dtype=np.float32)
    x = grid[None, None, :] - track.centre[:, 0, None, None]
    y = grid[None, :, None] - track.centre[:, 1, None, None]
    x, y = x - size * np.round(x / size), y - size * np.round(y / size)  # from the nearest copy
    radius, angle = track.radius[:, None, None], track.angle[:, None, None]
    cos, sin = np.cos(angle), np.sin(angle)
    right, down = cos * x + sin * y, cos * y - sin * x
    distance = radius * signed_distance(shape, right / radius, down / radius)
    along = (float(np.cos(mark)) * right + float(np.sin(mark)) * down) / radius
    return np.clip(0.5 - distance, 0, 1), np.clip(0.5 + along / 1.7, 0, 1)


# --- the picture --------------------------------------------------------------------------------


def draw_background(frames: int, size: int, rng: np.random.Generator) -> np.ndarray:
    """(T, H, W, 3): two gratings on a colour gradient, panning slowly in a random direction.

    Everything is smooth and regular, so what is hidden can be inferred from what is visible, and
    the contrast is high enough in each patch to survive compression.
    """
    heading, pace = rng.uniform(0, 2 * np.pi), size / 64 * rng.uniform(0, 0.25)
    time = pace * np.arange(frames)[:, None, None]
    grid = np.arange(size)
    x = (grid[None, None, :] - np.cos(heading) * time).astype(np.float32)
    y = (grid[None, :, None] - np.sin(heading) * time).astype(np.float32)
    colour = (0.32 + rng.uniform(-0.06, 0.06, 3)).astype(np.float32)
    picture = np.broadcast_to(colour, (frames, size, size, 3)).copy()
    for wave, height in ((rng.uniform(0.22, 0.34), 0.075), (rng.uniform(0.3, 0.5), 0.06)):
        slope, phase = rng.uniform(0, 2 * np.pi, 2)
        step = 2 * np.pi / (wave * size)
        steps = float(step * np.cos(slope)) * x + float(step * np.sin(slope)) * y + float(phase)
        picture += np.sin(steps)[..., None] * (height * rng.uniform(0.7, 1, 3)).astype(np.float32)
    slope = rng.uniform(0, 2 * np.pi)
    ramp = (float(np.cos(slope)) * x + float(np.sin(slope)) * y) / size
    picture += (ramp - ramp.mean())[..., None] * rng.uniform(-0.1, 0.1, 3).astype(np.float32)
    return picture
