"""A token data set on disk: a folder of formats that every tool opens.

dataset.json             settings from the start; counts and checksums once it is complete
tokenizer/               the tokenizer that made it
shards/00000.npy         codes, uint16 (frames, rows, cols), one item after the other; of the
                         tokenizer `patches` pixels, uint8 (frames, 3, size, size)
shards/00000.parquet     a row for each item and crop of the shard, read or failed
index.parquet            the rows of all items that could be read; there when complete
failures.parquet         the rows of those that could not, with the reason
"""

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, fields
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Bool, Int, Shaped

from toto.config import fingerprint, from_dict, read_json, to_dict
from toto.errors import UserError
from toto.media.view import LIMITS, Limits, View
from toto.tokens.config import Ingest
from toto.tokens.patches import PatchGrid
from toto.tokens.reading import Codes, Each, Shards
from toto.tokens.rows import REPEATED, ROW_GROUP, ROWS, ItemRow, intact, read_rows, shard_name
from toto.tokens.vocabulary import Layout, Vocabulary

VERSION = 3


@dataclass(frozen=True)
class Info:
    """What dataset.json says."""

    version: int
    command: str
    """by which it was begun, and goes on"""
    tokenizer: str
    """fingerprint"""
    codebook_size: int
    """0 of pixels"""
    grid: tuple[int, int]
    """rows and columns of codes, or patches, of a frame"""
    dtype: Literal["uint8", "uint16"]
    settings: Ingest
    items: int
    """in its sources"""
    shards: int
    source: str
    """fingerprint of the items"""
    limits: Limits = LIMITS
    """what one of its files may take, as the last run was told"""
    readable: int = 0
    """items; this and what follows is known of a complete data set"""
    failed: int = 0
    frames: int = 0
    checksums: Mapping[str, str] = field(default_factory=dict)
    """SHA-256 of each file below shards/"""


_FIELDS = [field.name for field in fields(ItemRow)]


class TokenDataset:
    """A complete token data set. Opening it reads no row: columns are read when they are asked for.

    Raises:
        UserError: the folder is no token data set, an unfinished one, one of another version, or a
            damaged one; the last also where rows are read.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._version = _version(folder)
        self.info = _read_info(folder)
        if not (folder / "index.parquet").exists():
            raise UserError(f"{folder} is not finished: run `{self.info.command}` again")
        if len(self.info.checksums) < self.info.shards:
            raise UserError(f"{folder}/dataset.json is damaged: fewer checksums than shards")
        with intact(folder / "index.parquet") as path:
            self._metadata = pq.read_metadata(path)
        if self._metadata.schema.names != ROWS.names:
            raise UserError(f"{path} is damaged: its columns are not those of an index")
        size = self.info.settings.view.size
        shape = (3, size, size) if self.is_pixels else self.info.grid
        dtype = np.dtype(self.info.dtype)
        self._shards = Shards(partial(shard_name, str(folder)), shape, dtype)

    @property
    def tokenizer_folder(self) -> Path:
        return self.folder / "tokenizer"

    @property
    def is_online(self) -> bool:
        """Whether no codes are stored: training decodes and tokenizes."""
        return self.info.settings.online

    @property
    def view(self) -> View:
        """Which frames of its files are kept, and how."""
        return self.info.settings.view

    @property
    def reading(self) -> dict[str, Any]:
        """Which frames its items are of, and on which grid, whatever the crops."""
        return {"grid": self.info.grid, **to_dict(self.view.without_crops())}

    @property
    def is_pixels(self) -> bool:
        """Whether it stores pixels, which models read as patches, and no codes."""
        return bool(self.info.dtype == "uint8")

    @cached_property
    def layout(self) -> Layout:
        """How its frames become sequences: of tokens, or of patches."""
        rows, cols = self.info.grid
        size = self.info.settings.view.size
        return PatchGrid(size // rows, rows, cols) if self.is_pixels else self.vocabulary

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The tokens of its codes.

        Raises:
            UserError: it stores pixels.
        """
        if self.is_pixels:
            raise UserError(f"{self.folder} stores pixels, no codes: tokenize with codes for this")
        rows, cols = self.info.grid
        return Vocabulary(self.info.codebook_size, rows, cols)

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits of the content."""
        # One string: as JSON values, a million of checksums take seconds.
        checksums = "\n".join(" ".join(pair) for pair in sorted(self.info.checksums.items()))
        return fingerprint([self.info.tokenizer, checksums])

    def __len__(self) -> int:
        """Rows of the index: one for each crop of each readable item."""
        return self._metadata.num_rows

    def item(self, row: int) -> ItemRow:
        """One row of the index."""
        return self.items(np.array([row]))[0]

    def items(self, rows: Each) -> list[ItemRow]:
        """Some rows of the index, in the order asked for."""
        sizes = [self._metadata.row_group(i).num_rows for i in range(self._metadata.num_row_groups)]
        ends = np.cumsum(sizes)
        groups = np.searchsorted(ends, rows, side="right")
        found: dict[int, ItemRow] = {}
        for group in np.unique(groups).tolist():
            here = np.flatnonzero(groups == group)
            with intact(self.folder / "index.parquet"):
                table = self._index().read_row_group(group, columns=_FIELDS)
            values = table.take(rows[here] - (ends[group] - sizes[group])).to_pylist()
            found |= {i: ItemRow(**row) for i, row in zip(here.tolist(), values, strict=True)}
        return [found[i] for i in range(len(rows))]

    def column(
        self,
        name: str,
        where: Bool[np.ndarray, " rows"] | None = None,
        dtype: type[np.generic] | None = None,
    ) -> Shaped[np.ndarray, " n"]:
        """One column of the index, or of the rows `where` says; NaN or None if there is nothing.

        `dtype` is a smaller type that is known to hold it: memory takes longer to get than to fill.
        """
        count = len(self) if where is None else int(where.sum())
        values = np.empty(count, dtype or ROWS.field(name).type.to_pandas_dtype())
        filled = 0
        for start, part in self._parts(name):
            own = part.to_numpy(zero_copy_only=False)
            own = own if where is None else own[where[start : start + len(own)]]
            values[filled : filled + len(own)] = own
            filled += len(own)
        return values

    def matching(
        self, name: str, condition: Callable[[Shaped[np.ndarray, " part"]], np.ndarray]
    ) -> Bool[np.ndarray, " rows"]:
        """Which rows fulfil a condition on a column, which sees a part of it at a time."""
        parts = (part.to_numpy(zero_copy_only=False) for _, part in self._parts(name))
        return np.concatenate([np.empty(0, bool), *(condition(part) for part in parts)])

    def encoded(self, name: str) -> tuple[list[str], Int[np.ndarray, " rows"]]:
        """A column of strings that repeat: the different ones, and each row's place among them.

        Where there is nothing, it is -1. A row takes a byte or two, and no string is made for it.
        """
        known: dict[str, int] = {}
        parts = [np.empty(0, np.int8)]
        for _, part in self._parts(name):
            own = [known.setdefault(value, len(known)) for value in part.dictionary.to_pylist()]
            indices = part.indices.fill_null(len(own)).to_numpy(zero_copy_only=False)
            parts.append(np.array([*own, -1], np.min_scalar_type(-len(known) - 1))[indices])
        return list(known), np.concatenate(parts)

    def codes(self, item: ItemRow, first: int = 0, frames: int | None = None) -> Codes:
        """Codes of an item's kept frames `first .. first + frames`, as many as there are."""
        left = max(item.frames - first, 0)
        out = self.empty(left if frames is None else min(frames, left))
        where = np.array([item.shard, item.first + first, len(out), 0])
        self._stored.read(where[:1], where[1:2], where[2:3], where[3:], out)
        self._check_version()
        return out

    def empty(self, frames: int) -> Codes:
        """Room for the codes of so many frames."""
        return self._shards.empty(frames)

    def gather(self, rows: Each, firsts: Each, frames: Each, at: Each, out: Codes) -> None:
        """Read the codes of kept frames `firsts .. firsts + frames` of rows to `out[at ...]`.

        Raises:
            UserError: a shard is not as the index says, or the data set has been changed.
        """
        shards, starts = self._positions
        self._stored.read(shards[rows], starts[rows] + firsts, frames, at, out)
        self._check_version()

    def hours(self) -> float:
        """Length of the videos, each counted once; those of unknown frame rate are left out."""
        rate, once = self.column("rate"), self.column("crop") == 0
        known = once & (rate > 0)
        return float((self.column("frames")[known] / rate[known]).sum() / 3600)

    def failures(self) -> list[tuple[str, str]]:
        """`(key, reason)` of each item that could not be read."""
        return [(key, reason) for key, _, reason in self.unread()]

    def unread(self) -> list[tuple[str, str | None, str]]:
        """`(key, split, reason)` of each item that could not be read."""
        with intact(self.folder / "failures.parquet") as path:
            table = read_rows(path, ["key", "split", "failure"])
        return [tuple(row.values()) for row in table.to_pylist()]

    def code_counts(self, rows: Each | None = None) -> Int[np.ndarray, " codes"]:
        """How often each code occurs, in all rows of the index or in the given ones."""
        counts = np.zeros(self.vocabulary.codebook_size, np.int64)
        where = (*self._positions, self.column("frames"))
        for codes in self._stored.in_turn(*(x if rows is None else x[rows] for x in where)):
            counts += np.bincount(codes.reshape(-1), minlength=len(counts))
        self._check_version()
        return counts

    @property
    def _stored(self) -> Shards:
        if self.is_online:
            raise UserError(f"{self.folder} stores no codes: tokenize without --online for this")
        return self._shards

    def _check_version(self) -> None:
        """Make sure that what was read was still as the index said.

        Whoever replaces a shard takes the index away before.
        """
        if _version(self.folder) != self._version:
            raise UserError(f"{self.folder} has been changed since it was opened")

    def _index(self) -> pq.ParquetFile:
        self._check_version()
        return pq.ParquetFile(
            self.folder / "index.parquet", metadata=self._metadata, read_dictionary=REPEATED
        )

    def _parts(self, name: str) -> Iterator[tuple[int, pa.Array]]:
        """A column piece by piece, each with its first row: far less memory than a whole column."""
        with intact(self.folder / "index.parquet"):
            start, file = 0, self._index()
            # What one iterator has read stays in memory until its end: a few groups at a time.
            for first in range(0, file.num_row_groups, 4):
                groups = range(first, min(first + 4, file.num_row_groups))
                for batch in file.iter_batches(4 * ROW_GROUP, groups, columns=[name]):
                    yield start, batch.column(0)
                    start += len(batch)

    @cached_property
    def _positions(self) -> tuple[Int[np.ndarray, " rows"], Int[np.ndarray, " rows"]]:
        """Each row's shard and first frame there; no shard holds 2^31 frames, a terabyte."""
        return self.column("shard"), self.column("first", dtype=np.int32)


@dataclass(frozen=True)
class Unfinished:
    """How far a data set that is not complete has come."""

    command: str
    """what finishes it"""
    shards: int
    """shards that are done, of `planned`"""
    planned: int
    read: int
    """rows of items that could be read, in the shards that are done"""
    failed: int
    """rows of items that could not"""


def unfinished(folder: Path) -> Unfinished | None:
    """How far a data set has come; None if it is complete. Reads but the shards' footers.

    Raises:
        UserError: the folder is no token data set.
    """
    info = _read_info(folder)
    if (folder / "index.parquet").exists():
        return None
    done = sorted((folder / "shards").glob("[0-9]*.parquet"))
    with ThreadPoolExecutor(8) as executor:
        counts = list(executor.map(_read_and_failed, done))
    return Unfinished(
        command=info.command,
        shards=len(done),
        planned=info.shards,
        read=sum(read for read, _ in counts),
        failed=sum(failed for _, failed in counts),
    )


def _version(folder: Path) -> tuple[int, int] | None:
    """Tells one index from the next in its place."""
    try:
        status = (folder / "index.parquet").stat()
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_mtime_ns


def _read_info(folder: Path) -> Info:
    values = read_json(folder / "dataset.json", "a token data set")
    if "version" not in values or "command" not in values:
        raise UserError(f"{folder} is not a token data set: its dataset.json is another's")
    if values["version"] != VERSION:
        raise UserError(
            f"{folder} is a token data set of version {values['version']}, "
            f"version {VERSION} is read here: make it anew"
        )
    return from_dict(Info, values, f"{folder}/dataset.json")


def _read_and_failed(path: Path) -> tuple[int, int]:
    with intact(path):
        metadata = pq.read_metadata(path)
    column = ROWS.names.index("failure")
    groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
    read = sum(group.column(column).statistics.null_count for group in groups if group.num_rows)
    return read, metadata.num_rows - read
