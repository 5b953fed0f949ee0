"""CATER's layout: where the snitch is in the last frame of a video (rohitgirdhar/CATER: README.md).

`videos/*.avi`, and `lists/localize/train.txt` and `val.txt`: lines of a file's name and a cell's
number. The cells are those of a grid of 6 x 6 on the plane, row by row.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from toto.errors import MediaError, UserError
from toto.media.item import Item, Location
from toto.media.sources.places import lines
from toto.media.video import open_media
from toto.media.view import View
from toto.tasks.results import RESAMPLES, FineTuneResult, quantiles
from toto.tokens.store import TokenDataset

_SIDE = 6
CELLS = [f"{number:02d}" for number in range(_SIDE**2)]
"""the classes, in order"""


@dataclass(frozen=True, kw_only=True)
class PermanenceResult(FineTuneResult):
    """Scores of a model that tells the snitch's cell."""

    l1: float
    """mean number of rows and columns from the true cell (CATER, task 3)"""
    l1_interval: tuple[float, float]
    """95 % bootstrap interval of it, over the test videos"""

    @classmethod
    def of(
        cls,
        guesses: Int[np.ndarray, "items best"],
        labels: list[Int[np.ndarray, " _"]],
        classes: list[str],
        **rest: Any,
    ) -> "PermanenceResult":
        apart = steps_between(labels[2], guesses[:, 0])
        draws = np.random.default_rng(0).integers(len(apart), size=(RESAMPLES, len(apart)))
        l1 = {"l1": float(apart.mean()), "l1_interval": quantiles(apart[draws].mean(1))}
        return super().of(guesses, labels, classes, **rest, **l1)

    def table(self) -> str:
        """The result in words."""
        low, high = self.l1_interval
        return self.in_words(
            self.attention, below=[f"  L1        {self.l1:6.2f}  {low:.2f}-{high:.2f}"]
        )


def steps_between(
    cells: Int[np.ndarray, " n"], others: Int[np.ndarray, " n"]
) -> Int[np.ndarray, " n"]:
    """Rows and columns from each cell to another."""
    return np.abs(cells // _SIDE - others // _SIDE) + np.abs(cells % _SIDE - others % _SIDE)


def read_cater(root: Path) -> list[Item]:
    """The videos of both lists, each with its cell.

    Raises:
        UserError: a list is missing or empty, a line makes no sense, or a video is named twice.
    """
    items = [item for split in ("train", "val") for item in _listed(root, split)]
    names = [item.key for item in items]
    if len(set(names)) < len(names):
        twice = next(name for i, name in enumerate(names) if name in names[:i])
        raise UserError(f"{root}: {twice!r} is listed twice")
    return items


def _listed(root: Path, split: str) -> list[Item]:
    path = root / "lists" / "localize" / f"{split}.txt"
    if not path.is_file():
        raise UserError(f"{root} holds no lists/localize/{split}.txt, as CATER does")
    items: list[Item] = []
    for number, line in enumerate(map(str.strip, lines(str(path))), 1):
        if not line:
            continue
        name, _, cell = line.rpartition(" ")
        if not cell.isdecimal() or int(cell) >= len(CELLS) or not name:
            raise UserError(f"{path}, line {number}: {line!r}: expected a file and 0 to 35")
        place = Location(str(root / "videos" / name))
        items.append(Item(place, name, CELLS[int(cell)], split, str(root)))
    if not items:
        raise UserError(f"{path} is empty")
    return items


def evenly(items: list[Item], frames: int, size: int) -> View:
    """The view of `frames` whole frames from the first to the last one of the first video.

    Raises:
        UserError: that video cannot be read, or is shorter.
    """
    place = items[0].location
    try:
        with open_media(place) as media:
            count, fps = media.count(View(stride=1)), media.fps
    except MediaError as error:
        raise UserError(f"{place.path}: {error}") from error
    if fps is None or not 2 <= frames <= count:
        raise UserError(f"frames {frames}: {place.path} has {count}, {fps or 'unknown'} a second")
    return View(stride=1, size=size, rate=fps * (frames - 1) / (count - 1), whole=True)


def check_cater(dataset: TokenDataset, frames: int) -> None:
    """Refuse videos whose last frame is not the last one that is read, and labels of others.

    Raises:
        UserError: a video has not as many kept frames, or a label is no cell.
    """
    if others := set(dataset.encoded("label")[0]) - set(CELLS):
        raise UserError(f"{dataset.folder}: label {min(others)!r} is no cell, 00 to 35")
    for row in np.flatnonzero(dataset.column("frames") != frames)[:1].tolist():
        item = dataset.item(row)
        raise UserError(
            f"{dataset.folder}: {item.key} has {item.frames} frames, not {frames}: the videos must "
            "be of one length"
        )
