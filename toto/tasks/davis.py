"""DAVIS's layout: videos as numbered images, and masks that number their objects.

`JPEGImages/480p/<name>/00000.jpg ...`, `Annotations/480p/<name>/00000.png ...`, and which belong
to a split in `ImageSets/2017/<split>.txt` (davisvideochallenge/davis2017-evaluation:
davis2017/davis.py). Of a video that is only to be tracked, the first frame alone has a mask.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from toto.config import fingerprint
from toto.errors import MediaError, UserError
from toto.media.masks import read_mask, shows_white
from toto.media.sources.places import lines
from toto.media.video import read_clip
from toto.media.view import View
from toto.tokens.rows import checksum

_IMAGES, _MASKS, _LISTS = "JPEGImages/480p", "Annotations/480p", "ImageSets/2017"

Mask = UInt8[np.ndarray, "height width"]


@dataclass(frozen=True)
class Video:
    """One video, and the masks that are known.

    Its objects are what the first mask shows. Here they are numbered without gaps, from 1 on, in
    the order of their numbers in the files; what comes later is background.
    """

    name: str
    frames: list[Path]
    masks: list[Path]
    """of all frames, or of the first alone"""

    @property
    def is_measured(self) -> bool:
        """Whether there are frames that count, and their masks."""
        return len(self.masks) == len(self.frames) > 2

    @cached_property
    def numbers(self) -> list[int]:
        """What the files call the objects.

        Raises:
            UserError: the first mask cannot be read, or shows nothing.
        """
        found = [i for i in np.unique(self._read(0)).tolist() if i]
        if not found:
            raise UserError(f"{self.masks[0]} shows no object")
        return found

    @cached_property
    def first(self) -> Mask:
        """What is to be tracked."""
        return self._renumbered(self._read(0))

    def mask(self, frame: int) -> Mask:
        """Where the objects are in a frame.

        Raises:
            UserError: the mask cannot be read, or is of another size.
        """
        mask = self._read(frame)
        if mask.shape != self.first.shape:
            sizes = f"{mask.shape}, the first of {self.first.shape}"
            raise UserError(f"{self.masks[frame]} is of {sizes}")
        return self._renumbered(mask)

    def as_in_files(self, mask: Mask) -> Mask:
        """A mask with the numbers of the files."""
        return np.array([0, *self.numbers], np.uint8)[mask]

    def pixels(self, size: int) -> UInt8[np.ndarray, "frames 3 size size"]:
        """The frames, each squeezed into a square.

        Raises:
            UserError: one cannot be read.
        """
        return np.stack([_squeezed(path, size) for path in self.frames])

    @property
    def fingerprint(self) -> str:
        """Of the masks' bytes, and of the frames' names and sizes."""
        masks = [checksum(path) for path in self.masks]
        return fingerprint([masks, [(path.name, path.stat().st_size) for path in self.frames]])

    @cached_property
    def _is_white(self) -> bool:
        with _named(self.masks[0]):
            return shows_white(self.masks[0])

    def _read(self, frame: int) -> Mask:
        with _named(self.masks[frame]):
            return read_mask(self.masks[frame], self._is_white)

    def _renumbered(self, mask: Mask) -> Mask:
        places = np.zeros(256, np.uint8)
        places[self.numbers] = np.arange(1, len(self.numbers) + 1)
        return places[mask]


def read_davis(root: Path, split: str) -> list[Video]:
    """The videos of a split, in its order; all that have masks where the folder has no lists.

    Raises:
        UserError: the folder is not of this layout, has no such split, files are missing, or a
            first mask shows nothing.
    """
    if not (root / _IMAGES).is_dir() or not (root / _MASKS).is_dir():
        raise UserError(f"{root} holds no {_IMAGES} and {_MASKS}, as DAVIS does")
    names = _names(root, split)
    if not names:
        raise UserError(f"{root} holds no video of {split!r}")
    videos = [_video(root, name) for name in names]
    for video in videos:
        _ = video.numbers  # what is wrong with one is said before hours are spent on others
    return videos


def _names(root: Path, split: str) -> list[str]:
    folder = root / _LISTS
    if not folder.is_dir():
        images, masks = (
            {path.name for path in (root / kind).iterdir() if path.is_dir()}
            for kind in (_IMAGES, _MASKS)
        )
        return sorted(images & masks)
    path = folder / f"{split}.txt"
    if not path.is_file():
        known = ", ".join(sorted(path.stem for path in folder.glob("*.txt")))
        raise UserError(f"split {split!r}: {folder} has {known or 'none'}")
    names = [line.strip() for line in lines(str(path))]
    for name in names:
        if Path(name).name != name or name == ".." or len(name.encode()) > 255:
            raise UserError(f"{path}: {name[:80]!r} is no name of a video")
    return [*dict.fromkeys(filter(None, names))]


def _video(root: Path, name: str) -> Video:
    frames = _frames(root / _IMAGES / name)
    if not frames:
        raise UserError(f"{root / _IMAGES / name} holds no frames: .jpg or .png")
    masks = [root / _MASKS / name / f"{frame.stem}.png" for frame in frames]
    if len(set(masks)) < len(masks):
        raise UserError(f"{root / _IMAGES / name} holds two frames of one number")
    there = [mask for mask in masks if mask.is_file()]
    if there not in (masks, masks[:1]):
        missing = next(mask for mask in masks if mask not in there)
        raise UserError(f"{missing} is missing: all frames have masks, or the first one alone")
    return Video(name, frames, there)


def _frames(folder: Path) -> list[Path]:
    """By number where all names are numbers, else by name."""
    paths = folder.iterdir() if folder.is_dir() else ()
    found = [path for path in paths if path.suffix in (".jpg", ".png") and path.name[0] != "."]
    if all(path.stem.isdecimal() for path in found):
        return sorted(found, key=lambda path: int(path.stem))
    return sorted(found)


def _squeezed(path: Path, size: int) -> UInt8[np.ndarray, "3 size size"]:
    with _named(path):
        return read_clip(str(path), 0, 1, View(size=size, whole=True))[0]


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Of a folder in which each file is needed, a broken one is the user's business."""
    try:
        yield
    except MediaError as error:
        raise UserError(f"{path}: {error}") from error
