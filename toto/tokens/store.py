"""A token data set on disk: a folder of formats that every tool opens.

dataset.json             settings from the start; counts and checksums once it is complete
tokenizer/               the tokenizer that made it
shards/00000.npy         codes, uint16 (frames, rows, cols), one item after the other
shards/00000.parquet     a row for each item of the shard, read or failed
index.parquet            the rows of all items that could be read; there when complete
failures.parquet         the rows of those that could not, with the reason
"""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from jaxtyping import UInt16

from toto.config import fingerprint, read_json
from toto.errors import UserError
from toto.tokens.vocabulary import Vocabulary

VERSION = 1

ROWS = pa.schema(
    [
        ("key", pa.string()),  # the item's name in its source
        ("path", pa.string()),
        ("label", pa.string()),
        ("split", pa.string()),
        ("kind", pa.string()),  # "video" or "image"
        ("shard", pa.int32()),
        ("first", pa.int64()),  # the item's first frame in the shard
        ("frames", pa.int64()),  # kept frames
        ("fps", pa.float64()),  # of the file, before the stride
        ("width", pa.int32()),  # of the file, before resizing and cropping
        ("height", pa.int32()),
        ("failure", pa.string()),  # why the item could not be read
        ("retry", pa.bool_()),  # whether the next run should try it again
    ]
)


@dataclass(frozen=True)
class ItemRow:
    """One readable item of a data set."""

    key: str
    path: str
    label: str | None
    split: str | None
    kind: str
    shard: int
    first: int
    frames: int
    fps: float | None


def shard_path(folder: Path, shard: int) -> Path:
    """Where a shard's codes lie; its rows lie beside it, as .parquet."""
    return folder / "shards" / f"{shard:05d}.npy"


def checksum(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class TokenDataset:
    """A complete token data set.

    Raises:
        UserError: the folder is no token data set, or an unfinished one.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.info: dict[str, Any] = read_json(folder / "dataset.json", "a token data set")
        if not (folder / "index.parquet").exists():
            raise UserError(f"{folder} is not finished: run `{self.info['command']}` again")
        self.index = pq.read_table(folder / "index.parquet", schema=ROWS)
        self._shards: dict[int, np.ndarray] = {}

    @property
    def tokenizer_folder(self) -> Path:
        return self.folder / "tokenizer"

    @cached_property
    def vocabulary(self) -> Vocabulary:
        rows, cols = self.info["grid"]
        return Vocabulary(self.info["codebook_size"], rows, cols)

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits of the content."""
        return fingerprint([self.info["tokenizer"], self.info["checksums"]])

    def __len__(self) -> int:
        return self.index.num_rows

    def item(self, i: int) -> ItemRow:
        """The `i`-th readable item."""
        fields = ItemRow.__dataclass_fields__
        return ItemRow(**{name: self.index.column(name)[i].as_py() for name in fields})

    def column(self, name: str) -> np.ndarray:
        """One column of the index."""
        return self.index.column(name).to_numpy(zero_copy_only=False)

    def codes(
        self, item: ItemRow, first: int = 0, frames: int | None = None
    ) -> UInt16[np.ndarray, "frames rows cols"]:
        """Codes of an item's kept frames `first .. first + frames`, memory-mapped."""
        end = item.frames if frames is None else min(first + frames, item.frames)
        return self._shard(item.shard)[item.first + first : item.first + end]

    def hours(self) -> float:
        """Length of the videos; files that do not say their frame rate are left out."""
        fps = self.column("fps").astype(float)
        known = fps > 0
        stride = self.info["settings"]["view"]["stride"]
        return float((self.column("frames")[known] * stride / fps[known]).sum() / 3600)

    def failures(self) -> list[tuple[str, str]]:
        """`(key, reason)` of each item that could not be read."""
        table = pq.read_table(self.folder / "failures.parquet", columns=["key", "failure"])
        return [(row["key"], row["failure"]) for row in table.to_pylist()]

    def code_counts(self, rows: np.ndarray | None = None) -> np.ndarray:
        """How often each code occurs, in all items or in those of the given index rows."""
        chosen = range(len(self)) if rows is None else rows
        counts = np.zeros(self.info["codebook_size"], np.int64)
        for i in chosen:
            counts += np.bincount(self.codes(self.item(int(i))).reshape(-1), minlength=len(counts))
        return counts

    def verify(self) -> None:
        """Compare every shard with its recorded checksum.

        Raises:
            UserError: one differs or is missing.
        """
        for name, recorded in self.info["checksums"].items():
            path = self.folder / name
            if not path.exists() or checksum(path) != recorded:
                raise UserError(f"{path} is not what {self.folder}/dataset.json recorded")

    def _shard(self, shard: int) -> np.ndarray:
        if shard not in self._shards:
            self._shards[shard] = np.load(shard_path(self.folder, shard), mmap_mode="r")
        return self._shards[shard]


def merge_rows(folder: Path, shards: int) -> tuple[pa.Table, pa.Table]:
    """Rows of the readable and of the failed items of all shards."""
    rows = pa.concat_tables(
        [
            pq.read_table(shard_path(folder, shard).with_suffix(".parquet"), schema=ROWS)
            for shard in range(shards)
        ]
    )
    failed = pc.is_valid(rows.column("failure"))
    return rows.filter(pc.invert(failed)), rows.filter(failed)
