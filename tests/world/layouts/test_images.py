from collections import Counter

import numpy as np
import pytest
from PIL import Image

from toto.world.layouts import LAYOUTS, write_world
from toto.world.portraits import CLASSES, sample_portrait
from toto.world.render import render

GOLDEN = [
    "train/red_cylinder",
    "train/gray_sphere",
    "val/cyan_cube",
    "train/red_cube",
    "train/yellow_cylinder",
    "train/purple_cube",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("world") / "images"
    write_world(LAYOUTS["images"], out, 192, 0, size=32, workers=1)
    return out


def test_the_folder_is_an_image_folder(folder):
    paths = sorted(folder.glob("*/*/*.JPEG"))
    assert len(paths) == 192
    assert sorted(int(p.stem) for p in paths) == list(range(192))
    for split, share in (("train", 154), ("val", 38)):
        per_class = Counter(p.parent.name for p in paths if p.parts[-3] == split)
        assert sorted(per_class) == list(CLASSES)
        assert max(per_class.values()) - min(per_class.values()) <= 1
        assert sum(per_class.values()) == share
    assert {p.name for p in folder.iterdir()} == {
        *("train", "val", "world.json", ".lock"),
    }


def test_golden_labels(folder):
    names = {int(p.stem): f"{p.parts[-3]}/{p.parts[-2]}" for p in folder.glob("*/*/*.JPEG")}
    assert [names[i] for i in range(6)] == GOLDEN


def test_a_picture_holds_its_scene(folder):
    for path in sorted(folder.glob("val/*/*.JPEG"))[:8]:
        picture = np.asarray(Image.open(path)).astype(int)
        scene = sample_portrait(0, int(path.stem), CLASSES.index(path.parent.name))
        drawn = render(scene, 32)[0].transpose(1, 2, 0)
        assert np.abs(picture - drawn).mean() < 6


def test_colours_are_told_apart_by_the_main_solid(folder):
    """The picture's middle has the class's colour more often than any other."""
    right = 0
    hues = {"red": (1, 0, 0), "green": (0, 1, 0), "blue": (0, 0, 1)}
    paths = [p for p in folder.glob("*/*/*.JPEG") if p.parent.name.split("_")[0] in hues]
    for path in paths:
        pixels = np.asarray(Image.open(path)).astype(float)[8:26, 6:26].reshape(-1, 3)
        vivid = pixels[np.argsort(np.ptp(pixels, axis=1))[-20:]].mean(0)
        best = max(hues, key=lambda name: vivid @ np.array(hues[name]))
        right += best == path.parent.name.split("_")[0]
    assert right / len(paths) > 0.8
