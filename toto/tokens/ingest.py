"""Media to a token data set: decoded once, tokenized in fixed batches, losing nothing to a kill."""

import io
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from toto.config import fingerprint, read_json, to_dict, write_json
from toto.errors import UserError, at_least
from toto.files import folder_atomically, only_writer, write_atomically
from toto.media.pool import Chunk, DecodePool, End, Failure
from toto.media.sources import Item
from toto.media.view import View
from toto.progress import progress
from toto.tokenizers.base import Tokenizer, load_tokenizer
from toto.tokens.store import ROWS, VERSION, TokenDataset, checksum, merge_rows, shard_path

# What a kill can leave of a data set that has no dataset.json yet.
_OURS = {".lock", "shards", "tokenizer", ".tokenizer.partial", ".dataset.json.partial"}


@dataclass(frozen=True)
class Ingest:
    """How media become a token data set; all of it decides the bytes that are written."""

    view: View
    batch: int = 32
    """frames in each pass through the tokenizer; the last one of a shard is padded"""
    shard_items: int = 256
    """items in each shard"""

    def __post_init__(self) -> None:
        at_least(1, batch=self.batch, shard_items=self.shard_items)


def ingest(
    items: Sequence[Item],
    tokenizer_folder: Path,
    out: Path,
    settings: Ingest,
    command: str,
    workers: int = 2,
    device: str = "cpu",
) -> TokenDataset:
    """Tokenize `items` into the data set `out`, or finish it.

    Shards are planned before anything is decoded, and each appears whole; what is there already is
    kept, except items that ran into a limit, which are tried again.

    Raises:
        UserError: `out` holds something else, nothing in `items` could be read, or the tokenizer
            does not fit the frames.
    """
    tokenizer = load_tokenizer(tokenizer_folder, device)
    if not items:
        raise UserError("there are no files to tokenize")
    if settings.view.size % tokenizer.downsample:
        raise UserError(
            f"size {settings.view.size}: {tokenizer_folder} needs a multiple of "
            f"{tokenizer.downsample}"
        )
    if tokenizer.codebook_size > 2**16:
        raise UserError(f"{tokenizer_folder} has {tokenizer.codebook_size} codes: 65,536 at most")
    info = _describe(items, tokenizer, settings, command)
    with only_writer(out):
        _begin(out, info, tokenizer_folder)
        shards = -(-len(items) // settings.shard_items)
        pending = [shard for shard in range(shards) if not _is_done(out, shard)]
        if pending:
            (out / "index.parquet").unlink(missing_ok=True)
            planned = {s: _items_of(s, items, settings) for s in pending}
            _tokenize(planned, out, tokenizer, settings, workers, device)
        if not (out / "index.parquet").exists():
            _complete(out, info, shards)
    return TokenDataset(out)


def report_failures(dataset: TokenDataset) -> None:
    """Name each file that could not be read on standard error, and count them at the end."""
    failures = dataset.failures()
    for key, reason in failures:
        print(f"  not read: {key}: {reason}", file=sys.stderr)
    if failures:
        total = dataset.info["items"]
        print(f"{len(failures)} of {total} files could not be read", file=sys.stderr)


def _describe(
    items: Sequence[Item], tokenizer: Tokenizer, settings: Ingest, command: str
) -> dict[str, Any]:
    grid = settings.view.size // tokenizer.downsample
    return {
        "version": VERSION,
        "command": command,
        "tokenizer": tokenizer.fingerprint,
        "codebook_size": tokenizer.codebook_size,
        "grid": [grid, grid],
        "dtype": "uint16",
        "settings": to_dict(settings),
        "items": len(items),
        "source": fingerprint([[item.key, item.path, item.label, item.split] for item in items]),
    }


def _begin(out: Path, info: dict[str, Any], tokenizer_folder: Path) -> None:
    path = out / "dataset.json"
    if path.exists():
        before = read_json(path, "a token data set")
        for name in info.keys() - {"command"}:
            if before.get(name) != info[name]:
                raise UserError(
                    f"{out} was made with {name} {before.get(name)}, this would be {info[name]}: "
                    "choose another folder or remove it"
                )
        return
    if any(path.name not in _OURS for path in out.iterdir()):
        raise UserError(f"{out} holds something else: choose another folder")
    (out / "shards").mkdir(exist_ok=True)
    with folder_atomically(out / "tokenizer") as partial:
        shutil.copytree(tokenizer_folder, partial, dirs_exist_ok=True)
    write_json(path, info)


def _items_of(shard: int, items: Sequence[Item], settings: Ingest) -> Sequence[Item]:
    return items[shard * settings.shard_items : (shard + 1) * settings.shard_items]


def _is_done(out: Path, shard: int) -> bool:
    rows = shard_path(out, shard).with_suffix(".parquet")
    return rows.exists() and not any(
        pq.read_table(rows, columns=["retry"]).column("retry").to_pylist()
    )


def _tokenize(
    planned: dict[int, Sequence[Item]],
    out: Path,
    tokenizer: Tokenizer,
    settings: Ingest,
    workers: int,
    device: str,
) -> None:
    todo = [item for items in planned.values() for item in items]
    with (
        DecodePool(settings.view, workers) as pool,
        progress("tokenize", len(todo), "items") as advance,
    ):
        decoded = iter(pool.stream(todo))
        for shard, items in planned.items():
            batches = _Batches(tokenizer, settings.batch, device)
            rows = []
            for item in items:
                rows.append(_read_item(item, shard, decoded, batches))
                advance()
            _write_shard(out, shard, batches.finish(), rows)


def _read_item(
    item: Item,
    shard: int,
    decoded: Iterator[tuple[int, Chunk | End | Failure]],
    batches: "_Batches",
) -> dict[str, Any]:
    """Pass one item's frames on, and return its row."""
    row: dict[str, Any] = dict.fromkeys(ROWS.names)
    # Absolute, so that the data set can be used from another folder.
    path = str(Path(item.path).absolute())
    row |= {"key": item.key, "path": path, "label": item.label, "split": item.split}
    row |= {"shard": shard, "first": batches.frames, "frames": 0, "retry": False}
    for _, part in decoded:
        if isinstance(part, Chunk):
            batches.add(part.frames)
        elif isinstance(part, End):
            row |= {"kind": part.info.kind, "frames": batches.frames - row["first"]}
            row |= {"fps": part.info.fps, "width": part.info.width, "height": part.info.height}
            return row
        else:
            batches.drop_from(row["first"])
            return row | {"failure": part.reason, "retry": part.retry}
    raise AssertionError("the decoders ended in the middle of an item")


class _Batches:
    """Frames in, codes out, in passes of a fixed size, so that the same frames in the same order
    give the same bytes however they were decoded.
    """

    def __init__(self, tokenizer: Tokenizer, batch: int, device: str) -> None:
        self.tokenizer, self.batch, self.device = tokenizer, batch, device
        self.codes: list[np.ndarray] = []
        self.waiting: list[np.ndarray] = []

    @property
    def encoded(self) -> int:
        return sum(len(codes) for codes in self.codes)

    @property
    def frames(self) -> int:
        return self.encoded + sum(len(frames) for frames in self.waiting)

    def add(self, frames: np.ndarray) -> None:
        self.waiting.append(frames)
        while sum(len(frames) for frames in self.waiting) >= self.batch:
            joined = np.concatenate(self.waiting)
            self._encode(joined[: self.batch])
            self.waiting = [joined[self.batch :]]

    def drop_from(self, first: int) -> None:
        """Forget the frames from `first` on: their item failed half-way."""
        kept = max(first - self.encoded, 0)
        self.waiting = [np.concatenate(self.waiting)[:kept]] if self.waiting else []
        if first < self.encoded:
            self.codes = [np.concatenate(self.codes)[:first]]

    def finish(self) -> np.ndarray:
        """The codes of all frames, uint16 `(frames, rows, cols)`."""
        left = np.concatenate(self.waiting) if self.waiting else np.empty(0, np.uint8)
        if len(left):
            padding = np.zeros((self.batch - len(left), *left.shape[1:]), left.dtype)
            self._encode(np.concatenate((left, padding)))
            self.codes[-1] = self.codes[-1][: len(left)]
        return np.concatenate(self.codes) if self.codes else np.empty((0, 0, 0), np.uint16)

    def _encode(self, frames: np.ndarray) -> None:
        codes = self.tokenizer.encode(torch.from_numpy(frames).to(self.device))
        self.codes.append(codes.cpu().numpy().astype(np.uint16))


def _write_shard(out: Path, shard: int, codes: np.ndarray, rows: list[dict[str, Any]]) -> None:
    """Codes first, rows last: the rows say that the shard is done."""
    path = shard_path(out, shard)
    buffer = io.BytesIO()
    np.save(buffer, codes)
    write_atomically(path, buffer.getvalue())
    _write_table(path.with_suffix(".parquet"), pa.Table.from_pylist(rows, schema=ROWS))


def _write_table(path: Path, table: pa.Table) -> None:
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    write_atomically(path, buffer.getvalue())


def _complete(out: Path, info: dict[str, Any], shards: int) -> None:
    readable, failed = merge_rows(out, shards)
    if not readable.num_rows:
        reasons = sorted(set(failed.column("failure").to_pylist()))
        raise UserError(f"none of {failed.num_rows} files could be read: {'; '.join(reasons[:3])}")
    _write_table(out / "failures.parquet", failed)
    paths = [shard_path(out, shard) for shard in range(shards)]
    files = [p for path in paths for p in (path, path.with_suffix(".parquet"))]
    info = info | {
        "readable": readable.num_rows,
        "failed": failed.num_rows,
        "frames": sum(readable.column("frames").to_pylist()),
        "checksums": {str(p.relative_to(out)): checksum(p) for p in files},
    }
    write_json(out / "dataset.json", info)
    _write_table(out / "index.parquet", readable)
