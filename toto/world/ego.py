"""What a walker sees: up to a solid on the floor, a hand reaches out, and the solid is moved.

How the hand comes shows what it is about to do: from above it takes, from the near side it pushes,
from the far side it pulls, from the left it turns.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int

from toto.world.camera import CameraPath, look_at
from toto.world.motion import Span, ease, upright
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
    half_height,
)
from toto.world.timeline import grid

VERBS = ("take", "push", "pull", "turn")
# A round solid that is turned looks as before.
INTERACTIONS: tuple[tuple[Shape, str], ...] = tuple(
    (shape, verb) for shape in SHAPES for verb in VERBS if verb != "turn" or shape == "cube"
)

_FOCAL = (1.9 * 3 / 4, 1.9)  # for 4:3: 70 degrees across
_EYE, _REACH = 2.5, 2.0  # the eye's height, and how far from its feet the solid is at contact
_GAZE = 2.8  # the walker looks so far ahead
_BOB = 0.035
_RADII = (0.3, 0.4, 0.5)
_PLANE, _GAP = 3.6, 0.3
_WAYS = {"take": 0.0, "push": 1.1, "pull": -0.7, "turn": 0.0}
_HAND, _ARM, _ARM_LENGTH = 0.16, 0.11, 2.6
_TRIES = 100
_STRAY = 0.5  # how far from the solid the gaze may settle
CONTEXT = 32  # frames up to a shown one that a model may see
_SHOWN, _LEAST = 4, 3  # how many are shown, and how long before the contact the last of them is


@dataclass(frozen=True, eq=False)
class EgoScene:
    """A scene whose first solid is touched in frame `contact`, by its last two: hand and arm.

    `shown` are a few frames before that, each with its context, for a model to foresee it from.
    """

    scene: Scene
    noun: Shape
    verb: str
    contact: int
    shown: Int[np.ndarray, " shown"]


def sample_ego(seed: int, index: int, noun: Shape, verb: str, frames: int, fps: int) -> EgoScene:
    """Scene `index` of a seed, for an image of 4:3: a function of its arguments alone.

    The walker heads for (0, 0) along the second axis.
    """
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, index, 5])))
    contact = frames * int(rng.integers(60, 76)) // 100
    radii, places = _draw_places(rng, int(rng.integers(3, 6)))
    others: list[Shape] = [SHAPES[i] for i in rng.integers(len(SHAPES), size=len(radii) - 1)]
    shapes = [noun, *others]
    colours = [[*COLOURS][i] for i in rng.integers(len(COLOURS), size=len(radii))]
    materials: list[Material] = [MATERIALS[i] for i in rng.integers(2, size=len(radii))]
    yaws = np.radians(rng.integers(0, 360, len(radii)))
    eyes, camera = _walk(rng, contact, frames, fps)
    still = [
        Trajectory(
            np.repeat([[*places[i], half_height(shapes[i], radii[i])]], frames, 0),
            upright(np.full(frames, yaws[i])),
        )
        for i in range(len(radii))
    ]
    after = Span(contact, max(2, frames - 1 - contact))
    still[0] = _handled(still[0], verb, eyes, after)
    solids = [
        Solid(shapes[i], colours[i], materials[i], radii[i], still[i]) for i in range(len(radii))
    ]
    hand = _hand(rng, solids[0], verb, eyes, after, fps)
    scene = Scene(camera, Floor(tile=1.0), (*solids, hand, _arm(hand, verb, eyes)))
    return EgoScene(scene, noun, verb, contact, _draw_shown(rng, contact))


def _draw_shown(rng: np.random.Generator, contact: int) -> Int[np.ndarray, " shown"]:
    """One frame of each quarter of the time that has a full context, up to the contact."""
    quarters = np.array_split(np.arange(CONTEXT - 1, contact - _LEAST + 1), _SHOWN)
    return np.array([part[rng.integers(len(part))] for part in quarters if len(part)])


def _draw_places(
    rng: np.random.Generator, count: int
) -> tuple[list[float], Float64[np.ndarray, "solids 2"]]:
    """Radii and places; the first is in the middle, with the line of its way and the walk free."""
    radii = [_RADII[i] for i in rng.integers(len(_RADII), size=count)]
    taken = np.zeros((1, 2))
    for i in range(1, count):
        tries = grid(rng, _PLANE, (_TRIES, 2))
        x, y = np.moveaxis(tries[:, None] - taken, -1, 0)
        free: Bool[np.ndarray, " tries"] = (
            x * x + y * y >= (np.array(radii[:i]) + radii[i] + _GAP) ** 2
        ).all(1)
        free &= np.abs(tries[:, 0]) >= radii[0] + radii[i] + _GAP
        # Of a hundred places some are always free: five small solids on a large floor.
        taken = np.concatenate([taken, tries[[free.argmax()]]])
    return radii, taken


def _walk(
    rng: np.random.Generator, contact: int, frames: int, fps: int
) -> tuple[Float64[np.ndarray, "frames 3"], CameraPath]:
    """Eyes that come near, and a gaze that settles on the solid before it is touched."""
    distance = 2.0 + int(rng.integers(1001)) / 500  # 2 to 4
    aside, glance = grid(rng, 1.0, (2,))
    stray = grid(rng, _STRAY, (2,))
    share = ease(np.arange(frames) / max(1, contact - fps // 4))
    left = (1 - share) * distance
    steps = 2 * np.pi * np.arange(frames) * 1.8 / fps
    bob = _BOB * (1 - share) * np.sin(steps)
    eyes = np.stack([aside * (1 - share), -_REACH - left, _EYE + bob], 1)
    settled = ease(1.4 * np.arange(frames) / max(1, contact))
    ahead = np.maximum(np.minimum(0.0, eyes[:, 1] + _GAZE), -_REACH)
    across = glance + (stray[0] - glance) * settled
    targets = np.stack([across, ahead + stray[1] * settled, 0.3 * settled], 1)
    return eyes, CameraPath(look_at(eyes, targets, _FOCAL))


def _handled(
    rest: Trajectory, verb: str, eyes: Float64[np.ndarray, "frames 3"], after: Span
) -> Trajectory:
    """What becomes of the solid once it is touched."""
    share = ease(after.phase(len(eyes)))
    positions = rest.positions.copy()
    positions[:, 1] += _WAYS[verb] * share
    if verb == "take":
        lifted = eyes[-1] + np.array([0.25, 0.9, -1.1])
        positions += share[:, None] * (lifted - rest.positions)
    turn = upright(share * np.radians(100)) if verb == "turn" else np.eye(3)
    return Trajectory(positions, turn @ rest.rotations)


def _hand(
    rng: np.random.Generator,
    solid: Solid,
    verb: str,
    eyes: Float64[np.ndarray, "frames 3"],
    after: Span,
    fps: int,
) -> Solid:
    """A fist that comes from below the image to the solid, and then stays at it."""
    frames = len(eyes)
    near, tall = solid.radius + _HAND + 0.02, solid.extents[2]
    sides = {
        "take": (0.0, 0.0, tall + _HAND),
        "push": (0.0, -near, 0.1),
        "pull": (0.6 * near, 0.8 * near, 0.1),
        "turn": (-near, 0.0, 0.1),
    }
    # It holds on to its side of a turning solid.
    offset = solid.trajectory.rotations @ solid.trajectory.rotations[0].T @ np.array(sides[verb])
    touching = solid.trajectory.positions + offset
    hanging = eyes + np.array([0.4, -0.1, -1.8])
    length = max(1, fps * int(rng.integers(50, 81)) // 100)
    share = ease(Span(after.start - length, length).phase(frames))[:, None]
    positions = hanging + share * (touching - hanging)
    # Over the solid to its far side, not through it.
    positions[:, 2] += 4 * (share * (1 - share))[:, 0] * (1.3 if verb == "pull" else 0.3)
    path = Trajectory(positions, np.repeat(np.eye(3)[None], frames, 0))
    return Solid("sphere", "skin", "rubber", _HAND, path)


def _arm(hand: Solid, verb: str, eyes: Float64[np.ndarray, "frames 3"]) -> Solid:
    """A forearm from the hand towards the elbow, at the walker's right side."""
    # To reach behind the solid it goes round it.
    aside = 1.5 if verb == "pull" else 0.4
    wrist = hand.trajectory.positions
    along = eyes + np.array([aside, -0.3, -1.1]) - wrist
    along /= np.linalg.norm(along, axis=1, keepdims=True)
    across = np.cross(along, [1.0, 0.0, 0.0])
    across /= np.linalg.norm(across, axis=1, keepdims=True)
    rotations = np.stack([np.cross(across, along), across, along], 2)
    stretch = _ARM_LENGTH / (2 * half_height("cylinder", _ARM))
    path = Trajectory(wrist + along * _ARM_LENGTH / 2, rotations)
    return Solid("cylinder", "skin", "rubber", _ARM, path, stretch)
