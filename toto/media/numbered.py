"""A folder of numbered images that is one video."""

import re
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from toto.errors import MediaError
from toto.media.file import MediaInfo, kind_of, open_file
from toto.media.image import open_image
from toto.media.item import Location
from toto.media.picture import Picture

_NUMBER = re.compile(r"(\d+)\D*$")
_DEFAULT_FPS = 30.0


class NumberedFrames:
    """The images of a folder, in the order of the last number in their names.

    Raises:
        MediaError: there are none, two have one number, or the first is no image.
    """

    def __init__(self, location: Location) -> None:
        self._fps = location.fps or _DEFAULT_FPS
        self._files = _numbered(Path(location.path))
        first = self._files[0]
        with open_file(Location(str(first))) as file:
            if kind_of(file) != "image":
                raise MediaError(f"{first.name}: not an image")
            with open_image(file) as image:
                self.info = MediaInfo(
                    kind="video",
                    width=image.info.width,
                    height=image.info.height,
                    fps=location.fps,
                    frames=len(self._files),
                )

    def pictures(self) -> Iterator[Picture]:
        """Yield all pictures; those that are not kept are not read.

        Raises:
            MediaError: by a picture whose file is no image or broken.
        """
        for index, file in enumerate(self._files):
            yield Picture(index / self._fps, partial(_squares, file))


def _numbered(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise MediaError("no such folder")
    found: dict[int, Path] = {}
    for file in folder.iterdir():
        number = _NUMBER.search(file.stem)
        if file.name.startswith(".") or number is None or not file.is_file():
            continue
        if int(number[1]) in found:
            raise MediaError(f"{found[int(number[1])].name} and {file.name} have one number")
        found[int(number[1])] = file
    if not found:
        raise MediaError("no numbered images in the folder")
    return [found[number] for number in sorted(found)]


def _squares(
    path: Path, size: int, places: Sequence[float]
) -> UInt8[np.ndarray, "places 3 size size"]:
    try:
        with open_file(Location(str(path))) as file:
            if kind_of(file) != "image":
                raise MediaError("not an image")
            with open_image(file) as image:
                return next(image.pictures()).squares(size, places)
    except MediaError as error:
        raise MediaError(f"{path.name}: {error}") from None
