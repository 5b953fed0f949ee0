from dataclasses import replace
from functools import cache
from itertools import combinations, pairwise

import numpy as np
import pytest

from toto.errors import UserError
from toto.world.camera import CameraPath, wide_cater_camera
from toto.world.cater import CaterScene, sample_cater
from toto.world.render import render_geometry
from toto.world.scenes import Scene, Solid, Trajectory
from toto.world.shapes import support

GOLDEN_CAST = [
    ("Spl_0", "gold", "metal"),
    ("Cone_0", "blue", "rubber"),
    ("Cone_1", "cyan", "metal"),
    ("Cone_2", "red", "rubber"),
    ("Sphere_0", "blue", "metal"),
    ("Sphere_1", "red", "rubber"),
    ("Cylinder_0", "red", "metal"),
    ("Cone_3", "gray", "rubber"),
]
GOLDEN_MOVES = [
    ("Spl_0", "_rotate", 43, 70),
    ("Cone_1", "_pick_place", 4, 30),
    ("Cone_1", "_contain", 50, 79),
    ("Cone_3", "_contain", 10, 39),
]
# First and last places of the first three; multiples of 1/1024.
GOLDEN_ENDS = [
    [[1.0517578125, 2.0576171875], [1.0517578125, 2.0576171875]],
    [[-1.708984375, 2.8955078125], [-1.708984375, 2.8955078125]],
    [[-0.3447265625, -1.2109375], [2.080078125, -2.3125]],
]


@cache
def scenes(count: int = 12, policy: str = "all_actions") -> list[CaterScene]:
    return [sample_cater(1, i, policy=policy) for i in range(count)]


def lifts(solid: Solid) -> np.ndarray:
    """How far the lowest point of a solid is above the floor in each frame."""
    path = solid.trajectory
    return path.positions[:, 2] - support(solid.shape, solid.extents, -path.rotations[:, 2])


def nestings(drawn: CaterScene) -> list[tuple[int, int, int, int]]:
    """(container, contained, first frame, last frame), replayed from the record of movements."""
    inside: dict[int, list[int]] = {i: [] for i in range(len(drawn.movements))}
    since: dict[tuple[int, int], int] = {}
    found = []
    events = sorted((m.start, i, m) for i, moves in enumerate(drawn.movements) for m in moves)
    for _, solid, move in events:
        if move.action == "_contain":
            inside[solid] = [move.other, *inside[move.other]]
            since |= {(solid, i): move.start for i in inside[solid]}
        elif move.action == "_pick_place" and inside[solid]:
            found += [(solid, i, since.pop((solid, i)), move.end) for i in inside[solid]]
            inside[solid] = []
    last = drawn.scene.frames - 1
    return found + [(*pair, start, last) for pair, start in since.items()]


def test_golden_scene():
    drawn = sample_cater(0, 1, 100, "max2action")
    cast = [
        (n, s.colour, s.material) for n, s in zip(drawn.instances, drawn.scene.solids, strict=True)
    ]
    assert cast == GOLDEN_CAST
    moves = [
        (drawn.instances[i], m.action, m.start, m.end)
        for i, moves in enumerate(drawn.movements)
        for m in moves
    ]
    assert moves == GOLDEN_MOVES
    ends = [s.trajectory.positions[[0, -1], :2].tolist() for s in drawn.scene.solids[:3]]
    assert ends == GOLDEN_ENDS


def test_a_moving_camera_changes_nothing_else():
    still, moving = sample_cater(3, 4, 64), sample_cater(3, 4, 64, camera_motion=True)
    assert isinstance(moving.scene.camera, CameraPath)
    assert still.movements == moving.movements
    for a, b in zip(still.scene.solids, moving.scene.solids, strict=True):
        assert (a.shape, a.colour, a.material) == (b.shape, b.colour, b.material)
        np.testing.assert_array_equal(a.trajectory.positions, b.trajectory.positions)
        np.testing.assert_array_equal(a.trajectory.rotations, b.trajectory.rotations)


def test_unknown_policy():
    with pytest.raises(UserError, match="did you mean 'max2action'"):
        sample_cater(0, 0, 64, "max2actions")


def test_the_cast_is_caters():
    for drawn in scenes():
        solids = drawn.scene.solids
        assert 5 <= len(solids) <= 10
        snitch, medium, large = solids[:3]
        assert (snitch.shape, snitch.colour, snitch.material) == ("spl", "gold", "metal")
        assert (medium.shape, large.shape) == ("cone", "cone")
        assert drawn.radii[:3] == (0.3, 0.5, 0.75)
        assert sum(s.shape == "spl" for s in solids) == 1
        assert len(set(drawn.instances)) == len(solids)


def test_no_two_solids_overlap_unless_one_is_inside_the_other():
    for drawn in scenes():
        solids = drawn.scene.solids
        centres = [s.trajectory.positions.copy() for s in solids]
        for centre, solid, radius in zip(centres, solids, drawn.radii, strict=True):
            centre[:, 2] = lifts(solid) + radius
        nested = np.zeros((len(solids), len(solids), drawn.scene.frames), bool)
        for outer, inner, first, last in nestings(drawn):
            nested[outer, inner, first : last + 1] = nested[inner, outer, first : last + 1] = True
        for i, j in combinations(range(len(solids)), 2):
            gap = np.linalg.norm(centres[i] - centres[j], axis=1)
            free = gap - drawn.radii[i] - drawn.radii[j] >= 0.25 - 1e-9
            assert (free | nested[i, j]).all(), (i, j)


def test_what_is_covered_is_what_the_record_says_and_moves_with_its_cone():
    some = 0
    for drawn in scenes():
        covered = np.zeros((len(drawn.movements), drawn.scene.frames), bool)
        for outer, inner, first, last in nestings(drawn):
            (contain,) = [
                m for m in drawn.movements[outer] if m.action == "_contain" and m.start == first
            ]
            out = [
                m.start
                for m in drawn.movements[outer]
                if m.action == "_pick_place" and m.end == last
            ]
            end = out[0] + 1 if out else drawn.scene.frames
            covered[inner, contain.end : end] = True
            a, b = (drawn.scene.solids[i].trajectory.positions for i in (outer, inner))
            np.testing.assert_allclose(
                a[contain.end : end, :2], b[contain.end : end, :2], atol=1e-12
            )
        for solid, expected in zip(drawn.scene.solids, covered, strict=True):
            own = np.zeros(len(expected), bool) if solid.covered is None else solid.covered
            np.testing.assert_array_equal(own, expected)
            some += expected.any()
    assert some > 10


def test_what_is_covered_would_not_be_seen_if_it_were_drawn():
    for drawn in scenes(6):
        shown = tuple(replace(s, covered=None) for s in drawn.scene.solids)
        frames = np.arange(0, 301, 12)
        _, seen = render_geometry(replace(drawn.scene, solids=shown), (120, 160), frames)
        _, known = render_geometry(drawn.scene, (120, 160), frames)
        np.testing.assert_array_equal(seen, known)


def test_every_movement_is_the_track():
    kinds = set()
    for drawn in scenes():
        for solid, moves in zip(drawn.scene.solids, drawn.movements, strict=True):
            path, lift = solid.trajectory, lifts(solid)
            resting = np.ones(drawn.scene.frames - 1, bool)
            for move in moves:
                kinds.add(move.action)
                resting[move.start : move.end] = False
                check_movement(path, lift, move.action, move.start, move.end)
            steps = np.abs(np.diff(path.positions, axis=0)).max(1)
            turns = np.abs(np.diff(path.rotations, axis=0)).max((1, 2))
            assert steps[resting].max(initial=0) < 1e-12
            assert turns[resting].max(initial=0) < 1e-12
    assert kinds == {"_slide", "_pick_place", "_rotate", "_contain", "_no_op"}


def check_movement(path: Trajectory, lift: np.ndarray, action: str, start: int, end: int):
    flat, length = path.positions[start : end + 1, :2], end - start
    assert 20 <= length <= 30
    turn = path.rotations[start].T @ path.rotations[end]
    assert lift[[start, end]] == pytest.approx([0, 0], abs=1e-9)
    if action == "_rotate":
        # A quarter about the solid's own second axis, in even steps, in place.
        np.testing.assert_allclose(turn, [[0, 0, 1], [0, 1, 0], [-1, 0, 0]], atol=1e-9)
        step = path.rotations[start].T @ path.rotations[start + 1]
        assert np.arccos(step[0, 0]) == pytest.approx(np.pi / 2 / length)
    else:
        np.testing.assert_allclose(turn, np.eye(3), atol=1e-12)
    share = np.arange(length + 1) / length
    if action in ("_pick_place", "_contain"):
        up, down = int(0.2 * length + 1e-9), int(0.8 * length + 1e-9)
        assert lift[start + up] == pytest.approx(2) == lift[start + down]
        assert np.diff(lift[start : end + 1])[[0, up - 1]] == pytest.approx(2 / up)
        share = np.clip((np.arange(length + 1) - up) / (down - up), 0, 1)
    else:
        assert np.abs(lift[start : end + 1]).max() < 1e-9
    if action in ("_rotate", "_no_op"):
        share = np.zeros(length + 1)
    np.testing.assert_allclose(flat, flat[0] + share[:, None] * (flat[-1] - flat[0]), atol=1e-9)
    assert np.abs(flat).max() <= 3


def test_at_most_two_groups_move_at_once_under_max2action():
    def busiest(drawn: CaterScene) -> int:
        moving = np.zeros(drawn.scene.frames, int)
        for i, moves in enumerate(drawn.movements):
            for m in moves:
                # What is inside another at that time moves, or stays, as part of its group.
                covered = drawn.scene.solids[i].covered
                if covered is None or not covered[m.start]:
                    moving[m.start : m.end] += 1
        return int(moving.max())

    assert max(map(busiest, scenes(12, "max2action"))) == 2
    assert max(map(busiest, scenes())) > 4


def test_the_moving_camera_goes_from_key_to_key_and_looks_at_the_middle():
    for index in range(3):
        camera = sample_cater(5, index, 121, camera_motion=True).scene.camera
        assert isinstance(camera, CameraPath)
        start = wide_cater_camera().position
        assert np.abs(camera.positions[0] - start).max() <= 0.5
        keys = camera.positions[::30]
        for one, other in pairwise(keys):
            assert np.abs(other[2] - np.array([8, 10, 12])).min() < 1e-6
            changed = np.abs(np.abs(other[:2]) - 10) < 1e-6
            assert (changed | (np.abs(other[:2] - one[:2]) < 1e-6)).all()
        middle = camera.view(np.arange(121)).project(np.zeros((121, 1, 3)))
        assert np.abs(middle[..., :2]).max() < 1e-9


def seen_alone(scene: Scene, keep: int, frames: np.ndarray) -> np.ndarray:
    alone = replace(scene, solids=(scene.solids[keep],))
    return np.asarray(render_geometry(alone, (90, 120), frames)[1] == 1)


@pytest.mark.parametrize("camera_motion", [False, True])
def test_a_mask_is_what_changes_when_its_solid_is_taken_away(camera_motion):
    drawn, frames = sample_cater(2, 1, camera_motion=camera_motion), np.arange(5, 301, 37)
    depth, seen = render_geometry(drawn.scene, (90, 120), frames)
    for i, solid in enumerate(drawn.scene.solids):
        others = tuple(s for s in drawn.scene.solids if s is not solid)
        without, _ = render_geometry(replace(drawn.scene, solids=others), (90, 120), frames)
        np.testing.assert_array_equal(seen == i + 1, without > depth)
        alone = seen_alone(drawn.scene, i, frames)
        assert not ((seen == i + 1) & ~alone).any()
        whole = (alone == (seen == i + 1)).all((1, 2)) & alone.any((1, 2))
        if solid.shape == "spl":
            continue  # its middle is a hole
        view = drawn.scene.camera.view(frames)
        image = view.project(solid.trajectory.positions[frames, None])[:, 0]
        cols, rows = ((image[:, 0] + 1) * 60).astype(int), ((1 - image[:, 1]) * 45).astype(int)
        for frame in np.flatnonzero(whole & (np.abs(image[:, :2]) < 1).all(1)):
            assert seen[frame, rows[frame], cols[frame]] == i + 1
