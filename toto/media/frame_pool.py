"""A pool of single frames, decoded once from a source, to draw training batches from."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from toto.errors import UserError
from toto.media.item import Item
from toto.media.pool import Chunk, DecodePool, End, Failure, Task
from toto.media.view import View
from toto.progress import console, progress


def frame_pool(
    items: Sequence[Item], view: View, count: int, path: Path, workers: int = 2
) -> UInt8[np.ndarray, "frames 3 size size"]:
    """About `count` frames, as many from each item, memory-mapped from `path`.

    An item's frames are drawn at random over its whole length. The pool depends on nothing but the
    items and the arguments, and is read from `path` if it is there.

    Raises:
        UserError: no item can be read.
    """
    if not path.exists():
        # Were all items not needed, a hash says which.
        chosen = sorted(items, key=lambda item: _hash(item.key))[:count]
        each = -(-count // max(len(chosen), 1))
        frames, failures = _draw(chosen, view, each, workers)
        if failures:
            console.print(f"{failures} of {len(chosen)} files could not be read and are left out")
        if not frames:
            raise UserError(f"none of {len(chosen)} files could be read")
        partial = path.with_name(f".{path.stem}.partial.npy")
        np.save(partial, np.concatenate(frames))
        partial.replace(path)
    return np.load(path, mmap_mode="r")


def _draw(
    items: Sequence[Item], view: View, each: int, workers: int
) -> tuple[list[np.ndarray], int]:
    """`each` frames of every readable item, and how many items are not readable."""
    pool, failures = [], 0
    with (
        DecodePool(view, workers) as decoders,
        progress("decode frames", len(items), "files") as advance,
    ):
        reservoir = _Reservoir(each, 0)
        for number, part in decoders.stream(Task(item.location) for item in items):
            if isinstance(part, Chunk):
                reservoir.add(part.frames[:, 0])
                continue
            if isinstance(part, End):
                pool.append(np.stack(reservoir.frames))
            failures += isinstance(part, Failure)
            reservoir = _Reservoir(each, number + 1)
            advance()
    return pool, failures


class _Reservoir:
    """A uniform sample of a stream of unknown length (Vitter 1985, algorithm R)."""

    def __init__(self, size: int, seed: int) -> None:
        self.size, self.seen = size, 0
        self.frames: list[np.ndarray] = []
        self.random = np.random.default_rng(seed)

    def add(self, frames: np.ndarray) -> None:
        for frame in frames:
            if len(self.frames) < self.size:
                self.frames.append(frame.copy())
            elif (place := int(self.random.integers(self.seen + 1))) < self.size:
                self.frames[place] = frame.copy()
            self.seen += 1


def _hash(key: str) -> bytes:
    return hashlib.blake2b(key.encode(), digest_size=8).digest()
