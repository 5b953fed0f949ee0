from dataclasses import replace
from itertools import combinations

import numpy as np

from toto.world.crossings import sample_crossing
from toto.world.render import render_geometry

SCENES = [sample_crossing(0, i, 24) for i in range(12)]
SIDES = (54, 96)


def test_every_solid_is_seen_in_the_first_frame():
    for scene in SCENES:
        assert 2 <= len(scene.solids) <= 4
        _, seen = render_geometry(scene, SIDES, np.arange(1))
        assert set(np.unique(seen)) == set(range(len(scene.solids) + 1))


def test_solids_hide_each_other_for_a_while_and_move():
    hidden = 0
    for scene in SCENES:
        _, seen = render_geometry(scene, SIDES)
        for i, solid in enumerate(scene.solids):
            _, alone = render_geometry(replace(scene, solids=(solid,)), SIDES)
            whole, left = (alone == 1).sum((1, 2)), (seen == i + 1).sum((1, 2))
            assert (left <= whole).all()
            assert left[0] > 0.3 * whole[0]
            hidden += bool((left < 0.6 * whole).any())
        assert any(solid.trajectory.moves for solid in scene.solids)
    assert hidden >= len(SCENES) // 2


def test_solids_never_meet():
    for scene in SCENES:
        for a, b in combinations(scene.solids, 2):
            apart = (a.trajectory.positions - b.trajectory.positions)[:, :2]
            assert (np.linalg.norm(apart, axis=1) >= a.radius + b.radius + 0.24).all()


def test_colours_differ_and_a_scene_is_a_function_of_its_arguments():
    for index, scene in enumerate(SCENES):
        assert len({solid.colour for solid in scene.solids}) == len(scene.solids)
        again = sample_crossing(0, index, 24)
        np.testing.assert_array_equal(scene.camera.matrices, again.camera.matrices)
        for a, b in zip(scene.solids, again.solids, strict=True):
            np.testing.assert_array_equal(a.trajectory.positions, b.trajectory.positions)


def test_the_camera_drifts():
    moved = [np.abs(s.camera.positions[-1] - s.camera.positions[0]).max() for s in SCENES]
    assert np.median(moved) > 0.3
