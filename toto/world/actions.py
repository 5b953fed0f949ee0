"""Six actions that one frame does not tell apart: every scene could have been any of them.

All that is random about a scene is drawn before its action is looked at, and a layout is kept only
if all six movements fit into it. So casts, colours, places, times and speeds have the same
distribution in every class, and only the movement tells them apart.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64

from toto.errors import unknown
from toto.world.camera import Camera, cater_camera
from toto.world.motion import Span, ease, pick_place, slide, upright
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

ACTIONS = ("approach", "cover", "lift", "slide_left", "slide_right", "turn")

# Radii: CATER's .25, .5 and .75 (SPECS 8.4), made larger to be told apart at 64 pixels.
_SMALL, _MEDIUM, _LARGE = 0.45, 0.7, 0.95
_RISE = 0.2  # of the camera's image: room for what is lifted
_PLANE = 3.0  # solids stand in [-3, 3]^2, as in CATER
_GAP = 0.25  # between two solids at rest, as in CATER
_PASSING = 0.1  # between a moving solid and one that stands
_EDGE = 0.97  # how near to the image's edge (at 1) a solid may come
_APART = 0.9  # two centres in the image, in radii of the larger solid: neither hides the other
_BATCH = 256
# The cast starts with these three.
_CUBE, _CONE, _HIDDEN = 0, 1, 2


@dataclass(frozen=True)
class _Plan:
    """Everything random about a scene but the places of its solids."""

    shapes: tuple[Shape, ...]
    radii: Float64[np.ndarray, " solids"]
    colours: tuple[str, ...]
    materials: tuple[Material, ...]
    yaws: Float64[np.ndarray, " solids"]
    slider: int
    lifted: int
    covered: bool  # whether the small solid is under the cone from the start
    across: float
    nearer: float
    height: float
    angle: float
    span: Span


def sample_scene(seed: int, index: int, action: str, frames: int) -> Scene:
    """Scene `index` of a seed, performing `action`: a function of its arguments alone.

    The first three solids are a cube, a large cone and a small solid; up to two more follow.
    Raises UserError for an unknown action.
    """
    if action not in ACTIONS:
        raise unknown("action", action, ACTIONS)
    camera = cater_camera(_RISE)
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, index])))
    plan, places = _draw(rng, camera, frames)
    if plan.covered and action != "cover":
        places[_HIDDEN, :2] = places[_CONE, :2]
    solids = tuple(
        Solid(
            shape=plan.shapes[i],
            colour=plan.colours[i],
            material=plan.materials[i],
            radius=float(plan.radii[i]),
            trajectory=_trajectory(plan, places, camera, action, i, frames),
        )
        for i in range(len(places))
    )
    return Scene(camera, Floor(), solids)


def _draw_plan(rng: np.random.Generator, extras: int, frames: int) -> _Plan:
    shapes: list[Shape] = ["cube", "cone", SHAPES[rng.integers(4)]]
    shapes += [SHAPES[rng.integers(4)] for _ in range(extras)]
    radii = [_MEDIUM, _LARGE, _SMALL, *rng.choice([_SMALL, _MEDIUM], extras)]
    names = list(COLOURS)
    covered = bool(rng.random() < 0.3)
    # The smallest would be hard to see moving, and a cone that hides another solid stays.
    movable = [i for i, r in enumerate(radii) if r > _SMALL and not (covered and i == _CONE)]
    length = max(2, round(rng.uniform(0.4, 0.8) * frames))
    return _Plan(
        shapes=tuple(shapes),
        radii=np.array(radii),
        colours=tuple(names[i] for i in rng.permutation(len(names))[: len(shapes)]),
        materials=tuple(MATERIALS[i] for i in rng.integers(0, 2, len(shapes))),
        yaws=rng.uniform(0, 2 * np.pi, len(shapes)),
        slider=int(rng.choice(movable)),
        # Mostly the cone, so that a solid in the air seldom tells lift from cover.
        lifted=_CONE if rng.random() < 0.75 else int(rng.choice(movable)),
        covered=covered,
        across=rng.uniform(1.6, 2.8),
        nearer=rng.uniform(1.8, 3.2),
        height=rng.uniform(1.05, 1.35),
        angle=np.radians(rng.uniform(90, 180)) * rng.choice([-1, 1]),
        span=Span(int(rng.integers(0, max(frames - length, 1))), length),
    )


def _draw(
    rng: np.random.Generator, camera: Camera, frames: int
) -> tuple[_Plan, Float64[np.ndarray, "solids 3"]]:
    """A plan, and centres of its solids at rest; a slider's is the middle of its way."""
    extras = int(rng.integers(0, 3))  # not drawn again: crowded scenes stay as frequent
    while True:
        plan = _draw_plan(rng, extras, frames)
        places = rng.uniform(-_PLANE, _PLANE, (_BATCH, len(plan.shapes), 3))
        places[..., 2] = [half_height(s, r) for s, r in zip(plan.shapes, plan.radii, strict=True)]
        for test in (_stand_apart, _way_is_free, _stays_in_view):
            places = places[test(plan, places, camera)]
        if len(places):
            return plan, places[0]


def _ways(
    plan: _Plan, places: Float64[np.ndarray, "*batch solids 3"], camera: Camera
) -> dict[str, tuple[int, Float64[np.ndarray, "*batch 3"], Float64[np.ndarray, "*batch 3"]]]:
    """Who goes from where to where in each action (turning happens in place)."""
    middle, cone = places[..., plan.slider, :], places[..., _CONE, :]
    across = np.append(camera.right, 0) * plan.across / 2
    nearer = np.append(-camera.away, 0) * plan.nearer / 2
    target = np.concatenate([places[..., _HIDDEN, :2], cone[..., 2:]], -1)
    lifted = places[..., plan.lifted, :]
    return {
        "approach": (plan.slider, middle - nearer, middle + nearer),
        "cover": (_CONE, cone, target),
        "lift": (plan.lifted, lifted, lifted),
        "slide_left": (plan.slider, middle + across, middle - across),
        "slide_right": (plan.slider, middle - across, middle + across),
    }


def _stand_apart(
    plan: _Plan, places: Float64[np.ndarray, "batch solids 3"], camera: Camera
) -> Bool[np.ndarray, " batch"]:
    """No two solids touch on the floor, and none stands behind another in the image."""
    i, j = np.triu_indices(len(plan.radii), 1)
    floor = np.linalg.norm(places[:, i, :2] - places[:, j, :2], axis=-1)
    image = camera.project(places)
    focal = np.linalg.norm(camera.matrix[0, :3])
    seen = np.linalg.norm(image[:, i, :2] - image[:, j, :2], axis=-1)
    seen = seen * np.minimum(image[:, i, 2], image[:, j, 2]) / focal
    apart = floor >= plan.radii[i] + plan.radii[j] + _GAP
    return (apart & (seen >= _APART * np.maximum(plan.radii[i], plan.radii[j]))).all(1)


def _way_is_free(
    plan: _Plan, places: Float64[np.ndarray, "batch solids 3"], camera: Camera
) -> Bool[np.ndarray, " batch"]:
    """Nothing stands in the way of any movement; a carried cone passes over what is low."""
    ways = _ways(plan, places, camera)
    tall = [j for j in range(len(plan.radii)) if 2 * places[0, j, 2] > plan.height - _PASSING]
    rest = [j for j in range(len(plan.radii)) if j != _HIDDEN]
    _, start, end = ways["cover"]
    free = _clear(plan, places, _CONE, start, end, tall)
    free &= _clear(plan, places, _CONE, end, end, rest)
    for action in ("approach", "slide_left"):
        who, start, end = ways[action]
        free &= _clear(plan, places, who, start, end, list(range(len(plan.radii))))
    return free


def _clear(
    plan: _Plan,
    places: Float64[np.ndarray, "batch solids 3"],
    who: int,
    start: Float64[np.ndarray, "batch 3"],
    end: Float64[np.ndarray, "batch 3"],
    others: list[int],
) -> Bool[np.ndarray, " batch"]:
    """Whether `who` can go straight from `start` to `end` without touching `others`."""
    others = [j for j in others if j != who]
    way = (end - start)[:, None, :2]
    offset = places[:, others, :2] - start[:, None, :2]
    share = (offset * way).sum(-1) / np.maximum((way * way).sum(-1), 1e-9)
    distance = np.linalg.norm(offset - np.clip(share, 0, 1)[..., None] * way, axis=-1)
    return (distance >= plan.radii[who] + plan.radii[others] + _PASSING).all(1)


def _stays_in_view(
    plan: _Plan, places: Float64[np.ndarray, "batch solids 3"], camera: Camera
) -> Bool[np.ndarray, " batch"]:
    """Every solid is inside the image at rest and at both ends of every movement."""
    stations = [(i, places[:, i]) for i in range(len(plan.radii))]
    for action, (who, start, end) in _ways(plan, places, camera).items():
        up = np.array([0, 0, plan.height if action in ("cover", "lift") else 0.0])
        stations += [(who, start + up), (who, end + up)]
    seen = np.ones(len(places), bool)
    for who, centre in stations:
        reach = plan.radii[who]
        box = np.array([(i, j, k) for i in (-1, 1) for j in (-1, 1) for k in (-1, 1)])
        box = box * [reach, reach, half_height(plan.shapes[who], reach)]
        image = camera.project(centre[:, None] + box)[..., :2]
        seen &= (np.abs(image) <= _EDGE).all((1, 2))
    return seen


def _trajectory(
    plan: _Plan,
    places: Float64[np.ndarray, "solids 3"],
    camera: Camera,
    action: str,
    solid: int,
    frames: int,
) -> Trajectory:
    positions = np.repeat(places[solid][None], frames, 0)
    yaws = np.full(frames, plan.yaws[solid])
    if action == "turn":
        if solid == _CUBE:
            yaws = yaws + plan.angle * ease(plan.span.phase(frames))
        return Trajectory(positions, upright(yaws))
    who, start, end = _ways(plan, places, camera)[action]
    if solid == who and action in ("cover", "lift"):
        positions = pick_place(start, end, plan.height, plan.span, frames)
    elif solid == who:
        positions = slide(start, end, plan.span, frames)
    return Trajectory(positions, upright(yaws))
