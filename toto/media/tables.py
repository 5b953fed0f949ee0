"""Files held in the cells of a table: Arrow (as Hugging Face `datasets` caches it) and Parquet."""

import io
import os
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from toto.errors import MediaError
from toto.media.file import open_path, short
from toto.media.item import is_url


def open_cell(path: str, row: int, column: str) -> io.BytesIO:
    """The file in one cell: bytes, or the `bytes` of a struct as `datasets` stores media.

    An Arrow file is mapped into memory, a Parquet file is read by row groups; both stay open.

    Raises:
        MediaError: no such file, row or column, an empty cell, or bytes that make no table.
        OSError: the machine failed.
    """
    try:
        table = _open(path, *_identity(path))
        value = table.cell(row, column)
    except (IndexError, KeyError):
        raise MediaError(f"the table has no row {row} with a column {column!r}") from None
    except pa.ArrowException as error:
        raise MediaError(f"unreadable table: {short(error)}") from None
    except OSError as error:
        if error.errno is None:  # Arrow's word for compressed or encoded bytes that make no sense
            raise MediaError(f"unreadable table: {short(error)}") from None
        raise
    if isinstance(value, dict):
        value = value.get("bytes")
    if not isinstance(value, bytes):
        raise MediaError(f"the cell of row {row} in column {column!r} holds no bytes")
    return io.BytesIO(value)


class _Arrow:
    def __init__(self, path: str, is_stream: bool) -> None:
        mapped = pa.PythonFile(open_path(path)) if is_url(path) else pa.memory_map(path)
        reader = pa.ipc.open_stream(mapped) if is_stream else pa.ipc.open_file(mapped)
        self._table = reader.read_all()

    def cell(self, row: int, column: str) -> Any:
        return self._table.column(column)[row].as_py()


class _Parquet:
    def __init__(self, path: str) -> None:
        self._file = pq.ParquetFile(open_path(path))
        metadata = self._file.metadata
        counts = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
        self._firsts = np.cumsum([0, *counts])
        self._at: tuple[int, str] | None = None
        self._cells: Any = None

    def cell(self, row: int, column: str) -> Any:
        if not 0 <= row < self._firsts[-1] or column not in self._file.schema_arrow.names:
            raise IndexError
        group = int(np.searchsorted(self._firsts, row, side="right")) - 1
        if self._at != (group, column):
            self._cells = self._file.read_row_group(group, columns=[column]).column(column)
            self._at = (group, column)
        return self._cells[row - self._firsts[group]].as_py()


@lru_cache(maxsize=4)
def _open(path: str, size: int, changed: int) -> _Arrow | _Parquet:
    with open_path(path) as file:
        head = file.read(6) or b""
    if head.startswith(b"PAR1"):
        return _Parquet(path)
    return _Arrow(path, is_stream=head != b"ARROW1")


def _identity(path: str) -> tuple[int, int]:
    """Size and time of change of a local file: another file of the same name is opened anew."""
    try:
        status = os.stat(path)  # noqa: PTH116  the path may be a URL
    except OSError:
        return 0, 0  # a URL; or opening says what is wrong
    return status.st_size, status.st_mtime_ns
