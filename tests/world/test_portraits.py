import numpy as np
import pytest

from toto.world.portraits import CLASSES, sample_portrait
from toto.world.render import render_geometry


def test_classes_are_colours_and_shapes_in_alphabetical_order():
    assert len(CLASSES) == 32
    assert list(CLASSES) == sorted(CLASSES)
    assert "red_cube" in CLASSES


@pytest.mark.parametrize("label", range(0, 32, 3))
def test_the_main_solid_is_of_its_class_nearest_largest_and_whole(label):
    for index in range(6):
        scene = sample_portrait(0, index, label)
        main = scene.solids[0]
        assert f"{main.colour}_{main.shape}" == CLASSES[label]
        depth, seen = render_geometry(scene, 64)
        areas = np.bincount(seen.ravel(), minlength=len(scene.solids) + 1)[1:]
        assert areas[0] == areas.max() > 60
        edge = np.concatenate([seen[0, 0], seen[0, -1], seen[0, :, 0], seen[0, :, -1]])
        assert not (edge == 1).any()
        for other in np.unique(seen[seen > 1]):
            assert depth[seen == 1].min() < depth[seen == other].min()


def test_pictures_of_a_class_differ_in_size_material_turn_and_place():
    mains = [sample_portrait(0, i, 5).solids[0] for i in range(30)]
    assert {m.material for m in mains} == {"rubber", "metal"}
    assert np.std([m.radius for m in mains]) > 0.1
    assert (np.std([m.trajectory.positions[0, :2] for m in mains], axis=0) > 0.3).all()
    assert len({m.trajectory.rotations[0, 0, 0] for m in mains}) > 20
    counts = {len(sample_portrait(0, i, 5).solids) for i in range(30)}
    assert counts == {1, 2, 3}
    assert sample_portrait(0, 3, 5).solids[0].radius == mains[3].radius
