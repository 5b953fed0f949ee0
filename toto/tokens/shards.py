"""Writing shards: items in, codes and rows on disk, each shard whole or not at all."""

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from io import BufferedRandom
from itertools import chain
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import UInt8

from toto.files import file_atomically
from toto.media.file import FORBIDDEN
from toto.media.item import Item, is_url
from toto.media.pool import Chunk, DecodePool, End, Failure, Result, Task
from toto.media.sources.roots import Roots
from toto.media.view import LIMITS, Limits, Place, View
from toto.processes import keep_freed_memory
from toto.tokenizers.base import StoredCodes, codes_of, load_tokenizer
from toto.tokens.config import Ingest
from toto.tokens.mixture import key_of
from toto.tokens.rows import ROWS, shard_path

Encode = Callable[[UInt8[np.ndarray, "b 3 size size"]], StoredCodes]


@dataclass(frozen=True)
class Job:
    """What every process that writes shards of one data set has to know."""

    tokenizer: Path
    out: Path
    """where the folder of shards is"""
    settings: Ingest
    limits: Limits = LIMITS
    roots: Sequence[str] = ()
    """folders without which files are not missing, but the machine has failed"""


@dataclass(frozen=True)
class Shard:
    """One planned shard."""

    number: int
    items: Sequence[Item]


def write_shards(
    job: Job, shards: Iterable[Shard], device: str, workers: int
) -> Iterator[int | None]:
    """Write shards one after the other; yields None for each item done, and a finished shard's
    number.

    The next shards are taken while one is being written, so that the decoders never wait.

    Raises:
        OSError: the machine failed.
    """
    roots = Roots(job.roots)
    encode = None
    if not job.settings.online:
        if device == "cpu":
            keep_freed_memory()
        tokenizer = load_tokenizer(job.tokenizer, device)
        if job.settings.compiled:
            tokenizer.compile(dynamic=False)
        encode = partial(codes_of, tokenizer, device=device)
    begun: deque[Shard] = deque()

    def tasks() -> Iterator[Task]:
        for shard in shards:
            begun.append(shard)
            for item in shard.items:
                yield Task(item.location, _places(job, item), count_only=encode is None)

    with DecodePool(job.settings.view, workers, job.limits) as pool:
        results = (result for _, result in pool.stream(tasks()))
        for first in results:
            shard = begun.popleft()
            yield from _write_shard(job, shard, chain([first], results), encode, roots)
            yield shard.number


def absolute(path: str) -> str:
    """A path, or a URL, that means the same in another folder."""
    return path if is_url(path) else str(Path(path).absolute())


def _places(job: Job, item: Item) -> tuple[Place, ...]:
    return job.settings.view.places(key_of("item", item.key))


def _write_shard(
    job: Job, shard: Shard, results: Iterator[Result], encode: Encode | None, roots: Roots
) -> Iterator[None]:
    """Codes first, rows last: the rows say that the shard is done."""
    path = shard_path(job.out, shard.number)
    rows: list[dict[str, Any]] = []
    digest = {}
    with file_atomically(path) if encode else nullcontext() as file:
        codes = _Codes(file, encode, job.settings.batch) if file and encode else None
        for item in shard.items:
            rows += _read_item(job, item, shard.number, results, codes, roots)
            yield None
        if codes is not None:
            digest = {"sha256": codes.finish()}
    table = pa.Table.from_pylist(rows, schema=ROWS).replace_schema_metadata(digest)
    with file_atomically(path.with_suffix(".parquet")) as file:
        pq.write_table(table, file)


def _read_item(
    job: Job,
    item: Item,
    shard: int,
    results: Iterator[Result],
    codes: "_Codes | None",
    roots: Roots,
) -> list[dict[str, Any]]:
    """Pass one item's frames on, and return its rows: one for each stored crop."""
    first = codes.frames if codes else 0
    for part in results:
        if isinstance(part, Chunk):
            assert codes is not None
            codes.add(part.frames)
        elif isinstance(part, End):
            places = _places(job, item) if codes else (job.settings.view.undrawn,)
            if codes and len(places) > 1:
                codes.regroup.append((first, part.frames, len(places)))
            return [
                _row(item, shard) | _end_row(job.settings.view, part, first, crop, place)
                for crop, place in enumerate(places)
            ]
        else:
            if codes:
                codes.drop_from(first)
            return [_row(item, shard) | _failure_row(item, part, roots)]
    raise AssertionError("the decoders ended in the middle of an item")


def _row(item: Item, shard: int) -> dict[str, Any]:
    where = item.location
    return {
        "key": item.key,
        "path": absolute(where.path),
        "part": where.part,
        "start": where.start,
        "end": where.end,
        "source": item.source,
        "label": item.label,
        "split": item.split,
        "hash": key_of("item", item.key),
        "group": key_of("item", item.group),
        "crop": 0,
        "shard": shard,
        "first": 0,
        "frames": 0,
        "fps": where.fps,
        "retry": False,
    }


def _end_row(view: View, end: End, first: int, crop: int, place: Place) -> dict[str, Any]:
    box = place.box(end.info.width, end.info.height)
    return {
        "kind": end.info.kind,
        "crop": crop,
        "crop_x": box.left,
        "crop_y": box.top,
        "crop_side": box.width,
        "crop_height": box.height,
        "mirrored": place.mirrored,
        "first": first + crop * end.frames,
        "frames": end.frames,
        "fps": end.fps,
        "rate": view.kept_rate(end.fps) if end.info.kind == "video" else None,
        "width": end.info.width,
        "height": end.info.height,
    }


def _failure_row(item: Item, failure: Failure, roots: Roots) -> dict[str, Any]:
    """Its reason; its own bytes stay what they are, anything else is worth another try."""
    if not failure.retry:
        roots.check(item.location.path)
    may_pass = failure.retry or failure.reason.endswith(FORBIDDEN)
    return {"failure": failure.reason, "retry": may_pass}


class _Codes:
    """Frames in, codes out to a .npy file, in passes of a fixed size, so that the same frames in
    the same order give the same bytes however they were decoded. Memory stays that of one pass.
    """

    def __init__(self, file: BufferedRandom, encode: Encode, batch: int) -> None:
        self._file, self._encode, self._batch = file, encode, batch
        self._waiting: list[np.ndarray] = []
        self._encoded = 0
        self._shape: tuple[int, ...] = (0, 0)
        self._dtype = np.dtype(np.uint16)
        self._start = 0
        self.regroup: list[tuple[int, int, int]] = []
        """first frame, frames and crops of items whose crops came frame by frame"""

    @property
    def frames(self) -> int:
        return self._encoded + sum(len(frames) for frames in self._waiting)

    def add(self, frames: UInt8[np.ndarray, "frames crops 3 size size"]) -> None:
        self._waiting.append(frames.reshape(-1, *frames.shape[2:]))
        while self.frames - self._encoded >= self._batch:
            joined = np.concatenate(self._waiting)
            self._write(self._encode(joined[: self._batch]))
            self._waiting = [joined[self._batch :]]

    def drop_from(self, first: int) -> None:
        """Forget the frames from `first` on: their item failed half-way."""
        kept = max(first - self._encoded, 0)
        self._waiting = [np.concatenate(self._waiting)[:kept]] if self._waiting else []
        if first < self._encoded:
            self._encoded = first
            self._file.seek(self._start + first * self._frame_bytes)
            self._file.truncate()

    def finish(self) -> str:
        """Encode what waits, and complete the file; returns its SHA-256."""
        left = np.concatenate(self._waiting) if self._waiting else np.empty(0, np.uint8)
        if len(left):
            padding = np.zeros((self._batch - len(left), *left.shape[1:]), left.dtype)
            self._write(self._encode(np.concatenate((left, padding)))[: len(left)])
        for first, frames, crops in self.regroup:
            self._regroup(first, frames, crops)
        self._header()
        self._file.seek(0)
        return hashlib.file_digest(self._file, "sha256").hexdigest()

    @property
    def _frame_bytes(self) -> int:
        return self._dtype.itemsize * prod(self._shape)

    def _write(self, codes: StoredCodes) -> None:
        if not self._start:
            self._shape, self._dtype = codes.shape[1:], codes.dtype
            self._header()
        self._file.write(codes.tobytes())
        self._encoded += len(codes)

    def _header(self) -> None:
        """NumPy leaves room in it for any number of frames: it keeps its length."""
        self._file.seek(0)
        descr = np.lib.format.dtype_to_descr(self._dtype)
        head = {"descr": descr, "fortran_order": False, "shape": (self._encoded, *self._shape)}
        np.lib.format.write_array_header_1_0(self._file, head)
        assert self._start in (0, self._file.tell())
        self._start = self._file.tell()

    def _regroup(self, first: int, frames: int, crops: int) -> None:
        """From frame by frame to crop by crop."""
        place = self._start + first * self._frame_bytes
        self._file.seek(place)
        codes = np.frombuffer(self._file.read(frames * crops * self._frame_bytes), np.uint8)
        codes = codes.reshape(frames, crops, -1).swapaxes(0, 1)
        self._file.seek(place)
        self._file.write(codes.tobytes())
