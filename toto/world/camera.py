"""The camera of the world: one matrix from world to image, and its inverse as rays."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float64

# CATER's un-jittered camera (SPECS 8.4): world (x, y, z, 1) to image x, image y and depth, on 4:3.
_CATER = np.array(
    [
        [1.4503, 1.6376, 0.0, -0.0251],
        [-1.0346, 0.9163, 2.5685, 0.0095],
        [-0.6592, 0.5839, -0.4738, 10.7452],
    ]
)


@dataclass(frozen=True, eq=False)
class Camera:
    """A square perspective camera.

    `matrix` takes (x, y, z, 1) to (x * depth, y * depth, depth); image x goes right and image y up,
    both from -1 to 1, and depth is the distance along the optical axis in world units.
    """

    matrix: Float64[np.ndarray, "3 4"]

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


def cater_camera(rise: float = 0.0) -> Camera:
    """CATER's camera on the central square of its 320 x 240 frame (SPECS 8.4).

    `rise` moves that square up over the image plane, in half sides: more room above the solids,
    less in front of them, and the same perspective.
    """
    matrix = _CATER * np.array([[4 / 3], [1.0], [1.0]])
    matrix[1] -= rise * matrix[2]
    return Camera(matrix)
