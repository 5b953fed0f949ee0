"""DAVIS's layout: videos as numbered images, and masks that number their objects.

`JPEGImages/480p/<name>/00000.jpg ...`, `Annotations/480p/<name>/00000.png ...`, and which belong
to a split in `ImageSets/2017/<split>.txt` (davisvideochallenge/davis2017-evaluation:
davis2017/davis.py). Of a video that is only to be tracked, the first frame alone has a mask.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from toto.errors import MediaError, UserError
from toto.media.masks import read_mask
from toto.media.video import read_clip
from toto.media.view import View

_IMAGES, _MASKS, _LISTS = "JPEGImages/480p", "Annotations/480p", "ImageSets/2017"


@dataclass(frozen=True)
class Video:
    """One video, and the masks that are known."""

    name: str
    frames: list[Path]
    masks: list[Path]
    """of all frames, or of the first alone"""

    @property
    def is_measured(self) -> bool:
        """Whether the truth is known."""
        return len(self.masks) == len(self.frames) > 2

    def pixels(self, size: int) -> UInt8[np.ndarray, "frames 3 size size"]:
        """The frames, each squeezed into a square.

        Raises:
            UserError: one cannot be read.
        """
        return np.stack([_squeezed(path, size) for path in self.frames])

    def first_mask(self) -> UInt8[np.ndarray, "height width"]:
        """What is to be tracked.

        Raises:
            UserError: it cannot be read, or shows nothing.
        """
        mask = _mask(self.masks[0])
        if not mask.any():
            raise UserError(f"{self.masks[0]} shows no object")
        return mask

    def mask(
        self, frame: int, first: UInt8[np.ndarray, "height width"]
    ) -> UInt8[np.ndarray, "height width"]:
        """Where the first mask's objects are in a frame; what comes later is background.

        Raises:
            UserError: the mask cannot be read, or is of another size.
        """
        mask = _mask(self.masks[frame])
        if mask.shape != first.shape:
            raise UserError(f"{self.masks[frame]} is of {mask.shape}, the first of {first.shape}")
        mask[mask > first.max()] = 0
        return mask


def read_davis(root: Path, split: str) -> list[Video]:
    """The videos of a split, by name; all that have masks where the folder has no lists.

    Raises:
        UserError: the folder is not of this layout, has no such split, or files are missing.
    """
    if not (root / _IMAGES).is_dir() or not (root / _MASKS).is_dir():
        raise UserError(f"{root} holds no {_IMAGES} and {_MASKS}, as DAVIS does")
    names = _names(root, split)
    if not names:
        raise UserError(f"{root} holds no video of {split!r}")
    return [_video(root, name) for name in names]


def _names(root: Path, split: str) -> list[str]:
    lists = root / _LISTS
    if not lists.is_dir():
        images, masks = ({x.name for x in (root / y).iterdir()} for y in (_IMAGES, _MASKS))
        return sorted(images & masks)
    if not (lists / f"{split}.txt").is_file():
        known = ", ".join(sorted(path.stem for path in lists.glob("*.txt")))
        raise UserError(f"split {split!r}: {lists} has {known}")
    return sorted(set((lists / f"{split}.txt").read_text().split()))


def _video(root: Path, name: str) -> Video:
    frames = _frames(root / _IMAGES / name)
    if not frames:
        raise UserError(f"{root / _IMAGES / name} holds no frames: .jpg or .png")
    masks = [root / _MASKS / name / f"{frame.stem}.png" for frame in frames]
    there = [mask for mask in masks if mask.is_file()]
    if there not in (masks, masks[:1]):
        missing = next(mask for mask in masks if mask not in there)
        raise UserError(f"{missing} is missing: all frames have masks, or the first one alone")
    return Video(name, frames, there)


def _frames(folder: Path) -> list[Path]:
    found = sorted(folder.iterdir()) if folder.is_dir() else []
    return [path for path in found if path.suffix in (".jpg", ".png") and path.name[0] != "."]


def _squeezed(path: Path, size: int) -> UInt8[np.ndarray, "3 size size"]:
    try:
        return read_clip(str(path), 0, 1, View(size=size, whole=True))[0]
    except MediaError as error:
        raise UserError(f"{path}: {error}") from error


def _mask(path: Path) -> UInt8[np.ndarray, "height width"]:
    try:
        return read_mask(path)
    except MediaError as error:
        raise UserError(f"{path}: {error}") from error
