"""Folders of media, folders of classes (ImageFolder), and folders of numbered frames."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from toto.errors import UserError
from toto.media.item import Item, Location
from toto.media.sources.layout import IMAGES, MEDIA, Layout, split_of, suffix_of
from toto.media.sources.places import files_below, joiner, lines, name_of

_NUMBERED = re.compile(r"\d\.[A-Za-z0-9]+$")


@dataclass(frozen=True, kw_only=True)
class OneFile(Layout):
    """One image or one video."""

    def items(self) -> Iterator[Item]:
        yield self.item(Location(self.location), name_of(self.location))


@dataclass(frozen=True, kw_only=True)
class Folder(Layout):
    """All files below a folder, sorted by key, hidden ones left out.

    If every file lies below folders named train, val or test, these are the splits. The label is
    the next folder's name if every file lies in one.
    """

    def items(self) -> Iterator[Item]:
        keys = files_below(self.location)
        levels, path = Levels.of(keys), joiner(self.location)
        for key in keys:
            split, label = levels.split_and_label(key)
            yield self.item(Location(path(key)), key, label, split)


@dataclass(frozen=True, kw_only=True)
class ImageFolder(Layout):
    """`class/.../file` or `split/class/.../file`, as torchvision's ImageFolder reads it.

    The classes are the folders in alphabetical order; other files than images and videos are
    passed over. Unlike there, media outside of the class folders are an error, not passed over.
    One folder may lie around all splits, as in an archive. Tiny-ImageNet's `val/images` have the
    classes of `val/val_annotations.txt`, its `test/images` none.
    """

    def items(self) -> Iterator[Item]:
        names = files_below(self.location)
        keys = [key for key in names if suffix_of(key) in MEDIA]
        if not keys:
            raise UserError(f"folder {self.location!r}: no images or videos in it")
        root = _root_of(keys)
        has_splits = bool(root) or _have_splits(keys)
        levels, path = Levels(has_splits, has_labels=True), joiner(self.location)
        annotations = f"{root}val/val_annotations.txt"
        is_tiny = annotations in names
        known = _annotated(path(annotations)) if is_tiny else {}
        for key in keys:
            name = key.removeprefix(root)
            if name.count("/") < 1 + has_splits:
                form = "split/class/file" if has_splits else "class/file"
                raise UserError(f"source {self.name!r}: {key!r}: expected {form}")
            split, label = levels.split_and_label(name)
            if is_tiny and name.startswith(("val/images/", "test/images/")):
                label = known.get(name.removeprefix("val/images/"))
            yield self.item(Location(path(key)), key, label, split)


@dataclass(frozen=True, kw_only=True)
class Frames(Layout):
    """Each folder that directly holds numbered images is one video, an image a frame.

    Splits and labels are the folders above it, as in `Folder`.
    """

    fps: float | None = None

    def items(self) -> Iterator[Item]:
        names = files_below(self.location)
        folders = {name.rpartition("/")[0] for name in names if _is_numbered(name)}
        if not folders:
            raise UserError(f"folder {self.location!r}: no numbered images in it or below it")
        if folders == {""}:
            where = Location(self.location, "frames", fps=self.fps)
            yield self.item(where, name_of(self.location))
            return
        keys = sorted(folders - {""})
        if "" in folders:
            raise UserError(
                f"folder {self.location!r}: numbered images beside {keys[0]!r}, which holds "
                "numbered images too: is the folder one video, or are those below?"
            )
        levels, path = Levels.of(keys), joiner(self.location)
        for key in keys:
            split, label = levels.split_and_label(key)
            yield self.item(Location(path(key), "frames", fps=self.fps), key, label, split)


@dataclass(frozen=True)
class Levels:
    """Which levels of the folders mean what: `split/label/...`, either or both left out."""

    has_splits: bool
    has_labels: bool

    @classmethod
    def of(cls, keys: Sequence[str]) -> "Levels":
        """Splits if every key begins with one; labels if every key has a folder after that."""
        has_splits = _have_splits(keys)
        return cls(has_splits, all(key.count("/") > has_splits for key in keys))

    def split_and_label(self, key: str) -> tuple[str | None, str | None]:
        parts = key.split("/", 2)
        split = split_of(parts[0]) if self.has_splits else None
        return split, parts[int(self.has_splits)] if self.has_labels else None


def _have_splits(keys: Sequence[str]) -> bool:
    return all("/" in key and split_of(key[: key.index("/")]) is not None for key in keys)


def _root_of(keys: Sequence[str]) -> str:
    """The folder around all splits, with its slash; nothing if there is none."""
    root, slash, _ = keys[0].partition("/")
    root += slash
    inside = all(key.startswith(root) for key in keys)
    return root if inside and _have_splits([key.removeprefix(root) for key in keys]) else ""


def _annotated(place: str) -> dict[str, str]:
    """The classes of files by Tiny-ImageNet's list: a file, its class and a box in each line."""
    rows = (line.rstrip("\n").split("\t") for line in lines(place))
    return {row[0]: row[1] for row in rows if len(row) > 1}


def _is_numbered(name: str) -> bool:
    return suffix_of(name) in IMAGES and _NUMBERED.search(name) is not None
