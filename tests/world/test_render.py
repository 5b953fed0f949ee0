import dataclasses

import numpy as np
import pytest

from toto.world.actions import ACTIONS, sample_scene
from toto.world.camera import Camera, cater_camera
from toto.world.motion import upright
from toto.world.render import render, render_geometry
from toto.world.scenes import SHAPES, Floor, Scene, Solid, Trajectory
from toto.world.shapes import corners, support


def solid(shape, place, radius=0.8, colour="red", rotation=None, material="rubber", frames=1):
    rotation = np.eye(3) if rotation is None else rotation
    path = Trajectory(
        np.broadcast_to(np.array(place, float), (frames, 3)).copy(),
        np.broadcast_to(rotation, (frames, 3, 3)).copy(),
    )
    return Solid(shape, colour, material, radius, path)


def still(*solids):
    return Scene(cater_camera(), Floor(), solids)


def tip(angle):
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, 0.0, s], [0.0, 1.0, 0.0], [-s, 0.0, c]])


def inside(s: Solid, points: np.ndarray) -> np.ndarray:
    """The definition of each shape, for world points (..., 3)."""
    path = s.trajectory
    x, y, z = np.moveaxis((points - path.positions[0]) @ path.rotations[0], -1, 0)
    a, b, c = s.extents
    if s.shape == "cube":
        return (abs(x) < a) & (abs(y) < b) & (abs(z) < c)
    if s.shape == "sphere":
        return x * x + y * y + z * z < a * a
    radius = a if s.shape == "cylinder" else a * (c - z) / (2 * c)
    return (np.hypot(x, y) < radius) & (abs(z) < c)


def walked(scene: Scene, size: int, step: float = 0.004) -> tuple[np.ndarray, np.ndarray]:
    """Depth and what is seen, by walking along each pixel's ray in small steps."""
    x = (np.arange(size) + 0.5) / size * 2 - 1
    eye = np.linalg.inv(scene.camera.matrix[:, :3])
    depths = np.arange(4, 16, step)
    found, seen = np.full((size, size), np.inf), np.zeros((size, size), int)
    for row in range(size):
        image = np.stack([x, np.full(size, -x[row]), np.ones(size)])
        rays = (eye @ image).T
        floor = -scene.camera.position[2] / rays[:, 2]
        points = scene.camera.position + depths[None, :, None] * rays[:, None]
        found[row] = floor
        for i, s in enumerate(scene.solids):
            hit = inside(s, points)
            depth = np.where(hit.any(1), depths[hit.argmax(1)], np.inf)
            nearer = depth < found[row]
            found[row][nearer], seen[row][nearer] = depth[nearer], i + 1
    return found, seen


def test_every_shape_is_where_a_walk_along_the_rays_finds_it():
    scene = still(
        solid("cube", (-1.5, -1.5, 0.8), rotation=upright(np.array([0.4]))[0]),
        solid("sphere", (1.2, 1.5, 0.8)),
        solid("cylinder", (1.8, -1.2, 1.1), rotation=tip(1.1)),
        solid("cone", (-0.5, 1.2, 0.9), radius=0.9),
        solid("cone", (0.2, -0.4, 1.5), radius=0.5, rotation=tip(0.5)),
    )
    depth, seen = render_geometry(scene, 40)
    expected_depth, expected = walked(scene, 40)
    same = seen[0] == expected
    assert set(np.unique(expected)) == set(range(6))
    assert same.mean() > 0.99
    assert np.abs(depth[0] - expected_depth)[same].max() < 0.03


def test_a_sphere_on_the_axis_is_a_disc_of_the_right_size():
    camera = cater_camera()
    distance, radius, size = 9.0, 0.9, 256
    centre = camera.position + distance * camera.rays @ np.array([0, 0, 1.0])
    _, seen = render_geometry(still(solid("sphere", centre, radius)), size)
    rows, cols = np.nonzero(seen[0])
    focal = np.linalg.norm(camera.matrix[0, :3])
    expected = focal * np.tan(np.arcsin(radius / distance)) * size / 2
    assert np.sqrt(len(rows) / np.pi) == pytest.approx(expected, rel=0.01)
    assert rows.mean() == pytest.approx((size - 1) / 2, abs=0.3)
    assert cols.mean() == pytest.approx((size - 1) / 2, abs=0.3)


def test_the_nearer_solid_wins_whatever_the_order():
    away = np.append(cater_camera().away, 0)
    near = solid("sphere", (0, 0, 0.8) - away, colour="red")
    far = solid("sphere", (0, 0, 0.8) + 0.8 * away, colour="blue")
    x, y, _ = cater_camera().project(near.trajectory.positions[0])
    col, row = int((x + 1) * 32), int((1 - y) * 32)
    for scene in (still(near, far), still(far, near)):
        red, _, blue = render(scene, 64)[0, :, row, col]
        assert red > blue + 50
        _, seen = render_geometry(scene, 64)
        assert scene.solids[seen[0, row, col] - 1] is near


def part(scene: Scene, frames: slice) -> Scene:
    paths = [s.trajectory for s in scene.solids]
    cut = [Trajectory(p.positions[frames], p.rotations[frames]) for p in paths]
    solids = [dataclasses.replace(s, trajectory=p) for s, p in zip(scene.solids, cut, strict=True)]
    return dataclasses.replace(scene, solids=tuple(solids))


def all_moving(scene: Scene) -> Scene:
    """The same scene with every solid also turning."""
    paths = [s.trajectory for s in scene.solids]
    turn = upright(np.linspace(0.1, 1, scene.frames))
    solids = [
        dataclasses.replace(s, trajectory=Trajectory(p.positions, turn @ p.rotations))
        for s, p in zip(scene.solids, paths, strict=True)
    ]
    return dataclasses.replace(scene, solids=tuple(solids))


SCENES = [sample_scene(0, 3, action, 6) for action in ACTIONS]


@pytest.mark.parametrize("scene", [*SCENES, *map(all_moving, SCENES[:3])])
def test_frames_drawn_over_the_still_ones_are_the_whole_scene_drawn_anew(scene):
    video = render(scene, 48)
    np.testing.assert_array_equal(video, render(scene, 48))
    for frame in range(6):
        drawn = render(part(scene, slice(frame, frame + 1)), 48)[0]
        # The shadows are multiplied in another order: one rounding apart.
        assert np.abs(drawn.astype(int) - video[frame]).max() <= 1


def test_a_long_video_is_the_same_in_any_chunks():
    scene = sample_scene(0, 3, "cover", 70)
    np.testing.assert_array_equal(render(part(scene, slice(20, 60)), 64), render(scene, 64)[20:60])


def test_a_shadow_is_dark_below_a_solid_and_fades_as_it_rises():
    empty = still(solid("sphere", (0, 0, 50.0)))
    floor = render(empty, 64)[0].astype(int).sum(0)
    darkest = []
    for height in (0.5, 1.5, 3.0):
        scene = still(solid("sphere", (0, 0, height), radius=0.5))
        _, seen = render_geometry(scene, 64)
        drop = (floor - render(scene, 64)[0].astype(int).sum(0))[seen[0] == 0]
        darkest.append(drop.max())
    assert darkest[0] > darkest[1] > darkest[2] > 30


@pytest.mark.parametrize("shape", SHAPES)
def test_support_and_corners_bound_the_shape(shape):
    rng = np.random.default_rng(0)
    s = solid(shape, (0, 0, 0))
    points = rng.uniform(-1, 1, (20000, 3))
    points = points[inside(s, points)]
    for direction in rng.normal(size=(20, 3)):
        (reach,) = support(shape, s.extents, direction[None])
        assert (points @ direction).max() <= reach
        assert (points @ direction).max() >= 0.85 * reach
        assert (corners(shape, s.extents) @ direction).max() >= reach - 1e-9


def test_the_camera_is_caters_on_the_central_square():
    camera = cater_camera()
    # CATER's pixel of a point on its 320 x 240 frame, 40 columns cut away on each side.
    x, y, z = 1.0, -2.0, 0.5
    depth = -0.6592 * x + 0.5839 * y - 0.4738 * z + 10.7452
    col = ((1.4503 * x + 1.6376 * y - 0.0251) / depth + 1) / 2 * 320 - 40
    row = (1 - (-1.0346 * x + 0.9163 * y + 2.5685 * z + 0.0095) / depth) / 2 * 240
    image = camera.project(np.array([x, y, z]))
    np.testing.assert_allclose((image[:2] * [1, -1] + 1) / 2 * 240, [col, row])
    np.testing.assert_allclose(camera.project(camera.position + camera.rays[:, 2])[2], 1.0)
    moved = Camera(camera.matrix).project(np.append(camera.right, 0.0))
    assert moved[0] > camera.project(np.zeros(3))[0]
