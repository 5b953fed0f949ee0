import numpy as np
import pytest
from PIL import Image

from toto.errors import MediaError
from toto.media.masks import read_mask, shows_white, write_mask

NUMBERS = np.array([[0, 1, 2], [3, 255, 0]], np.uint8)


def test_numbers_come_back_and_void_is_background(tmp_path):
    write_mask(tmp_path / "mask.png", NUMBERS)
    with Image.open(tmp_path / "mask.png") as image:
        assert image.mode == "P" and np.array_equal(np.asarray(image), NUMBERS)
    assert read_mask(tmp_path / "mask.png").tolist() == [[0, 1, 2], [3, 0, 0]]


def test_grey_masks_of_one_object_are_white(tmp_path):
    white, numbers, coloured = (tmp_path / f"{name}.png" for name in ("white", "numbers", "p"))
    Image.fromarray(np.array([[0, 255, 254, 3]], np.uint8)).save(white)
    Image.fromarray(np.array([[0, 7, 255]], np.uint8)).save(numbers)
    write_mask(coloured, np.array([[0, 255]], np.uint8))
    assert read_mask(white, is_white=True).tolist() == [[0, 1, 1, 0]]
    assert read_mask(numbers).tolist() == [[0, 7, 0]]
    assert not any(map(shows_white, (white, numbers, coloured)))
    Image.fromarray(np.array([[0, 255, 255]], np.uint8)).save(white)
    assert shows_white(white)


def test_what_is_no_mask(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "colours.png")
    write_mask(tmp_path / "cut.png", np.tile(NUMBERS, (50, 50)))
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:60])
    for name, said in (
        ("colours.png", "mode RGB, not numbers"),
        ("cut.png", "truncated or corrupt"),
        ("none.png", "no such file"),
    ):
        with pytest.raises(MediaError, match=said):
            read_mask(tmp_path / name)
