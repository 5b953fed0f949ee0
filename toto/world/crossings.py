"""Solids that cross each other's way before a drifting camera: for tracking from the first frame.

Each goes along its own lane across the image, so that none meets another and those in front hide
those behind for a while; at first they stand side by side.
"""

import numpy as np
from jaxtyping import Float64

from toto.world.camera import CameraPath, look_at
from toto.world.motion import Span, ease, slide, upright
from toto.world.scenes import (
    COLOURS,
    MATERIALS,
    SHAPES,
    Floor,
    Scene,
    Shape,
    Solid,
    Trajectory,
    half_height,
)
from toto.world.timeline import grid

_FOCAL = (3.4 * 9 / 16, 3.4)  # for 16:9
_TARGET, _DISTANCE, _HEIGHT = (0.0, 0.4, 0.55), 9.5, 4.0
_DRIFT = 0.16  # radians at most to each side
_RADII = (0.45, 0.6, 0.75, 0.9)
_FRONT, _GAP = -1.6, 0.25  # the nearest lane, and what is between two
_REACH = 2.9  # lanes begin and end so far to the side at most
_HOP = 0.7
_TILES = (0.0, 1.0, 1.5)


def sample_crossing(seed: int, index: int, frames: int) -> Scene:
    """Scene `index` of a seed with two to four solids, for an image of 16:9."""
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, index, 4])))
    count = int(rng.integers(2, 5))
    radii = [_RADII[i] for i in rng.integers(len(_RADII), size=count)]
    colours = [[*COLOURS][i] for i in rng.permutation(len(COLOURS))[:count]]
    slots = np.linspace(-_REACH + 0.4, _REACH - 0.4, count)
    order = rng.permutation(count)
    solids, lane = [], _FRONT
    for i, radius in enumerate(radii):
        lane += 0 if i == 0 else radii[i - 1] + radius + _GAP
        # From its slot to the mirrored one: every two of them cross.
        start, end = slots[order[i]], slots[count - 1 - order[i]]
        ways = np.array([start, end]) + grid(rng, 0.4, (2,))
        shape = SHAPES[rng.integers(len(SHAPES))]
        path = _path(rng, shape, radius, ways, lane, frames)
        material = MATERIALS[rng.integers(len(MATERIALS))]
        solids.append(Solid(shape, colours[i], material, radius, path))
    tile = _TILES[rng.integers(len(_TILES))]
    return Scene(_drifting(rng, frames), Floor(tile=tile), tuple(solids))


def _path(
    rng: np.random.Generator,
    shape: Shape,
    radius: float,
    ways: Float64[np.ndarray, "2"],
    lane: float,
    frames: int,
) -> Trajectory:
    """Across along a lane: sliding or hopping, and turning as it goes."""
    height = half_height(shape, radius)
    length = max(1, frames * int(rng.integers(60, 96)) // 100)
    span = Span(int(rng.integers(max(1, frames - length))), length)
    start, end = (np.array([x, lane, height]) for x in ways)
    positions = slide(start, end, span, frames)
    hops = 3 * int(rng.integers(2))
    phase = hops * ease(span.phase(frames)) % 1.0
    positions[:, 2] += 4 * _HOP * phase * (1 - phase)
    yaw, turns = np.radians(rng.integers(0, 360)), np.radians(rng.integers(-180, 181))
    return Trajectory(positions, upright(yaw + turns * ease(span.phase(frames))))


def _drifting(rng: np.random.Generator, frames: int) -> CameraPath:
    """A camera that goes round a little and nearer or farther, looking at the middle."""
    first, last = grid(rng, _DRIFT, (2,))
    near, far = _DISTANCE + grid(rng, 0.6, (2,))
    share = ease(np.arange(frames) / max(1, frames - 1))
    angle, distance = first + (last - first) * share, near + (far - near) * share
    eyes = np.stack(
        [distance * np.sin(angle), -distance * np.cos(angle), np.full(frames, _HEIGHT)], 1
    )
    return CameraPath(look_at(eyes, np.broadcast_to(np.array(_TARGET), eyes.shape), _FOCAL))
