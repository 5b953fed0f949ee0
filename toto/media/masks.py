"""Masks of objects: images whose pixels are objects' numbers, 0 where there is none."""

from functools import cache
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from toto.errors import MediaError
from toto.media.file import open_file
from toto.media.image import blaming_the_bytes
from toto.media.item import Location

# Pixels of no known object, in DAVIS's masks.
_VOID = 255


def palette() -> UInt8[np.ndarray, "256 3"]:
    """The colours of object numbers in DAVIS: a number's bits, dealt out to red, green and blue."""
    numbers = np.arange(256)
    colours = np.zeros((256, 3), np.uint8)
    for place in range(8):
        for channel in range(3):
            bit = numbers >> (3 * place + channel) & 1
            colours[:, channel] |= (bit << (7 - place)).astype(np.uint8)
    return colours


def write_mask(path: Path, numbers: UInt8[np.ndarray, "height width"]) -> None:
    """Write a PNG of numbers with DAVIS's colours."""
    mask = Image.fromarray(numbers)
    mask.putpalette(_colours())
    mask.save(path)


@cache  # they are asked for with every frame
def _colours() -> bytes:
    return palette().tobytes()


def read_mask(path: Path, is_white: bool = False) -> UInt8[np.ndarray, "height width"]:
    """The numbers of an image with a palette, or of a grey one. Void pixels are background.

    Args:
        path: of the image.
        is_white: whether it shows one object in white, as the masks of DAVIS-2016 do: object 1.

    Raises:
        MediaError: the file is missing, broken, or has colours for numbers.
    """
    numbers, _ = _numbers(path)
    if is_white:
        return (numbers > _VOID // 2).astype(np.uint8)
    numbers[numbers == _VOID] = 0
    return numbers


def shows_white(path: Path) -> bool:
    """Whether a mask is grey and knows black and white alone.

    Raises:
        MediaError: as `read_mask`.
    """
    numbers, is_grey = _numbers(path)
    return is_grey and bool(np.isin(numbers, (0, _VOID)).all())


def _numbers(path: Path) -> tuple[UInt8[np.ndarray, "height width"], bool]:
    """The pixels as they are, and whether they have no palette."""
    with open_file(Location(str(path))) as file, blaming_the_bytes(), Image.open(file) as image:  # type: ignore[arg-type]
        if image.mode not in ("P", "L"):
            raise MediaError(f"pixels of mode {image.mode}, not numbers of objects")
        return np.array(image), image.mode == "L"
