"""Tables whose cells hold the files: Parquet, and the Arrow files of Hugging Face `datasets`."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from toto.errors import UserError, unknown
from toto.media.item import Item, Location
from toto.media.sources.layout import Layout
from toto.media.sources.places import above, joiner, name_of, open_bytes
from toto.media.sources.rows import Row

_MEDIA = ("Image", "Video")


def open_parquet(place: str) -> Any:
    """Open a Parquet file.

    Raises:
        UserError: no such file, or it is none.
    """
    try:
        return pq.ParquetFile(open_bytes(place))
    except pa.ArrowException as error:
        raise UserError(f"{place!r}: no Parquet file: {error}") from None


def parquet_items(layout: Layout, place: str, column: str | None) -> Iterator[Item] | None:
    """The items of a Parquet file that holds the files themselves; None if it does not.

    Raises:
        UserError: several columns could be meant, or `column` is none of them.
    """
    file = open_parquet(place)
    schema = file.schema_arrow
    if "path" in schema.names and column is None:
        return None
    known = media_columns(schema)
    if not known and column is None:
        return None
    chosen = choose_column(known, column, place)
    return _parquet_items(layout, place, file, chosen)


def media_columns(schema: Any) -> list[str]:
    """The columns that hold files: as `datasets` noted in the schema, else by their types."""
    features = features_of(schema)
    if features:
        return [name for name in schema.names if features.get(name, {}).get("_type") in _MEDIA]
    return [field.name for field in schema if _is_bytes(field.type)]


def features_of(schema: Any) -> dict[str, Any]:
    """What `datasets` noted of the columns; nothing for other tables."""
    note = (schema.metadata or {}).get(b"huggingface")
    return json.loads(note).get("info", {}).get("features", {}) if note else {}


def choose_column(known: Sequence[str], column: str | None, place: str) -> str:
    """The column that holds the files.

    Raises:
        UserError: there is not exactly one, or the one asked for is none.
    """
    if column is not None:
        if column not in known:
            raise unknown(f"column of images or videos in {place!r}:", column, known)
        return column
    if len(known) != 1:
        found = f"columns {', '.join(known)}: choose with column=" if known else "no column"
        raise UserError(f"{place!r}: images or videos: {found}")
    return known[0]


def label_names(schema: Any, column: str) -> list[str] | None:
    """The names of a column of classes, as `datasets` noted them."""
    names = features_of(schema).get(column, {}).get("names")
    return list(names) if names else None


@dataclass(frozen=True, kw_only=True)
class Cells:
    """The files in one column of one table.

    Attributes:
        layout: whose items they are.
        place: the table's file.
        column: the column.
        prefix: how keys begin; the row's number follows.
        label: the column of labels.
        names: of the classes, if labels are numbers.
        split: the split of all rows.
        before: how many rows of the same key prefix come before this file's.
    """

    layout: Layout
    place: str
    column: str
    prefix: str
    label: str = "label"
    names: Sequence[str] | None = None
    split: str | None = None
    before: int = 0

    def items(self, batches: Iterable[tuple[Any, Any]]) -> Iterator[Item]:
        """The items of the table's batches, in order.

        Of each batch: its cells of the column (None: all hold bytes), and its other columns.
        """
        number, path = 0, joiner(above(self.place))
        for media, table in batches:
            for values, outside in zip(_rows(table), _outside(media, len(table)), strict=True):
                row = Row(values, f"{self.place}, row {number}")
                part = f"row:{number}:{self.column}" if outside is None else None
                where = row.checked(
                    Location,
                    self.place if outside is None else path(outside),
                    part,
                    fps=row.number("fps"),
                )
                key = row.text("key") or f"{self.prefix}/{self.before + number:08d}"
                yield self.layout.item(where, key, self._label(row), row.split() or self.split)
                number += 1

    def _label(self, row: Row) -> str | None:
        text = row.text(self.label)
        if self.names is None or text is None:
            return text
        if text == "-1":  # how `datasets` writes that there is no label, in test sets
            return None
        if not int(text) < len(self.names):
            raise UserError(
                f"{row.where}, column {self.label!r}: {text}: there are {len(self.names)} classes"
            )
        return self.names[int(text)]


def _rows(table: Any) -> list[dict[str, Any]]:
    return table.to_pylist() if table.num_columns else [{}] * len(table)


def _outside(media: Any, count: int) -> list[str | None]:
    """The paths of those files that are not in the table itself."""
    if media is None or not pa.types.is_struct(media.type):
        return [None] * count
    paths = media.field("path")
    if media.type.get_field_index("bytes") >= 0:
        paths = pc.if_else(media.field("bytes").is_valid(), None, paths)
    return paths.to_pylist()


def _parquet_items(layout: Layout, place: str, file: Any, column: str) -> Iterator[Item]:
    schema = file.schema_arrow
    others = [name for name in ("label", "split", "fps", "key") if name in schema.names]
    # The files themselves are not read, unless only that tells which are in the table.
    wanted = others if _all_inside(file, column) else [*others, column]
    cells = Cells(
        layout=layout,
        place=place,
        column=column,
        prefix=name_of(place).removesuffix(".parquet"),
        names=label_names(schema, "label"),
    )
    return cells.items(
        (batch.column(column) if column in wanted else None, batch.select(others))
        for batch in file.iter_batches(batch_size=1024, columns=wanted)
    )


def _all_inside(file: Any, column: str) -> bool:
    """Whether the statistics tell that every cell holds bytes."""
    metadata = file.metadata
    for group in range(metadata.num_row_groups):
        row_group = metadata.row_group(group)
        for i in range(row_group.num_columns):
            chunk = row_group.column(i)
            if chunk.path_in_schema in (column, f"{column}.bytes"):
                statistics = chunk.statistics
                if statistics is None or statistics.null_count != 0:
                    return False
    return True


def _is_bytes(kind: Any) -> bool:
    if pa.types.is_struct(kind):
        return {"bytes", "path"} <= {kind.field(i).name for i in range(kind.num_fields)}
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
