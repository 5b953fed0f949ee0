"""Where items come from: one way to name a source, and a layout for each published form.

A source is named `[layout:]location[?option=value&...]`. Without a layout, it is recognised by
what is there. The location is a path or a URL that fsspec opens; "~" is the home folder. The
docstrings of the layouts say what each reads, and its options.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from toto.errors import UserError
from toto.media.item import Item, is_url
from toto.media.sources.folder import Folder
from toto.media.sources.names import open_source

__all__ = ["Source", "open_source", "read_source", "read_sources"]


@runtime_checkable
class Source(Protocol):
    """Something that lists items."""

    @property
    def name(self) -> str:
        """What the user calls it."""

    def items(self) -> Iterator[Item]:
        """Yield its items, always in the same order.

        Raises:
            UserError: what is there makes no sense.
        """


def read_source(name: str) -> list[Item]:
    """List the items of one source.

    Raises:
        UserError: as `read_sources`.
    """
    return read_sources([name])


def read_sources(names: Sequence[str], out: Path | None = None) -> list[Item]:
    """List the items of several sources, one source after the other.

    `out` is what will be written: no folder may list that.

    Raises:
        UserError: a source is bad or lists nothing, the same part of a file is listed twice, two
            items have the same key, or `out` lies in a folder of files.
    """
    sources: list[Source] = [open_source(name) for name in names]
    if out is not None:
        _check_apart(sources, out)
    items: list[Item] = []
    for source in sources:
        before = len(items)
        items.extend(source.items())
        if len(items) == before:
            raise UserError(f"source {source.name!r}: there is nothing to read in it")
    _check_unique(items)
    return items


def _check_apart(sources: Sequence[Source], out: Path) -> None:
    """Written into a folder of files, they would be its items when the command is run again."""
    for source in sources:
        if not isinstance(source, Folder) or is_url(source.location):
            continue
        folder, where = Path(source.location).resolve(), out.resolve()
        if not where.is_relative_to(folder):
            continue
        if not any(name.startswith(".") for name in where.relative_to(folder).parts):
            raise UserError(f"{out} lies in the source {source.name!r}: choose a place outside")


def _check_unique(items: Sequence[Item]) -> None:
    if twins := _twins(items, _place):
        raise UserError(f"{_shown(twins[1])} is listed twice")
    if twins := _twins(items, lambda item: item.key):
        one, other = map(_shown, twins)
        raise UserError(f"{one} and {other} have the same key {twins[0].key!r}")


def _place(item: Item) -> Any:
    where = item.location
    path = where.path if is_url(where.path) else os.path.abspath(where.path)  # noqa: PTH100  Path.absolute keeps "..", resolve stats
    return path, where.part, where.start or 0.0, where.end


def _twins(items: Sequence[Item], of: Callable[[Item], Any]) -> tuple[Item, Item] | None:
    """Two items of which `of` says the same, the first of those in order.

    Numbers are compared, not the things themselves: of 14 million, those would take gigabytes.
    """
    numbers = np.fromiter((hash(of(item)) for item in items), np.int64, len(items))
    order = np.argsort(numbers, kind="stable")
    same = np.flatnonzero(numbers[order[1:]] == numbers[order[:-1]])
    suspects = np.unique(np.concatenate([order[same], order[same + 1]]))
    seen: dict[Any, Item] = {}
    for i in suspects:
        what = of(items[i])
        if what in seen:
            return seen[what], items[i]
        seen[what] = items[i]
    return None


def _shown(item: Item) -> str:
    where = item.location
    return repr(where.path if where.part is None else f"{where.path} {where.part}")
