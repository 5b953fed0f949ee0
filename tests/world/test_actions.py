import numpy as np
import pytest

from toto.errors import UserError
from toto.world.actions import ACTIONS, sample_scene
from toto.world.render import render, render_geometry
from toto.world.scenes import Scene, Solid
from toto.world.shapes import corners

CUBE, CONE, HIDDEN = 0, 1, 2

GOLDEN_CAST = [
    ("cube", "gray", "rubber", 0.7),
    ("cone", "red", "metal", 0.95),
    ("cone", "brown", "metal", 0.45),
    ("cube", "yellow", "rubber", 0.45),
    ("cone", "blue", "metal", 0.45),
]
GOLDEN_ENDS = [
    [[1.748786, -1.915752, 0.494975], [1.748786, -1.915752, 0.494975]],
    [[0.122082, 3.130864, 0.95], [-1.372258, 1.443814, 0.95]],
    [[-0.725932, 0.013946, 0.45], [-0.725932, 0.013946, 0.45]],
    [[-1.524658, -1.454026, 0.318198], [-1.524658, -1.454026, 0.318198]],
    [[1.049761, -0.121904, 0.45], [1.049761, -0.121904, 0.45]],
]


def mover(scene: Scene) -> Solid:
    (solid,) = [s for s in scene.solids if s.trajectory.moves]
    return solid


def surface(solid: Solid) -> np.ndarray:
    """Points on a solid's surface in its own axes, (points, 3)."""
    angle = np.linspace(0, 2 * np.pi, 40)
    ring = np.stack([np.cos(angle), np.sin(angle)], 1)
    x, _, z = solid.extents
    if solid.shape == "cube":
        return corners("cube", solid.extents)
    if solid.shape == "sphere":
        heights = np.linspace(-1, 1, 21)
        return np.concatenate(
            [np.c_[ring * np.sqrt(1 - h * h), 0 * angle + h] * x for h in heights]
        )
    rims = [(x, -z), (x, z) if solid.shape == "cylinder" else (0.0, z)]
    return np.concatenate([np.c_[ring * r, 0 * angle + h] for r, h in rims])


def test_a_scene_is_a_function_of_its_arguments():
    one, other = sample_scene(3, 5, "cover", 12), sample_scene(3, 5, "cover", 12)
    for a, b in zip(one.solids, other.solids, strict=True):
        assert (a.shape, a.colour, a.material, a.radius) == (
            b.shape,
            b.colour,
            b.material,
            b.radius,
        )
        np.testing.assert_array_equal(a.trajectory.positions, b.trajectory.positions)
        np.testing.assert_array_equal(a.trajectory.rotations, b.trajectory.rotations)
    different = sample_scene(3, 6, "cover", 12).solids[0].trajectory.positions
    assert (different != one.solids[0].trajectory.positions).any()


def test_golden_scene():
    scene = sample_scene(0, 0, "slide_left", 16)
    assert [(s.shape, s.colour, s.material, s.radius) for s in scene.solids] == GOLDEN_CAST
    ends = np.stack([s.trajectory.positions[[0, -1]] for s in scene.solids])
    np.testing.assert_allclose(ends, GOLDEN_ENDS, atol=1e-6)


def test_unknown_action():
    with pytest.raises(UserError, match="did you mean 'slide_left'"):
        sample_scene(0, 0, "slide-left", 16)


@pytest.mark.parametrize("index", range(5))
def test_the_cast_and_the_places_do_not_depend_on_the_action(index):
    scenes = [sample_scene(1, index, action, 16) for action in ACTIONS]
    casts = {tuple((s.shape, s.colour, s.material) for s in scene.solids) for scene in scenes}
    assert len(casts) == 1
    cube_after_turn = scenes[ACTIONS.index("turn")].solids[CUBE].trajectory.positions[0]
    cone_lifts = scenes[ACTIONS.index("cover")].solids[CUBE].trajectory.positions[0]
    np.testing.assert_array_equal(cube_after_turn, cone_lifts)


@pytest.mark.parametrize("action", ACTIONS)
def test_one_solid_moves_for_part_of_the_video(action):
    for index in range(20):
        scene = sample_scene(2, index, action, 40)
        assert 3 <= len(scene.solids) <= 5
        path = mover(scene).trajectory
        pose = np.concatenate([path.positions, path.rotations.reshape(40, 9)], 1)
        moving = (np.abs(np.diff(pose, axis=0)) > 1e-9).any(1)
        first, last = np.flatnonzero(moving)[[0, -1]]
        assert 0.35 <= (last - first + 1) / 40 <= 0.85


@pytest.mark.parametrize("action", ACTIONS)
def test_nothing_leaves_the_image_or_enters_another_solid(action):
    for index in range(20):
        scene = sample_scene(4, index, action, 24)
        clouds = []
        for solid in scene.solids:
            path = solid.trajectory
            turned = np.einsum("fij,pj->fpi", path.rotations, surface(solid))
            clouds.append(turned + path.positions[:, None])
            assert np.abs(scene.camera.project(clouds[-1])[..., :2]).max() < 1
            assert clouds[-1][..., 2].min() > -1e-9
        for i, cloud in enumerate(clouds):
            for j in range(i):
                assert apart(scene.solids[i], cloud, scene.solids[j], clouds[j]).all(), (i, j)


def apart(a: Solid, points_a: np.ndarray, b: Solid, points_b: np.ndarray) -> np.ndarray:
    """In which frames two solids are beside, above or one under the hollow of the other."""
    between = np.linalg.norm((a.trajectory.positions - b.trajectory.positions)[:, :2], axis=1)
    beside = between >= a.radius + b.radius
    low_a, low_b = points_a[..., 2].min(1), points_b[..., 2].min(1)
    above = (low_a > points_b[..., 2].max(1)) | (low_b > points_a[..., 2].max(1))
    return beside | above | under(b, points_a) | under(a, points_b)


def under(cone: Solid, points: np.ndarray) -> np.ndarray:
    """In which frames all points above a cone's rim are inside the cone."""
    if cone.shape != "cone":
        return np.zeros(len(points), bool)
    offset = points - cone.trajectory.positions[:, None]
    room = (cone.extents[2] - offset[..., 2]) / 2
    inside = np.hypot(offset[..., 0], offset[..., 1]) < room
    return (inside | (offset[..., 2] < -cone.extents[2])).all(1)


@pytest.mark.parametrize(("action", "sign"), [("slide_left", -1), ("slide_right", 1)])
def test_slides_go_left_and_right_in_the_image(action, sign):
    for index in range(20):
        scene = sample_scene(5, index, action, 16)
        path = scene.camera.project(mover(scene).trajectory.positions)
        assert sign * (path[-1, 0] - path[0, 0]) > 0.3
        assert np.abs(path[:, 2] - path[0, 2]).max() < 1e-2
        assert (sign * np.diff(path[:, 0]) >= -1e-9).all()


def test_both_slides_go_the_same_way_back_and_forth():
    left, right = (sample_scene(5, 1, a, 16) for a in ("slide_left", "slide_right"))
    one, other = mover(left).trajectory.positions, mover(right).trajectory.positions
    np.testing.assert_allclose(one[0], other[-1])
    np.testing.assert_allclose(one[-1], other[0])


def test_approach_comes_nearer():
    for index in range(20):
        scene = sample_scene(5, index, "approach", 16)
        path = scene.camera.project(mover(scene).trajectory.positions)
        assert path[-1, 2] < path[0, 2] - 1.5
        assert (np.diff(path[:, 2]) <= 1e-9).all()


def test_turn_turns_a_cube_in_place():
    for index in range(20):
        path = mover(scene := sample_scene(5, index, "turn", 16)).trajectory
        assert mover(scene).shape == "cube"
        assert (path.positions == path.positions[0]).all()
        yaw = np.unwrap(np.arctan2(path.rotations[:, 1, 0], path.rotations[:, 0, 0]))
        assert 89.9 < np.degrees(abs(yaw[-1] - yaw[0])) < 180.1


def test_lift_returns_to_the_same_place():
    for index in range(20):
        path = mover(sample_scene(5, index, "lift", 16)).trajectory.positions
        np.testing.assert_allclose(path[-1], path[0], atol=1e-12)
        assert path[:, 2].max() - path[0, 2] > 1
        assert (path[:, :2] == path[0, :2]).all()


def test_cover_hides_the_small_solid():
    for index in range(20):
        scene = sample_scene(5, index, "cover", 8)
        assert mover(scene) is scene.solids[CONE]
        _, seen = render_geometry(scene, 64)
        assert (seen[0] == HIDDEN + 1).any()
        assert not (seen[-1] == HIDDEN + 1).any()


def ridge_accuracy(inputs: np.ndarray, labels: np.ndarray, folds: int = 5) -> float:
    """Cross-validated accuracy of a linear classifier on standardized inputs."""
    flat = inputs.reshape(len(inputs), -1).astype(np.float64)
    flat = (flat - flat.mean(0)) / flat.std()
    kernel = flat @ flat.T / flat.shape[1]
    classes, targets = np.unique(labels, return_inverse=True)
    onehot = np.eye(len(classes))[targets] - 1 / len(classes)
    right = np.zeros(len(labels), bool)
    for fold in range(folds):
        test = np.arange(len(labels)) // len(classes) % folds == fold
        train = ~test
        dual = np.linalg.solve(
            kernel[np.ix_(train, train)] + 1.0 * np.eye(train.sum()), onehot[train]
        )
        right[test] = (kernel[np.ix_(test, train)] @ dual).argmax(1) == targets[test]
    return float(right.mean())


def test_one_frame_does_not_tell_the_action_but_several_do():
    labels = np.arange(420) % 6
    videos = np.stack([render(sample_scene(7, i, ACTIONS[c], 8), 32) for i, c in enumerate(labels)])
    middle = videos[:, 4]
    change = np.diff(videos.astype(np.int16), axis=1)
    slides = np.isin(labels, [ACTIONS.index("slide_left"), ACTIONS.index("slide_right")])
    one, several = ridge_accuracy(middle, labels), ridge_accuracy(np.abs(change), labels)
    print(f"six actions: {one:.2f} from one frame, {several:.2f} from differences")
    assert one < 0.28
    assert several > one + 0.25
    one = ridge_accuracy(middle[slides], labels[slides])
    several = ridge_accuracy(change[slides], labels[slides])
    print(f"left or right: {one:.2f} from one frame, {several:.2f} from differences")
    assert one < 0.62
    assert several > 0.75
