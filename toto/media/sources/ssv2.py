"""Something-Something v2: its released lists in JSON."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from toto.errors import UserError
from toto.media.item import Item, Location
from toto.media.sources.layout import Layout, split_of
from toto.media.sources.places import above, is_file, is_folder, joiner, lines, name_of
from toto.media.sources.stems import Stems

# What the released archives unpack to.
_VIDEOS = "20bn-something-something-v2"


@dataclass(frozen=True, kw_only=True)
class SomethingV2(Layout):
    """`something-something-v2-train.json` or a sibling: a list of {id, template, ...}.

    The class is the template without its brackets; the test list has none. If the labels' file
    (`...-labels.json`, class to number) lies beside, every class must be in it. The split is the
    last word of the file's name. A video is `<id>.webm`, or `<id>.mp4` and the like.

    Attributes:
        videos: their folder; `20bn-something-something-v2` beside the list if that is there, else
            the list's own folder.
    """

    videos: str | None = None

    def items(self) -> Iterator[Item]:
        rows = _read(self.location)
        if not _is_list(rows):
            raise UserError(f"{self.location!r}: expected a list of {{id, template, ...}}")
        classes, split = self._classes(), split_of(self._word())
        stems = Stems(self.videos or self._folder())
        path = joiner(stems.folder)
        for number, row in enumerate(rows):
            label = _label(row, classes, f"{self.location}, entry {number}")
            key = stems.find(str(row["id"])) or f"{row['id']}.webm"
            yield self.item(Location(path(key)), key, label, split)

    def _word(self) -> str:
        return name_of(self.location).rpartition(".")[0].rpartition("-")[2]

    def _folder(self) -> str:
        beside = joiner(above(self.location))(_VIDEOS)
        return beside if is_folder(beside) else above(self.location)

    def _classes(self) -> set[str] | None:
        name = name_of(self.location).removesuffix(f"{self._word()}.json") + "labels.json"
        path = joiner(above(self.location))(name)
        if not is_file(path):
            return None
        classes = _read(path)
        if not isinstance(classes, dict):
            raise UserError(f"{path!r}: expected classes and their numbers")
        return set(classes)


def holds_list(location: str) -> bool:
    """Whether a JSON file is of the released lists' form."""
    return _is_list(_read(location))


def _is_list(rows: Any) -> bool:
    is_list = isinstance(rows, list) and bool(rows)
    return is_list and all(isinstance(row, dict) and "id" in row for row in rows)


def _read(location: str) -> Any:
    try:
        return json.loads("".join(lines(location)))
    except json.JSONDecodeError as error:
        raise UserError(f"{location!r}: not JSON: {error}") from None


def _label(row: dict[str, Any], classes: set[str] | None, where: str) -> str | None:
    template = row.get("template")
    if template is None:
        return None
    if not isinstance(template, str):
        raise UserError(f"{where}: template {template!r}: expected text")
    label = template.replace("[", "").replace("]", "")
    if classes is not None and label not in classes:
        raise UserError(f"{where}: class {label!r} is not in the labels' file beside")
    return label
