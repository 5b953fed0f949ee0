"""What a scene is: a camera, a floor, and solids that each follow a trajectory."""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float64

from toto.world.camera import Camera, CameraPath

Shape = Literal["cube", "sphere", "cylinder", "cone", "spl"]
Material = Literal["rubber", "metal"]
Rgb = tuple[int, int, int]

# "spl" is CATER's word for its snitch: three crossed rings here.
SHAPES: tuple[Shape, ...] = ("cube", "sphere", "cylinder", "cone")
MATERIALS: tuple[Material, ...] = ("rubber", "metal")

# CLEVR's eight colours (SPECS 8.4), sRGB.
COLOURS: dict[str, Rgb] = {
    "gray": (87, 87, 87),
    "red": (173, 35, 35),
    "blue": (42, 75, 215),
    "green": (29, 105, 20),
    "brown": (129, 74, 25),
    "purple": (129, 38, 192),
    "cyan": (41, 208, 208),
    "yellow": (255, 238, 51),
}
# What is no class of its own: the snitch's gold (SPECS 8.4), and a hand.
_OTHER_COLOURS: dict[str, Rgb] = {"gold": (255, 215, 0), "skin": (224, 172, 138)}

# Half extents along a solid's own axes, in radii: every footprint fits the circle of its radius.
_EXTENTS: dict[Shape, tuple[float, float, float]] = {
    "cube": (math.sqrt(0.5), math.sqrt(0.5), math.sqrt(0.5)),
    "sphere": (1.0, 1.0, 1.0),
    "cylinder": (1.0, 1.0, 0.7),
    "cone": (1.0, 1.0, 1.0),
    "spl": (1.0, 1.0, 1.0),
}


@dataclass(frozen=True, eq=False)
class Trajectory:
    """Where a solid's centre is in every frame (world units), and how it is turned there."""

    positions: Float64[np.ndarray, "frames 3"]
    rotations: Float64[np.ndarray, "frames 3 3"]

    @property
    def moves(self) -> bool:
        """Whether any frame differs from the first."""
        return bool(
            (self.positions != self.positions[0]).any()
            or (self.rotations != self.rotations[0]).any()
        )


@dataclass(frozen=True, eq=False)
class Solid:
    """One coloured solid; `radius` is that of the circle around its footprint, in world units.

    `stretch` makes it taller. While `covered` it is inside another solid: not seen, no shadow.
    """

    shape: Shape
    colour: str
    material: Material
    radius: float
    trajectory: Trajectory
    stretch: float = 1.0
    covered: Bool[np.ndarray, " frames"] | None = None

    @property
    def extents(self) -> Float64[np.ndarray, "3"]:
        """Half extents along the solid's own axes, in world units."""
        return self.radius * np.array(_EXTENTS[self.shape]) * [1, 1, self.stretch]

    @property
    def rgb(self) -> Rgb:
        """The sRGB value of the colour."""
        return (COLOURS | _OTHER_COLOURS)[self.colour]


@dataclass(frozen=True)
class Floor:
    """The plane z = 0: its sRGB colour near the camera and far from it.

    `tile` is the side of its tiles in world units, every other one a shade darker; 0 for none.
    """

    near: Rgb = (206, 203, 200)
    far: Rgb = (158, 160, 166)
    tile: float = 0.0


@dataclass(frozen=True, eq=False)
class Scene:
    """All there is to see in one video."""

    camera: Camera | CameraPath
    floor: Floor
    solids: tuple[Solid, ...]

    @property
    def frames(self) -> int:
        """The number of frames of the video."""
        return len(self.solids[0].trajectory.positions)


def half_height(shape: Shape, radius: float) -> float:
    """How high the centre of a solid that stands on the floor is."""
    return radius * _EXTENTS[shape][2]
