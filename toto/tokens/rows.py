"""The rows of a token data set: their columns, and the files that hold them."""

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from toto.errors import UserError
from toto.files import file_atomically
from toto.media.item import Location

# The crops of an item stand in rows next to each other, crop 0 first, with the same frames.
ROWS = pa.schema(
    [
        ("key", pa.string()),  # the item's name in its sources
        ("path", pa.string()),
        ("part", pa.string()),  # what of the file; null: all of it
        ("start", pa.float64()),  # a segment, in seconds; null: from the first frame on
        ("end", pa.float64()),  # null: to the last frame
        ("source", pa.string()),  # as the user named it
        ("label", pa.string()),
        ("split", pa.string()),
        ("kind", pa.string()),  # "video" or "image"
        ("hash", pa.uint64()),  # mixture.key_of("item", key)
        ("group", pa.uint64()),  # the same of what stays together when items are held out
        ("crop", pa.int16()),  # number of the stored crop
        ("crop_x", pa.float32()),  # its box, in pixels of the upright picture
        ("crop_y", pa.float32()),
        ("crop_side", pa.float32()),  # its width, and its height where it is a square
        ("crop_height", pa.float32()),
        ("mirrored", pa.bool_()),
        ("shard", pa.int32()),
        ("first", pa.int64()),  # the row's first frame in the shard
        ("frames", pa.int64()),  # kept frames
        ("fps", pa.float64()),  # of the file, before the stride
        ("rate", pa.float64()),  # kept frames a second; null for images, or where it is unknown
        ("width", pa.int32()),  # of the file, before resizing and cropping
        ("height", pa.int32()),
        ("failure", pa.string()),  # why the item could not be read
        ("retry", pa.bool_()),  # whether the next run should try it again
    ]
)

REPEATED = ["part", "source", "label", "split", "kind", "failure"]

# Of 10 million rows, smaller groups slow the opening and larger ones the look-up of a single row:
# 4,096 take 1.9 s and 0.7 ms, 16,384 take 1.1 s and 2 ms, 65,536 take 0.8 s and 4 ms.
ROW_GROUP = 16_384

# Numbers are read by the million whenever a run begins: three times as fast from LZ4 as from zstd.
_COMPRESSION = {field.name: "zstd" if pa.types.is_string(field.type) else "lz4" for field in ROWS}


@dataclass(frozen=True)
class ItemRow:
    """One row of an index: a readable item, in one of its crops."""

    key: str
    path: str
    part: str | None
    start: float | None
    end: float | None
    label: str | None
    split: str | None
    kind: str
    crop: int
    shard: int
    first: int
    frames: int
    fps: float | None
    rate: float | None

    @property
    def location(self) -> Location:
        """Where its frames are, read at the very moments at which they were kept."""
        return Location(self.path, self.part, self.start, self.end, self.fps)


def shard_name(folder: str, shard: int) -> str:
    """Where a shard's codes lie; its rows lie beside it, as .parquet."""
    return f"{folder}/shards/{shard:05d}.npy"


def shard_path(folder: Path, shard: int) -> Path:
    """The same as a path."""
    return Path(shard_name(str(folder), shard))


def checksum(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def intact(path: Path) -> Iterator[Path]:
    """Reading of a Parquet file, whose damage is said as such."""
    try:
        yield path
    except (pa.ArrowInvalid, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # None: bytes make no sense
            raise
        raise UserError(f"{path} is damaged: {' '.join(str(error).split()):.200}") from error


def read_rows(path: Path, columns: list[str] | None = None) -> pa.Table:
    """A file of rows; unlike pyarrow's `read_table` this does not load pandas first."""
    with pq.ParquetFile(path) as file:
        return file.read(columns)


def rows_of_shards(folder: Path, shards: int) -> Iterator[pa.Table]:
    """The rows of each shard, read or failed."""
    for number in range(shards):
        yield read_rows(shard_path(folder, number).with_suffix(".parquet"))


def readable(rows: pa.Table) -> pa.Table:
    """Those of items that could be read."""
    return rows.filter(pc.is_null(rows.column("failure")))


def failed(rows: pa.Table) -> pa.Table:
    """Those of items that could not."""
    return rows.filter(pc.is_valid(rows.column("failure")))


def write_rows(path: Path, tables: Iterable[pa.Table]) -> None:
    """Write rows in groups of `ROW_GROUP`; the file is there whole or not at all.

    Tables of any size, one after the other: an index need not fit into memory.
    """
    how = {"compression": _COMPRESSION, "use_dictionary": REPEATED}
    with file_atomically(path) as file, pq.ParquetWriter(file, ROWS, **how) as writer:
        waiting = ROWS.empty_table()
        for table in tables:
            waiting = pa.concat_tables([waiting, table])
            if whole := len(waiting) // ROW_GROUP * ROW_GROUP:
                writer.write_table(waiting.slice(0, whole), row_group_size=ROW_GROUP)
                waiting = waiting.slice(whole)
        if len(waiting):
            writer.write_table(waiting)
