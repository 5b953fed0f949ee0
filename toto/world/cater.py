"""Scenes in the way of CATER (SPECS 8.4): a snitch, two cones and others, which hide each other."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from toto.errors import unknown
from toto.world.camera import CATER_FOCAL, Camera, CameraPath, look_at, wide_cater_camera
from toto.world.motion import ease, upright
from toto.world.scenes import (
    COLOURS,
    MATERIALS,
    SHAPES,
    Floor,
    Material,
    Scene,
    Shape,
    Solid,
    Trajectory,
)
from toto.world.shapes import support
from toto.world.timeline import GAP, PLANE, Movement, Timeline, grid

# How many groups move in a round (None: any number), by CATER's name of its sets.
POLICIES: dict[str, int | None] = {"max2action": 2, "all_actions": None}
SIZES = {"large": 0.75, "medium": 0.5, "small": 0.25}
# The floor's unit directions that go right in the image and away from the camera. Numbers, so that
# which places are taken depends on no library of functions.
RIGHT, AWAY = (0.6630, 0.7486), (-0.7486, 0.6630)

_SNITCH = 0.3
# A cone so tall holds the sphere of the next size: twice its radius, CATER's, does not.
_CONE_STRETCH = 1.3
_MARGIN = 0.4
_RETRIES = 50
_JITTER = 0.5
_KEY = 30  # frames between a moving camera's key frames
_ORBIT, _HEIGHTS = 10.0, (8.0, 10.0, 12.0)


@dataclass(frozen=True, eq=False)
class CaterScene:
    """A scene, and what its record says of solid `i`: names and movements, yaw in degrees."""

    scene: Scene
    sizes: tuple[str, ...]
    radii: tuple[float, ...]
    yaws: tuple[int, ...]
    movements: tuple[tuple[Movement, ...], ...]

    @property
    def instances(self) -> tuple[str, ...]:
        """A name for each solid: its shape, and a number among its like."""
        shapes = [solid.shape for solid in self.scene.solids]
        return tuple(f"{s.capitalize()}_{shapes[:i].count(s)}" for i, s in enumerate(shapes))


@dataclass(frozen=True, eq=False)
class _Cast:
    shapes: tuple[Shape, ...]
    sizes: tuple[str, ...]
    colours: tuple[str, ...]
    materials: tuple[Material, ...]

    @property
    def radii(self) -> Float64[np.ndarray, " solids"]:
        return np.array([_SNITCH, *(SIZES[size] for size in self.sizes[1:])])


def sample_cater(
    seed: int,
    index: int,
    frames: int = 301,
    policy: str = "all_actions",
    camera_motion: bool = False,
) -> CaterScene:
    """Scene `index` of a seed: a function of its arguments alone.

    Its image is 4:3. Raises UserError for an unknown policy.
    """
    if policy not in POLICIES:
        raise unknown("policy", policy, POLICIES)
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, index, 2])))
    cast, places = _draw(rng, int(rng.integers(5, 11)))
    yaws = tuple(int(yaw) for yaw in rng.integers(0, 360, len(places)))
    timeline = Timeline(rng, cast.shapes, cast.radii, places, frames)
    timeline.play(POLICIES[policy])
    camera = _camera(rng, frames if camera_motion else 0)  # last: it changes nothing else
    solids = tuple(_solid(cast, timeline, yaws[i], i) for i in range(len(places)))
    movements = tuple(map(tuple, timeline.movements))
    return CaterScene(
        Scene(camera, Floor(), solids), cast.sizes, tuple(cast.radii.tolist()), yaws, movements
    )


def _draw(rng: np.random.Generator, count: int) -> tuple[_Cast, Float64[np.ndarray, "solids 2"]]:
    """Solids and their first places; as many are drawn again if the last ones find no place."""
    while True:
        cast = _draw_cast(rng, count)
        places = _draw_places(rng, cast.radii)
        if places is not None:
            return cast, places


def _draw_cast(rng: np.random.Generator, count: int) -> _Cast:
    sizes, colours = list(SIZES), list(COLOURS)
    shapes: list[Shape] = ["spl", "cone", "cone"]
    shapes += [SHAPES[i] for i in rng.integers(4, size=count - 3)]
    others = [sizes[i] for i in rng.integers(3, size=count - 3)]
    return _Cast(
        shapes=tuple(shapes),
        sizes=("small", "medium", "large", *others),
        colours=("gold", *(colours[i] for i in rng.integers(8, size=count - 1))),
        materials=("metal", *(MATERIALS[i] for i in rng.integers(2, size=count - 1))),
    )


def _draw_places(
    rng: np.random.Generator, radii: Float64[np.ndarray, " solids"]
) -> Float64[np.ndarray, "solids 2"] | None:
    """Places that keep solids apart on the floor and in both directions of the image."""
    taken = np.empty((0, 2))
    for i, radius in enumerate(radii):
        tries = grid(rng, PLANE, (_RETRIES, 2))
        x, y = np.moveaxis(tries[:, None] - taken, -1, 0)
        reach = radius + radii[:i] + GAP
        free = x * x + y * y >= reach * reach
        for across, along in (RIGHT, AWAY):
            free &= np.abs(x * across + y * along) >= _MARGIN
        good = free.all(1)
        if not good.any():
            return None
        taken = np.concatenate([taken, tries[[good.argmax()]]])
    return taken


def _camera(rng: np.random.Generator, moving: int) -> Camera | CameraPath:
    """CATER's camera somewhere near its place; one that goes about for `moving` frames."""
    start = wide_cater_camera().position + grid(rng, _JITTER, (3,))
    if not moving:
        return Camera(look_at(start[None], np.zeros((1, 3)), CATER_FOCAL)[0])
    keys = [start]
    for _ in range((moving - 1) // _KEY + 1):
        key = keys[-1].copy()
        key[rng.integers(2)] = _ORBIT * (1 - 2 * rng.integers(2))
        key[2] = _HEIGHTS[rng.integers(3)]
        keys.append(key)
    number, frame = np.divmod(np.arange(moving), _KEY)
    share = ease(frame / _KEY)[:, None]
    eyes = np.array(keys)[number] * (1 - share) + np.array(keys)[number + 1] * share
    return CameraPath(look_at(eyes, np.zeros_like(eyes), CATER_FOCAL))


def _solid(cast: _Cast, timeline: Timeline, yaw: int, solid: int) -> Solid:
    shape, radius = cast.shapes[solid], float(cast.radii[solid])
    stretch = _CONE_STRETCH if shape == "cone" else 1.0
    still = Trajectory(np.zeros((1, 3)), np.eye(3)[None])
    model = Solid(shape, cast.colours[solid], cast.materials[solid], radius, still, stretch)
    tips = np.pi / 2 * timeline.tips[solid]
    rotations = upright(np.full(len(tips), np.radians(yaw))) @ _tipped(tips)
    positions = timeline.places[solid].copy()
    # Whatever way up, it rests on the floor or is so far above it.
    positions[:, 2] += support(shape, model.extents, -rotations[:, 2])
    covered = timeline.covered[solid]
    return Solid(
        shape,
        model.colour,
        model.material,
        radius,
        Trajectory(positions, rotations),
        stretch,
        covered if covered.any() else None,
    )


def _tipped(angles: Float64[np.ndarray, " frames"]) -> Float64[np.ndarray, "frames 3 3"]:
    """Rotations by `angles` (radians) about the second axis."""
    rotations = np.zeros((len(angles), 3, 3))
    rotations[:, 0, 0] = rotations[:, 2, 2] = np.cos(angles)
    rotations[:, 0, 2] = np.sin(angles)
    rotations[:, 2, 0] = -rotations[:, 0, 2]
    rotations[:, 1, 1] = 1.0
    return rotations
