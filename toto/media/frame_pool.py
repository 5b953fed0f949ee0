"""A pool of single frames, decoded once from a source, to draw training batches from."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from toto.errors import UserError
from toto.files import naming
from toto.media.item import Item
from toto.media.pool import Chunk, DecodePool, End, Task
from toto.media.view import View
from toto.progress import console, progress


def frame_pool(
    items: Sequence[Item], view: View, count: int, path: Path, workers: int = 2
) -> UInt8[np.ndarray, "frames 3 size size"]:
    """About `count` frames, as many from each item, memory-mapped from `path`.

    An item's frames are drawn at random over its whole length. The pool depends on nothing but the
    items and the arguments, and is read from `path` if it is there. What a kill leaves beside it is
    gone on from.

    Raises:
        UserError: no item can be read, or `view` keeps several crops.
    """
    if view.crops > 1:
        raise UserError(f"crops {view.crops}: a pool keeps one of each frame")
    if not path.exists():
        # Were all items not needed, a hash says which.
        chosen = sorted(items, key=lambda item: _hash(item.key))[:count]
        each = -(-count // max(len(chosen), 1))
        with naming(path), _Partial(path, chosen, view.size) as partial:
            _draw(partial, view, each, workers)
            failures = partial.counts.count(0)
            if failures:
                console.print(
                    f"{failures} of {len(chosen)} files could not be read and are left out"
                )
            if failures == len(chosen):
                raise UserError(f"none of {len(chosen)} files could be read")
            partial.finish()
    return np.load(path, mmap_mode="r")


def _draw(partial: "_Partial", view: View, each: int, workers: int) -> None:
    """Add `each` frames of every item that can be read."""
    done = len(partial.counts)
    left = partial.items[done:]
    tasks = (Task(i.location, view.places(int.from_bytes(_hash(i.key)))) for i in left)
    with (
        DecodePool(view, workers) as decoders,
        progress("decode frames", len(partial.items), "files", done) as advance,
    ):
        reservoir = _Reservoir(each, done)
        for number, part in decoders.stream(tasks):
            if isinstance(part, Chunk):
                for frame in part.frames[:, 0]:
                    if (place := reservoir.place()) is not None:
                        partial.put(place, frame)
                continue
            partial.end(min(reservoir.seen, each) if isinstance(part, End) else 0)
            reservoir = _Reservoir(each, done + number + 1)
            advance()


class _Reservoir:
    """A uniform sample of a stream of unknown length (Vitter 1985, algorithm R)."""

    def __init__(self, size: int, seed: int) -> None:
        self.size, self.seen = size, 0
        self.random = np.random.default_rng(seed)

    def place(self) -> int | None:
        """Where in the sample the stream's next one goes, if it does."""
        self.seen += 1
        if self.seen <= self.size:
            return self.seen - 1
        place = int(self.random.integers(self.seen))
        return place if place < self.size else None


class _Partial:
    """A pool that is being filled: the frames, and beside them how many are of which item.

    Frames are written to where they belong at once, so that memory does not grow with them; a line
    for an item says that its frames are there.
    """

    def __init__(self, path: Path, items: Sequence[Item], side: int) -> None:
        self.path, self.items, self.side = path, items, side
        self.counts: list[int] = []
        self.filled = 0
        self._names = [path.with_name(f".{path.stem}.partial{end}") for end in (".npy", ".txt")]

    def __enter__(self) -> "_Partial":
        for name in self._names:
            name.touch()
        self._frames, self._lines = (name.open("r+b") for name in self._names)
        self._begin = self._write_header()
        # The last line was cut off if it has no end.
        lines = self._lines.read().split(b"\n")[:-1]
        for item, line in zip(self.items, lines, strict=False):
            its, count = line.split()
            if its.decode() != _hash(item.key).hex():
                break
            self._count(int(count))
        self._lines.truncate(sum(len(line) + 1 for line in lines[: len(self.counts)]))
        self._lines.seek(0, os.SEEK_END)
        return self

    def __exit__(self, *_: object) -> None:
        self._frames.close()
        self._lines.close()

    def put(self, place: int, frame: UInt8[np.ndarray, "3 size size"]) -> None:
        """Make it the frame at `place` of the next item's."""
        self._frames.seek(self._begin + (self.filled + place) * frame.nbytes)
        self._frames.write(frame.tobytes())

    def end(self, count: int) -> None:
        """The next item has so many frames: 0 if it cannot be read."""
        self._frames.flush()
        its = _hash(self.items[len(self.counts)].key).hex()
        self._lines.write(f"{its} {count}\n".encode())
        self._lines.flush()
        self._count(count)

    def finish(self) -> None:
        """Give the pool its name."""
        self._frames.truncate(self._begin + self.filled * 3 * self.side**2)
        self._write_header()
        self._frames.flush()
        os.fsync(self._frames.fileno())
        frames, lines = self._names
        frames.replace(self.path)
        lines.unlink()

    def _count(self, count: int) -> None:
        self.counts.append(count)
        self.filled += count

    def _write_header(self) -> int:
        """Where the frames begin: the header is as long whatever their number is."""
        shape = self.filled, 3, self.side, self.side
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        self._frames.seek(0)
        np.lib.format.write_array_header_1_0(self._frames, header)
        return self._frames.tell()


def _hash(key: str) -> bytes:
    return hashlib.blake2b(key.encode(), digest_size=8).digest()
