import numpy as np
import pytest
from PIL import Image

from toto.errors import MediaError
from toto.media.masks import read_mask, write_mask

NUMBERS = np.array([[0, 1, 2], [3, 255, 0]], np.uint8)


def test_numbers_come_back_and_void_is_background(tmp_path):
    write_mask(tmp_path / "mask.png", NUMBERS)
    with Image.open(tmp_path / "mask.png") as image:
        assert image.mode == "P" and np.array_equal(np.asarray(image), NUMBERS)
    assert read_mask(tmp_path / "mask.png").tolist() == [[0, 1, 2], [3, 0, 0]]


def test_grey_masks_of_one_object_are_white(tmp_path):
    Image.fromarray(np.array([[0, 255]], np.uint8)).save(tmp_path / "white.png")
    Image.fromarray(np.array([[0, 7, 255]], np.uint8)).save(tmp_path / "numbers.png")
    assert read_mask(tmp_path / "white.png").tolist() == [[0, 1]]
    assert read_mask(tmp_path / "numbers.png").tolist() == [[0, 7, 0]]


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
