"""What every layout shares: a source's name and location, and the words for splits."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass

from toto.errors import UserError
from toto.media.item import Item, Location

# As the folders and the tables of Kinetics, Something-Something and Hugging Face call them.
_SPLITS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validate": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
_IMAGES = "jpg jpeg jpe png webp gif bmp ppm pgm pbm pnm tif tiff avif jp2"
_VIDEOS = "mp4 webm mkv avi mov m4v mpg mpeg wmv flv ogv 3gp ts m2ts mjpeg y4m"
IMAGES = frozenset(_IMAGES.split())
VIDEOS = frozenset(_VIDEOS.split())
MEDIA = IMAGES | VIDEOS


@dataclass(frozen=True, kw_only=True)
class Layout:
    """A source that is read by one layout; the fields that follow are its options.

    Attributes:
        name: the source as the user named it.
        location: a file, a folder, a pattern or a URL.
        split: the split of all items that are not told another way.
    """

    name: str
    location: str
    split: str | None = None

    def items(self) -> Iterator[Item]:
        """Yield the items in the source's order.

        Raises:
            UserError: what is there makes no sense.
        """
        raise NotImplementedError

    def item(
        self, where: Location, key: str, label: str | None = None, split: str | None = None
    ) -> Item:
        """An item of this source.

        Raises:
            UserError: it is told to be of another split than the whole source.
        """
        # One string for each class, not one for each item: there are millions.
        label = None if label is None else sys.intern(label)
        return Item(where, key, label, self.split_for(key, split), self.name)

    def split_for(self, key: str, told: str | None) -> str | None:
        """The split of an item for which the source tells `told`.

        Raises:
            UserError: it is not that of the whole source.
        """
        if told is None or self.split is None or told == self.split:
            return told or self.split
        raise UserError(f"source {self.name!r}: {key!r} is of split {told!r}, not {self.split!r}")


def split_of(word: str) -> str | None:
    """The split that a folder or a file names: "val" for "validation"; None for other words."""
    return _SPLITS.get(word)


def suffix_of(name: str) -> str:
    """The last suffix, lower case and without its dot; "" where there is none."""
    return name.rpartition("/")[2].rpartition(".")[2].lower() if "." in name else ""


def with_segment(key: str, start: float | None, end: float | None) -> str:
    """The key of a segment: the file's, then "@START-END" in seconds, down to microseconds."""
    if start is None and end is None:
        return key
    return f"{key}@{_seconds(start or 0.0)}-{'' if end is None else _seconds(end)}"


def _seconds(time: float) -> str:
    return f"{time:.6f}".rstrip("0").rstrip(".")
