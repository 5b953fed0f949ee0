"""The camera of the world, still or moving: a matrix from world to image, its inverse as rays."""

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64

Frames = slice | np.ndarray  # which frames of a video: a range, or their numbers

# CATER's un-jittered camera (SPECS 8.4): world (x, y, z, 1) to image x, image y and depth, on 4:3.
_CATER = np.array(
    [
        [1.4503, 1.6376, 0.0, -0.0251],
        [-1.0346, 0.9163, 2.5685, 0.0095],
        [-0.6592, 0.5839, -0.4738, 10.7452],
    ]
)
# The same camera's focal length in halves of the image's sides: 35 mm before a film of 32 mm.
CATER_FOCAL = (2 * 35 / 32, 2 * 35 / 32 * 4 / 3)


class View(NamedTuple):
    """A camera at some frames; the first axis is 1 where it stands still."""

    home: "Camera"  # where it was at first: the lamps stand relative to that
    matrices: Float64[np.ndarray, "views 3 4"]
    rays: Float64[np.ndarray, "views 3 3"]
    eyes: Float64[np.ndarray, "views 3"]

    def project(
        self, points: Float64[np.ndarray, "frames points 3"]
    ) -> Float64[np.ndarray, "frames points 3"]:
        """World points in each frame to image x, image y and depth, which may be negative."""
        image = points @ self.matrices[:, :, :3].transpose(0, 2, 1) + self.matrices[:, None, :, 3]
        image[..., :2] /= image[..., 2:]
        return image


@dataclass(frozen=True, eq=False)
class Camera:
    """A perspective camera that stands still.

    `matrix` takes (x, y, z, 1) to (x * depth, y * depth, depth); image x goes right and image y up,
    both from -1 to 1, and depth is the distance along the optical axis in world units.
    """

    matrix: Float64[np.ndarray, "3 4"]

    @property
    def home(self) -> "Camera":
        """Itself: it never leaves its first place."""
        return self

    @cached_property
    def rays(self) -> Float64[np.ndarray, "3 3"]:
        """Takes image (x, y, 1) to the direction along which depth grows by one per step."""
        return np.linalg.inv(self.matrix[:, :3])

    @cached_property
    def position(self) -> Float64[np.ndarray, "3"]:
        """Where the camera stands."""
        return -self.rays @ self.matrix[:, 3]

    @cached_property
    def right(self) -> Float64[np.ndarray, "2"]:
        """The unit direction on the floor that goes to the right in the image at constant depth."""
        away = self.away
        return np.array([away[1], -away[0]])

    @cached_property
    def away(self) -> Float64[np.ndarray, "2"]:
        """The unit direction on the floor that goes straight away from the camera."""
        forward = self.matrix[2, :2]
        return forward / np.hypot(*forward)

    def project(self, points: Float64[np.ndarray, "*n 3"]) -> Float64[np.ndarray, "*n 3"]:
        """World points to image x, image y (-1 to 1, y up) and depth."""
        image = points @ self.matrix[:, :3].T + self.matrix[:, 3]
        image[..., :2] /= image[..., 2:]
        return image

    def view(self, frames: Frames) -> View:
        """The camera at some frames of a video."""
        return View(self, self.matrix[None], self.rays[None], self.position[None])


@dataclass(frozen=True, eq=False)
class CameraPath:
    """A camera that moves: one matrix as `Camera`'s for each frame."""

    matrices: Float64[np.ndarray, "frames 3 4"]

    @cached_property
    def home(self) -> Camera:
        """The camera of the first frame."""
        return Camera(self.matrices[0])

    @cached_property
    def rays(self) -> Float64[np.ndarray, "frames 3 3"]:
        """Each frame's `Camera.rays`."""
        return np.linalg.inv(self.matrices[:, :, :3])

    @cached_property
    def positions(self) -> Float64[np.ndarray, "frames 3"]:
        """Where the camera is in each frame."""
        return -np.einsum("fij,fj->fi", self.rays, self.matrices[:, :, 3])

    def view(self, frames: Frames) -> View:
        """The camera at some frames of a video."""
        return View(self.home, self.matrices[frames], self.rays[frames], self.positions[frames])


def look_at(
    eyes: Float64[np.ndarray, "frames 3"],
    targets: Float64[np.ndarray, "frames 3"],
    focal: tuple[float, float],
) -> Float64[np.ndarray, "frames 3 4"]:
    """Matrices of upright cameras at `eyes` that have `targets` in the middle of their image.

    `focal` is the focal length in half widths and half heights of the image.
    """
    ahead = targets - eyes
    ahead = ahead / np.linalg.norm(ahead, axis=-1, keepdims=True)
    right = np.stack([ahead[:, 1], -ahead[:, 0], np.zeros(len(ahead))], 1)
    right /= np.linalg.norm(right, axis=-1, keepdims=True)
    up = np.cross(right, ahead)
    axes = np.stack([focal[0] * right, focal[1] * up, ahead], 1)
    return np.concatenate([axes, -np.einsum("fij,fj->fi", axes, eyes)[..., None]], 2)


def wide_cater_camera() -> Camera:
    """CATER's camera on its whole frame of 4:3, without jitter (SPECS 8.4)."""
    return Camera(_CATER)


def cater_camera(rise: float = 0.0) -> Camera:
    """CATER's camera on the central square of its 320 x 240 frame (SPECS 8.4).

    `rise` moves that square up over the image plane, in half sides: more room above the solids,
    less in front of them, and the same perspective.
    """
    matrix = _CATER * np.array([[4 / 3], [1.0], [1.0]])
    matrix[1] -= rise * matrix[2]
    return Camera(matrix)
