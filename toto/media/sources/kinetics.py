"""Kinetics: SlowFast's lists of paths and labels, and the released tables of YouTube ids."""

import csv
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass

from toto.errors import UserError
from toto.media.item import Item, Location, is_url
from toto.media.sources.layout import Layout, split_of, with_segment
from toto.media.sources.places import above, is_file, joiner, lines, name_of, tidy
from toto.media.sources.rows import Row
from toto.media.sources.stems import Stems

# A path ends in a suffix, and its label follows the last one: both may contain spaces and commas.
_WITH_SUFFIX = re.compile(r"^(.*\.\w+)(?:\s*,\s*|\s+)(\S.*)$")
_WITHOUT_SUFFIX = re.compile(r"^(.*\S)(?:\s*,\s*|\s+)([^\s,/.]+)$")
_ENDS_IN_SUFFIX = re.compile(r"\.[A-Za-z]\w{1,4}$")
_ID = "youtube_id"


@dataclass(frozen=True, kw_only=True)
class Kinetics(Layout):
    """A CSV file of one of two forms.

    SlowFast's, also VideoMAE's and V-JEPA's (facebookresearch/SlowFast, DATASET.md): lines `path
    label` or `path,label` without a header. The split is the file's stem if that is train, val or
    test. Integer labels become lines of `classes.txt` if it lies beside. A path without a suffix
    that is a folder is one video in numbered frames.

    The released one (cvdfoundation/kinetics-dataset): a header `label,youtube_id,time_start,
    time_end,split`; test tables have no label. The clip is `<id>_<start:06d>_<end:06d>` with a
    video's suffix anywhere below `root`, or the same without the zeros; else, of a whole video
    `<id>`, the segment. A clip that is not there stays an item: reading it says so.

    Attributes:
        root: where the videos are; the CSV's folder if not given.
        sep: what lies between path and label; without it, a space or a comma after the suffix.
    """

    root: str | None = None
    sep: str | None = None

    def items(self) -> Iterator[Item]:
        return self._released() if is_released(self.location) else self._listed()

    def _listed(self) -> Iterator[Item]:
        folder = self.root or above(self.location)
        path, classes = joiner(folder), self._classes()
        split = split_of(name_of(self.location).rpartition(".")[0])
        for number, line in enumerate(lines(self.location), start=1):
            if not line.strip():
                continue
            where = f"{self.location}, line {number}"
            name, label = _split_line(line.strip(), self.sep, where)
            if classes is not None and label is not None and label.isdecimal():
                label = _class(classes, int(label), where)
            key = tidy(name)
            place = path(key)
            part = "frames" if _is_frames(place) else None
            yield self.item(Location(place, part), key, label, split)

    def _classes(self) -> list[str] | None:
        path = joiner(above(self.location))("classes.txt")
        return [line.strip() for line in lines(path)] if is_file(path) else None

    def _released(self) -> Iterator[Item]:
        stems = Stems(self.root or above(self.location))
        path = joiner(stems.folder)
        table = csv.DictReader(lines(self.location))
        for values in table:
            row = Row(values, f"{self.location}, line {table.line_num}")
            name, start, end = _clip(row, stems)
            where = row.checked(Location, path(name), start=start, end=end)
            key = with_segment(name, start, end)
            yield self.item(where, key, row.text("label"), row.split())


def is_released(location: str) -> bool:
    """Whether a CSV file has the header of the released tables."""
    first = next(lines(location), "")
    return _ID in next(csv.reader([first]), [])


def _clip(row: Row, stems: Stems) -> tuple[str, float | None, float | None]:
    """The file of a row of the released table, and the segment if the file is the whole video."""
    name = row.text(_ID)
    start, end = row.number("time_start"), row.number("time_end")
    if name is None or start is None or end is None:
        raise UserError(f"{row.where}: expected {_ID}, time_start and time_end")
    padded = f"{name}_{int(start):06d}_{int(end):06d}"
    clip = stems.find(padded) or stems.find(f"{name}_{int(start)}_{int(end)}")
    if clip is not None:
        return clip, None, None
    whole = stems.find(name)
    return (whole, start, end) if whole is not None else (f"{padded}.mp4", None, None)


def _class(classes: list[str], label: int, where: str) -> str:
    if label >= len(classes):
        raise UserError(
            f"{where}: label {label}: classes.txt has {len(classes)} lines, "
            f"so 0 to {len(classes) - 1} would be accepted"
        )
    return classes[label]


def _split_line(line: str, sep: str | None, where: str) -> tuple[str, str | None]:
    if "\0" in line or line[0] == ",":
        raise UserError(f"{where}: {line!r}: expected 'path label' or 'path,label'")
    if sep is not None:
        path, _, label = line.rpartition(sep)
        return (path.strip(), label.strip() or None) if path.strip() else (line, None)
    match = _WITH_SUFFIX.match(line)
    if match and not _ENDS_IN_SUFFIX.search(match[2]):
        return match[1], match[2]
    if _ENDS_IN_SUFFIX.search(line):
        return line, None
    match = _WITHOUT_SUFFIX.match(line)
    return (match[1], match[2]) if match else (line.rstrip(", "), None)


def _is_frames(path: str) -> bool:
    """Whether it is a local folder; only names without a suffix are worth the question."""
    return not (is_url(path) or _ENDS_IN_SUFFIX.search(path)) and os.path.isdir(path)  # noqa: PTH112
