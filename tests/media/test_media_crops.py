"""Which parts of pictures are kept: random boxes, crops spread evenly, mirrored ones."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from media_files import encode, moving
from PIL import Image, ImageOps

from toto.config import from_dict, to_dict
from toto.errors import UserError
from toto.media.colour import to_rgb
from toto.media.video import open_media, read_clip
from toto.media.view import Box, Place, View

BOXES = View(1, 24, crops=6, scale=(0.08, 1.0), flip=True, seed=3)


def torchvision_box(place: Place, width: int, height: int) -> tuple[int, int, int, int]:
    """`get_params` of RandomResizedCrop, by its rules (pytorch/vision, transforms.py)."""
    for area, ratio, x, y in place.tries:
        w = round(math.sqrt(height * width * area * ratio))
        h = round(math.sqrt(height * width * area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return math.floor(x * (width - w + 1)), math.floor(y * (height - h + 1)), w, h
    in_ratio = width / height
    if in_ratio < min(place.ratios):
        w, h = width, round(width / min(place.ratios))
    elif in_ratio > max(place.ratios):
        w, h = round(height * max(place.ratios)), height
    else:
        w, h = width, height
    return (width - w) // 2, (height - h) // 2, w, h


@given(st.integers(1, 2000), st.integers(1, 2000), st.integers(0, 2**63))
def test_random_boxes_are_torchvisions(width, height, key):
    for place in View(crops=3, scale=(0.08, 1.0), seed=1).places(key):
        assert len(place.tries) == 10
        left, top, wide, high = box = place.box(width, height)
        assert box == torchvision_box(place, width, height)
        assert 0 <= left <= left + wide <= width and 0 <= top <= top + high <= height


def test_draws_of_boxes_are_uniform():
    tries = [
        t
        for key in range(300)
        for p in View(crops=1, scale=(0.2, 0.6)).places(key)
        for t in p.tries
    ]
    areas = np.array([t.area for t in tries])
    logs = np.log([t.ratio for t in tries])
    assert 0.2 <= areas.min() < 0.21 and 0.59 < areas.max() <= 0.6
    assert np.quantile(areas, (0.25, 0.5, 0.75)) == pytest.approx([0.3, 0.4, 0.5], abs=0.02)
    assert abs(logs).max() <= np.log(4 / 3) + 1e-9 and abs(logs.mean()) < 0.02
    assert logs.std() == pytest.approx(2 * np.log(4 / 3) / 12**0.5, rel=0.05)


def test_places_depend_on_seed_and_item_alone():
    assert BOXES.places(7) == BOXES.places(7)
    assert BOXES.places(7) != BOXES.places(8)
    assert BOXES.places(7) != View(1, 24, crops=6, scale=(0.08, 1.0), flip=True).places(7)
    mirrored = [p.mirrored for key in range(200) for p in BOXES.places(key)]
    assert 0.45 < np.mean(mirrored) < 0.55
    # Where the squares lie does not depend on whether they may be mirrored.
    plain, flipped = (View(crops=4, flip=flip).places(9) for flip in (False, True))
    assert [p.along for p in plain] == [p.along for p in flipped]
    assert not any(p.mirrored for p in plain)


def test_crops_spread_evenly_are_slowfasts():
    """Left, centre, right of a wide picture; top, centre, bottom of a high one."""
    places = View(size=8, crops=3, spread="even").places(5)
    assert [p.box(100, 40) for p in places] == [Box(x, 0, 40, 40) for x in (0, 30, 60)]
    assert [p.box(40, 100) for p in places] == [Box(0, y, 40, 40) for y in (0, 30, 60)]
    assert [p.along for p in View(crops=1, spread="even").places(5)] == [0.5]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_boxes_of_images_are_pillows(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(moving(1, 60, 88)[0]).save(tmp_path / "a.png", exif=exif)
    upright = ImageOps.exif_transpose(Image.open(tmp_path / "a.png"))
    difference = abs(seen(tmp_path / "a.png", 4)[0].astype(int) - expected(upright, 4))
    # Pillow rounds between rows and columns, which a turned picture has in the other order.
    assert difference.mean() < 0.5 and (difference > 1).mean() < 0.05


@pytest.mark.parametrize("rotation", [0, 90])
def test_boxes_of_videos_are_the_same_in_all_frames(tmp_path, rotation):
    path = encode(tmp_path / "a.mp4", moving(5, 96, 128), options={"crf": "1"}, rotation=rotation)
    with open_media(str(path)) as media:
        size = media.info.width, media.info.height
        whole = np.concatenate(list(media.chunks(View(1, 96), [Place(0.0), Place(1.0)])))
    assert size == ((128, 96) if not rotation else (96, 128))
    # Both ends of the upright frame together are all of it.
    axis = 3 if rotation else 4
    kept = np.take(whole[:, 1], range(64, 96), axis - 1)
    frames = np.concatenate((whole[:, 0], kept), axis - 1)
    squares = seen(path, 11)
    for frame, found in zip(frames, squares, strict=True):
        image = Image.fromarray(frame.transpose(1, 2, 0))
        assert abs(found.astype(int) - expected(image, 11)).mean() < 1.5


@pytest.mark.parametrize("orientation", [1, 3, 6])
@pytest.mark.parametrize(("height", "width"), [(60, 88), (88, 60), (64, 64)])
def test_whole_images_are_squeezed_as_pillow_does(tmp_path, orientation, height, width):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(moving(1, height, width)[0]).save(tmp_path / "a.png", exif=exif)
    upright = ImageOps.exif_transpose(Image.open(tmp_path / "a.png"))
    expected = np.asarray(upright.resize((24, 24), Image.Resampling.BICUBIC)).transpose(2, 0, 1)
    found = read_clip(str(tmp_path / "a.png"), 0, 1, View(size=24, whole=True))[0]
    assert abs(found.astype(int) - expected).mean() < 0.5


@pytest.mark.parametrize("rotation", [0, 90])
def test_whole_videos_keep_both_ends(tmp_path, rotation):
    path = encode(tmp_path / "a.mp4", moving(5, 96, 128), options={"crf": "1"}, rotation=rotation)
    with open_media(str(path)) as media:
        ends = np.concatenate(list(media.chunks(View(1, 96), [Place(0.0), Place(1.0)])))
    axis = 3 if rotation else 4
    frames = np.concatenate((ends[:, 0], np.take(ends[:, 1], range(64, 96), axis - 1)), axis - 1)
    squeezed = read_clip(str(path), 0, 9, View(1, 32, whole=True))
    for frame, found in zip(frames, squeezed, strict=True):
        image = Image.fromarray(frame.transpose(1, 2, 0)).resize((32, 32), Image.Resampling.BICUBIC)
        assert abs(found.astype(int) - np.asarray(image).transpose(2, 0, 1)).mean() < 1.5


def test_of_a_whole_picture_there_are_no_crops():
    with pytest.raises(UserError, match="crops 2: none of a picture that is kept whole"):
        View(crops=2, whole=True)
    assert View(2, 16, whole=True).without_crops() == View(2, 16, whole=True)


def seen(path, key):
    with open_media(str(path)) as media:
        return np.concatenate(list(media.chunks(BOXES, BOXES.places(key))))


def expected(upright, key):
    squares = []
    for place in BOXES.places(key):
        left, top, wide, high = torchvision_box(place, *upright.size)
        small = to_rgb(upright).resize(
            (24, 24), Image.Resampling.BICUBIC, (left, top, left + wide, top + high)
        )
        small = ImageOps.mirror(small) if place.mirrored else small
        squares.append(np.asarray(small).transpose(2, 0, 1))
    return np.stack(squares).astype(int)


def test_views_are_checked_and_written_down():
    assert from_dict(View, to_dict(BOXES), "it") == BOXES
    for bad in (
        {"scale": (0.1, 1.0)},
        {"flip": True},
        {"spread": "even"},
        {"crops": 2, "scale": (0.5, 0.1)},
        {"crops": 2, "scale": (0.0, 1.0)},
        {"crops": 2, "scale": (0.1, 1.0), "ratio": (2.0, 1.0)},
        {"crops": 3, "spread": "even", "scale": (0.1, 1.0)},
    ):
        with pytest.raises(UserError):
            View(**bad)
