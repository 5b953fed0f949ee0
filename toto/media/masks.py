"""Masks of objects: images whose pixels are objects' numbers, 0 where there is none."""

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
    mask.putpalette(palette().tobytes())
    mask.save(path)


def read_mask(path: Path) -> UInt8[np.ndarray, "height width"]:
    """The numbers of an image with a palette, or of a grey one.

    Void pixels are background. Where a grey mask knows 0 and 255 alone, as those of DAVIS-2016 do,
    255 is object 1.

    Raises:
        MediaError: the file is missing, broken, or has colours for numbers.
    """
    with open_file(Location(str(path))) as file, blaming_the_bytes(), Image.open(file) as image:  # type: ignore[arg-type]
        if image.mode not in ("P", "L"):
            raise MediaError(f"pixels of mode {image.mode}, not numbers of objects")
        is_grey, numbers = image.mode == "L", np.array(image)
    if is_grey and not (numbers % _VOID).any():
        return numbers // _VOID
    numbers[numbers == _VOID] = 0
    return numbers
