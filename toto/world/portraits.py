"""Still scenes of one main solid, named by its colour and shape, before a little clutter."""

import numpy as np

from toto.world.camera import Camera, look_at
from toto.world.motion import upright
from toto.world.scenes import (
    COLOURS,
    MATERIALS,
    SHAPES,
    Floor,
    Rgb,
    Scene,
    Shape,
    Solid,
    Trajectory,
    half_height,
)
from toto.world.timeline import grid

# In alphabetical order, as ImageFolder numbers them.
_KINDS = sorted((colour, shape) for colour in COLOURS for shape in SHAPES)
CLASSES = tuple(f"{colour}_{shape}" for colour, shape in _KINDS)

_EYE, _TARGET, _FOCAL = (0.0, -7.5, 4.2), (0.0, 0.3, 0.7), 2.6
_PLACE = 0.9  # the main solid stands in [-.9, .9]^2
_RADII = (0.7, 1.3)
# Clutter stands behind it, so that the main solid is the nearest and the largest.
_CLUTTER, _CLUTTER_RADII = (3.2, 1.6, 4.5), (0.3, 0.5)
_GAP = 0.2


def sample_portrait(seed: int, index: int, label: int) -> Scene:
    """Still scene `index` of a seed; its first solid is what `CLASSES[label]` says."""
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, index, 3])))
    colour, shape = _KINDS[label]
    radius = _between(rng, *_RADII)
    x, y = grid(rng, _PLACE, (2,)).tolist()
    solids = [_solid(rng, shape, colour, radius, (x, y))]
    for _ in range(rng.integers(3)):
        small = _between(rng, *_CLUTTER_RADII)
        side, low, high = _CLUTTER
        place = (float(grid(rng, side, ())), y + _between(rng, low, high))
        other = SHAPES[rng.integers(len(SHAPES))], [*COLOURS][rng.integers(len(COLOURS))]
        if all(_apart(place, small, solid) for solid in solids):
            solids.append(_solid(rng, *other, small, place))
    camera = Camera(look_at(np.array([_EYE]), np.array([_TARGET]), (_FOCAL, _FOCAL))[0])
    shade = int(rng.integers(-30, 21))
    floor = Floor()
    return Scene(camera, Floor(_shift(floor.near, shade), _shift(floor.far, shade)), tuple(solids))


def _between(rng: np.random.Generator, low: float, high: float) -> float:
    """An even draw from a thousand steps between two numbers."""
    return low + (high - low) * int(rng.integers(1001)) / 1000


def _apart(place: tuple[float, float], radius: float, other: Solid) -> bool:
    x, y, _ = (other.trajectory.positions[0] - np.array([*place, 0.0])).tolist()
    return bool(x * x + y * y >= (radius + other.radius + _GAP) ** 2)


def _solid(
    rng: np.random.Generator, shape: Shape, colour: str, radius: float, place: tuple[float, float]
) -> Solid:
    material = MATERIALS[rng.integers(len(MATERIALS))]
    stretch = _between(rng, 0.8, 1.25)
    stretch = stretch if shape in ("cylinder", "cone") else 1.0
    yaw = np.radians(rng.integers(0, 360))
    height = half_height(shape, radius) * stretch
    path = Trajectory(np.array([[*place, height]]), upright(np.array([yaw])))
    return Solid(shape, colour, material, radius, path, stretch)


def _shift(colour: Rgb, by: int) -> Rgb:
    red, green, blue = (value + by for value in colour)
    return red, green, blue
