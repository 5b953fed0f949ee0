"""A folder of numbered images that is one video, local or behind a URL."""

import re
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np
from jaxtyping import UInt8

from toto.errors import MediaError
from toto.media.file import MediaInfo, kind_of, open_file
from toto.media.image import open_image
from toto.media.item import Location, is_url
from toto.media.picture import Picture
from toto.media.view import Place

_NUMBER = re.compile(r"(\d+)\D*$")
_DEFAULT_FPS = 30.0


class NumberedFrames:
    """The images of a folder, in the order of the last number in their names.

    Raises:
        MediaError: there are none, two have one number, or the first is no image.
    """

    def __init__(self, location: Location) -> None:
        self._fps = location.fps or _DEFAULT_FPS
        self._files = _numbered(location.path)
        name, place = self._files[0]
        with open_file(Location(place)) as file:
            if kind_of(file) != "image":
                raise MediaError(f"{name}: not an image")
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
        for index, (name, place) in enumerate(self._files):
            yield Picture(index / self._fps, partial(_squares, name, place))


def _numbered(folder: str) -> list[tuple[str, str]]:
    """The images in order: their names, and their paths or URLs."""
    found: dict[int, tuple[str, str]] = {}
    for name, place in _files(folder):
        number = _NUMBER.search(PurePosixPath(name).stem)
        if name.startswith(".") or number is None:
            continue
        other, _ = found.setdefault(int(number[1]), (name, place))
        if other != name:
            raise MediaError(f"{' and '.join(sorted((other, name)))} have one number")
    if not found:
        raise MediaError("no numbered images in the folder")
    return [found[number] for number in sorted(found)]


def _files(folder: str) -> list[tuple[str, str]]:
    """The names of the files directly in a folder, and their paths or URLs."""
    if is_url(folder):
        from toto.media.remote import names_in
        from toto.media.sources.places import joiner

        join = joiner(folder)
        return [(name, join(name)) for name in names_in(folder)]
    if not Path(folder).is_dir():
        raise MediaError("no such folder")
    return [(file.name, str(file)) for file in Path(folder).iterdir() if file.is_file()]


def _squares(
    name: str, place: str, size: int, places: Sequence[Place]
) -> UInt8[np.ndarray, "places 3 size size"]:
    try:
        with open_file(Location(place)) as file:
            if kind_of(file) != "image":
                raise MediaError("not an image")
            with open_image(file) as image:
                return next(image.pictures()).squares(size, places)
    except MediaError as error:
        raise MediaError(f"{name}: {error}") from None
