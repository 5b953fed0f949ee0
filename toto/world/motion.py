"""How solids move: trajectories from a few numbers, eased in and out."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

# A carried solid rises for the first quarter of its time and comes down in the last.
_RISE = 0.25


@dataclass(frozen=True)
class Span:
    """The frames of a movement: it leaves rest at `start` and is at rest again after `length`."""

    start: int
    length: int

    def phase(self, frames: int) -> Float64[np.ndarray, " frames"]:
        """How much of the movement's time has passed in each frame, 0 to 1."""
        return np.clip((np.arange(frames) - self.start) / self.length, 0.0, 1.0)


def ease(x: Float64[np.ndarray, "*n"]) -> Float64[np.ndarray, "*n"]:
    """The smooth step from 0 to 1 while `x` goes from 0 to 1; symmetric in time."""
    x = np.clip(x, 0.0, 1.0)
    return x * x * (3 - 2 * x)


def slide(
    start: Float64[np.ndarray, "3"], end: Float64[np.ndarray, "3"], span: Span, frames: int
) -> Float64[np.ndarray, "frames 3"]:
    """Positions of a straight slide."""
    return start + ease(span.phase(frames))[:, None] * (end - start)


def pick_place(
    start: Float64[np.ndarray, "3"],
    end: Float64[np.ndarray, "3"],
    height: float,
    span: Span,
    frames: int,
) -> Float64[np.ndarray, "frames 3"]:
    """Positions of a solid that is lifted by `height`, carried to above `end` and put down."""
    phase = span.phase(frames)
    positions = start + ease((phase - _RISE) / (1 - 2 * _RISE))[:, None] * (end - start)
    positions[:, 2] += height * ease(np.minimum(phase, 1 - phase) / _RISE)
    return positions


def upright(yaw: Float64[np.ndarray, " frames"]) -> Float64[np.ndarray, "frames 3 3"]:
    """Rotations by `yaw` (radians) about the vertical axis."""
    rotations = np.zeros((len(yaw), 3, 3))
    rotations[:, 0, 0] = rotations[:, 1, 1] = np.cos(yaw)
    rotations[:, 1, 0] = np.sin(yaw)
    rotations[:, 0, 1] = -rotations[:, 1, 0]
    rotations[:, 2, 2] = 1.0
    return rotations
