"""Whether a token data set is still what was written."""

from collections.abc import Iterable, Iterator
from errno import ENOENT
from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from toto.errors import UserError
from toto.tokenizers.base import load_tokenizer
from toto.tokens.rows import ROW_GROUP, ROWS, checksum, failed, readable, rows_of_shards, shard_path
from toto.tokens.store import TokenDataset


def verify(dataset: TokenDataset) -> None:
    """Compare shards with their checksums, the index and the failures with the shards, and the
    tokenizer with its fingerprint.

    Raises:
        UserError: one differs or is missing; the first is named.
    """
    folder, info = dataset.folder, dataset.info
    for path in _recorded(dataset):
        if str(path.relative_to(folder)) not in info.checksums:
            raise UserError(f"{folder}/dataset.json is damaged: it has no checksum of {path}")
    for name, recorded in info.checksums.items():
        path = folder / name
        if not path.exists() or checksum(path) != recorded:
            raise UserError(f"{path} is not what {folder}/dataset.json recorded")
    for name, part in (("index.parquet", readable), ("failures.parquet", failed)):
        if not _holds(folder / name, map(part, rows_of_shards(folder, info.shards))):
            raise UserError(f"{folder / name} does not hold the rows of the shards")
    if load_tokenizer(dataset.tokenizer_folder).fingerprint != info.tokenizer:
        raise UserError(
            f"{dataset.tokenizer_folder} is not the tokenizer {info.tokenizer} that "
            f"{folder}/dataset.json recorded"
        )


def _recorded(dataset: TokenDataset) -> Iterator[Path]:
    """The rows of all shards, and the codes of those that have some."""
    for shard in range(dataset.info.shards):
        yield shard_path(dataset.folder, shard).with_suffix(".parquet")
    for shard in np.unique(dataset.column("shard")).tolist():
        yield shard_path(dataset.folder, shard)


def _holds(path: Path, tables: Iterable[pa.Table]) -> bool:
    """Whether a file holds the rows of these tables one after the other; some are in memory."""
    try:
        batches = pq.ParquetFile(path).iter_batches(ROW_GROUP)
        found = ROWS.empty_table()
        for table in tables:
            while len(found) < len(table) and (batch := next(batches, None)) is not None:
                found = pa.concat_tables([found, pa.Table.from_batches([batch])])
            if not found.slice(0, len(table)).equals(table):
                return False
            found = found.slice(len(table))
        return not any(map(len, chain([found], batches)))
    except pa.ArrowException:
        return False
    except OSError as error:
        if error.errno not in (None, ENOENT):  # None: Arrow's word for bytes that make no sense
            raise
        return False
