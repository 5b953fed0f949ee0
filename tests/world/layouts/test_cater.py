import json

import av
import numpy as np
import pytest

from toto.world.cater import sample_cater
from toto.world.labels import ATOMIC, actions_order, actions_present, compound_name, compounds
from toto.world.layouts import LAYOUTS, write_world
from toto.world.render import render

COUNT, FRAMES = 10, 90
GOLDEN_CELLS = [3, 19, 20, 4, 12, 23, 3, 13, 14, 30]
TASKS = ("localize", "actions_present", "actions_order_uniq")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("world") / "cater"
    write_world(LAYOUTS["cater"], out, COUNT, 0, size=48, frames=FRAMES, workers=1)
    return out


def record(folder, index):
    return json.loads((folder / f"scenes/CATER_new_{index:06d}.json").read_text())


def rows(folder, task):
    """Split and classes of each file of a task's lists."""
    found = {}
    for split in ("train", "val"):
        for line in (folder / "lists" / task / f"{split}.txt").read_text().splitlines():
            name, classes = line.split(" ")
            found[name] = (split, [int(c) for c in classes.split(",")])
    return found


def test_the_defaults_are_caters():
    cater = LAYOUTS["cater"]
    assert (cater.size, cater.frames, cater.fps) == (240, 301, 24)
    assert cater.options == {"policy": "all_actions", "camera_motion": False}


def test_lists_name_every_video_and_split_seven_to_three(folder):
    for task in TASKS:
        found = rows(folder, task)
        assert set(found) == {f"CATER_new_{i:06d}.avi" for i in range(COUNT)}
        assert sum(split == "train" for split, _ in found.values()) == 7
    assert len({tuple(sorted((n, s) for n, (s, _) in rows(folder, t).items())) for t in TASKS}) == 1


def test_golden_cells(folder):
    found = rows(folder, "localize")
    assert [found[name][1][0] for name in sorted(found)] == GOLDEN_CELLS


def test_labels_are_those_of_the_scenes_files(folder):
    cells, present, pairs = (rows(folder, task) for task in TASKS)
    for index in range(COUNT):
        name, scene = f"CATER_new_{index:06d}.avi", record(folder, index)
        (snitch,) = [o for o in scene["objects"] if o["shape"] == "spl"]
        x, y, _ = snitch["locations"][str(FRAMES - 1)]
        column, row = np.clip(np.floor([x, y]) + 3, 0, 5).astype(int)
        assert cells[name][1] == [row * 6 + column]
        kinds = {
            (o["shape"], m[0]) for o in scene["objects"] for m in scene["movements"][o["instance"]]
        }
        assert present[name][1] == [i for i, kind in enumerate(ATOMIC) if kind in kinds]
        assert present[name][1] == actions_present(scene)
        assert pairs[name][1] == actions_order(scene)


def test_the_classes_are_named_in_order(folder):
    def lines(task):
        return (folder / "lists" / task / "classes.txt").read_text().splitlines()

    assert [len(lines(task)) for task in TASKS] == [36, 14, 301]
    assert lines("localize")[8] == "row 1, column 2"
    assert lines("actions_present")[11] == "cone_contain"
    assert lines("actions_order_uniq")[7] == compound_name(compounds()[7])


def test_a_scene_has_caters_fields(folder):
    for index in range(COUNT):
        scene, drawn = record(folder, index), sample_cater(0, index, FRAMES)
        assert set(scene) >= {"objects", "relationships", "directions", "movements"}
        for i, thing in enumerate(scene["objects"]):
            solid = drawn.scene.solids[i]
            assert set(thing) == {
                *("shape", "size", "sized", "material", "3d_coords", "rotation", "pixel_coords"),
                *("color", "instance", "locations"),
            }
            assert thing["instance"] in scene["movements"]
            assert list(thing["locations"]) == [str(f) for f in range(FRAMES)]
            track = np.array(list(thing["locations"].values()))
            np.testing.assert_allclose(track, solid.trajectory.positions, atol=1e-6)
            assert thing["3d_coords"] == thing["locations"]["0"]
            x, y, depth = drawn.scene.camera.project(solid.trajectory.positions[0])
            expected = [(x + 1) / 2 * 64, (1 - y) / 2 * 48, depth]
            np.testing.assert_allclose(thing["pixel_coords"], expected, atol=1e-5)
        names = {thing["instance"] for thing in scene["objects"]}
        for moves in scene["movements"].values():
            for action, other, start, end in moves:
                assert (other in names) if action == "_contain" else other is None
                assert 0 <= start < end < FRAMES
        for i, others in enumerate(scene["relationships"]["left"]):
            assert all(i in scene["relationships"]["right"][j] for j in others)


def test_a_video_is_an_avi_that_holds_its_scene(folder):
    path = folder / "videos/CATER_new_000003.avi"
    with av.open(str(path)) as container:
        assert container.format.name == "avi"
        stream = container.streams.video[0]
        assert stream.average_rate == 24
        decoded = np.stack([f.to_ndarray(format="rgb24") for f in container.decode(stream)])
    drawn = render(sample_cater(0, 3, FRAMES).scene, (48, 64)).transpose(0, 2, 3, 1)
    assert decoded.shape == drawn.shape == (FRAMES, 48, 64, 3)
    assert np.abs(decoded.mean(-1) - drawn.mean(-1)).mean() < 2.5
    other = render(sample_cater(0, 4, FRAMES).scene, (48, 64)).transpose(0, 2, 3, 1)
    assert np.abs(decoded.mean(-1) - other.mean(-1)).mean() > 5
