import av
import numpy as np
import pytest

from toto.world.actions import ACTIONS, sample_scene
from toto.world.layouts.actions import split_and_action, write_actions
from toto.world.render import render

GOLDEN_LABELS = [2, 4, 5, 0, 5, 3, 3, 1, 3, 2, 1, 0, 4, 3, 5, 2, 4, 4, 1, 5]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("world") / "actions"
    write_actions(out, 20, 0, 16, 8, workers=1)
    return out


def test_golden_labels():
    labels = [split_and_action(0, i) for i in range(20)]
    assert [label for _, label in labels] == GOLDEN_LABELS
    assert "".join(split[1] for split, _ in labels) == "rrerrarrer" * 2
    other = [split_and_action(4, i) for i in range(60)]
    assert [split_and_action(3, i) for i in range(60)] != other


def test_the_folder_is_kinetics(folder):
    assert (folder / "classes.txt").read_text().split() == list(ACTIONS)
    rows = {}
    for split in ("train", "val", "test"):
        for line in (folder / f"{split}.csv").read_text().splitlines():
            path, label = line.split(" ")
            rows[path] = (split, int(label))
    assert rows == {f"videos/{i:06d}.mp4": split_and_action(0, i) for i in range(20)}
    assert all((folder / path).stat().st_size for path in rows)


def test_a_video_holds_its_scene(folder):
    with av.open(str(folder / "videos/000007.mp4")) as container:
        decoded = [f.to_ndarray(format="rgb24") for f in container.decode(video=0)]
    # Grey, as the file keeps colours at half resolution.
    grey = np.stack(decoded).mean(-1)
    distance = []
    for index in (7, 6, 8):
        _, label = split_and_action(0, index)
        drawn = render(sample_scene(0, index, ACTIONS[label], 8), 16).mean(1)
        distance.append(np.abs(grey - drawn).mean())
    assert distance[0] < 4.5
    assert min(distance[1:]) > 2 * distance[0]
