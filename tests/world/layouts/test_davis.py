import numpy as np
import pytest
from PIL import Image

from toto.media.masks import palette
from toto.world.crossings import sample_crossing
from toto.world.layouts import LAYOUTS, write_world
from toto.world.layouts.davis import first_frame_ids
from toto.world.render import render_geometry

FRAMES = 8


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("world") / "davis"
    write_world(LAYOUTS["davis"], out, 6, 0, size=48, frames=FRAMES, workers=1)
    return out


def names(folder, split):
    return (folder / "ImageSets" / "2017" / f"{split}.txt").read_text().split()


def test_the_folder_is_davis(folder):
    train, val = names(folder, "train"), names(folder, "val")
    assert (len(train), len(val)) == (4, 2)
    assert sorted(train + val) == [f"crossing-{i:06d}" for i in range(6)]
    for name in train + val:
        images = sorted(p.name for p in (folder / "JPEGImages/480p" / name).iterdir())
        masks = sorted(p.name for p in (folder / "Annotations/480p" / name).iterdir())
        assert images == [f"{i:05d}.jpg" for i in range(FRAMES)]
        assert masks == [f"{i:05d}.png" for i in range(FRAMES)]
        assert Image.open(folder / "JPEGImages/480p" / name / "00000.jpg").size == (86, 48)


def test_masks_are_palette_images_with_the_objects_of_the_first_frame(folder):
    for index, name in enumerate(sorted(names(folder, "train") + names(folder, "val"))):
        scene = sample_crossing(0, index, FRAMES)
        _, seen = render_geometry(scene, (48, 86))
        for frame in range(FRAMES):
            mask = Image.open(folder / f"Annotations/480p/{name}/{frame:05d}.png")
            assert mask.mode == "P"
            assert mask.getpalette() == palette().ravel().tolist()
            ids = np.asarray(mask)
            assert ids.dtype == np.uint8
            np.testing.assert_array_equal(ids, seen[frame])
            if frame == 0:
                assert ids.max() == len(scene.solids) == len(np.unique(ids)) - 1


def test_masks_fit_the_pictures(folder):
    """Inside a mask the picture has its object's colour, unlike the floor's grey."""
    name = names(folder, "val")[0]
    scene = sample_crossing(0, int(name[-6:]), FRAMES)
    for frame in (0, FRAMES - 1):
        picture = np.asarray(Image.open(folder / f"JPEGImages/480p/{name}/{frame:05d}.jpg"))
        ids = np.asarray(Image.open(folder / f"Annotations/480p/{name}/{frame:05d}.png"))
        for i, solid in enumerate(scene.solids):
            mean = picture[ids == i + 1].mean(0)
            spread = np.ptp(np.array(solid.rgb)) / max(solid.rgb)
            if spread > 0.5:
                assert np.argmax(mean) == np.argmax(solid.rgb)
                assert np.ptp(mean) > np.ptp(picture[ids == 0].mean(0)) + 15


def test_the_palette_is_pascal_vocs():
    assert palette()[:6].tolist() == [
        *([0, 0, 0], [128, 0, 0], [0, 128, 0], [128, 128, 0], [0, 0, 128], [128, 0, 128]),
    ]
    assert palette()[8].tolist() == [64, 0, 0]
    assert palette()[255].tolist() == [224, 224, 192]
    assert len(np.unique(palette(), axis=0)) == 256


def test_what_the_first_frame_does_not_show_is_background():
    seen = np.zeros((2, 2, 2), np.uint8)
    seen[0, 0], seen[1] = [3, 1], [[1, 2], [3, 3]]
    np.testing.assert_array_equal(first_frame_ids(seen)[1], [[1, 0], [2, 2]])
