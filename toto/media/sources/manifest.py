"""Manifests: a row an image, a video or a segment, in CSV, JSON lines or Parquet."""

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from toto.errors import UserError
from toto.media.item import Item, Location
from toto.media.sources.layout import Layout, suffix_of, with_segment
from toto.media.sources.places import above, expand, joiner, lines, name_of, tidy
from toto.media.sources.rows import Row

SUFFIXES = ("csv", "jsonl", "parquet")
_TEXTS = ("path", "label", "split", "key")
_NUMBERS = ("start", "end", "fps")


@dataclass(frozen=True, kw_only=True)
class Manifest(Layout):
    """A table with a column `path`, and optionally start, end, label, split, fps and key.

    CSV has a header; further columns are passed over. Times are seconds. The key of a row is its
    path, and "@START-END" for a segment. A Parquet file without `path` may hold the files
    themselves, in a column of bytes or of `datasets`' `{bytes, path}`: then the keys are row
    numbers. The location may be a pattern.

    Attributes:
        root: what paths are relative to; the manifest's folder if not given.
        column: which column holds the files' bytes, where several could.
    """

    root: str | None = None
    column: str | None = None

    def items(self) -> Iterator[Item]:
        for place in expand(self.location):
            yield from self._one(place)

    def _one(self, place: str) -> Iterator[Item]:
        suffix = suffix_of(name_of(place))
        if suffix == "parquet":
            from toto.media.sources.cells import parquet_items

            if (found := parquet_items(self, place, self.column)) is not None:
                return found
        readers = {"csv": _csv_rows, "jsonl": _json_rows, "parquet": _parquet_rows}
        if suffix not in readers:
            raise UserError(f"{place!r}: a manifest is a .csv, .jsonl or .parquet file")
        return self._items(readers[suffix](place), place)

    def _items(self, rows: Iterator[Row], place: str) -> Iterator[Item]:
        path = joiner(self.root or above(place))
        for row in rows:
            name = row.text("path")
            if name is None:
                raise UserError(f"{row.where}: no path")
            name = tidy(name)
            start, end = row.number("start"), row.number("end")
            where = row.checked(Location, path(name), start=start, end=end, fps=row.number("fps"))
            key = row.text("key") or with_segment(name, start, end)
            yield self.item(where, key, row.text("label"), row.split())


def has_paths(location: str) -> bool:
    """Whether a CSV file has a header with `path` in it: it is a manifest, not a list."""
    return "path" in next(csv.reader([next(lines(location), "")]), [])


def _csv_rows(place: str) -> Iterator[Row]:
    table = csv.DictReader(lines(place))
    if "path" not in (table.fieldnames or []):
        raise UserError(f"{place!r}: no column 'path' in its header")
    try:
        for values in table:
            row = Row(values, f"{place}, line {table.line_num}")
            if None in values:
                raise UserError(f"{row.where}: more cells than the header has columns")
            yield row
    except csv.Error as error:
        raise UserError(f"{place}, line {table.line_num}: {error}") from None


def _json_rows(place: str) -> Iterator[Row]:
    for number, line in enumerate(lines(place), start=1):
        if not line.strip():
            continue
        where = f"{place}, line {number}"
        try:
            values = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(f"{where}: not JSON: {error}") from None
        if not isinstance(values, dict):
            raise UserError(f"{where}: expected an object {{...}}")
        yield Row(values, where)


def _parquet_rows(place: str) -> Iterator[Row]:
    from toto.media.sources.cells import open_parquet

    file = open_parquet(place)
    names = [name for name in (*_TEXTS, *_NUMBERS) if name in file.schema_arrow.names]
    if "path" not in names:
        raise UserError(f"{place!r}: no column 'path', and none of files' bytes")
    number = 0
    for batch in file.iter_batches(columns=names):
        columns: list[list[Any]] = [batch.column(name).to_pylist() for name in names]
        for cells in zip(*columns, strict=True):
            yield Row(dict(zip(names, cells, strict=True)), f"{place}, row {number}")
            number += 1
