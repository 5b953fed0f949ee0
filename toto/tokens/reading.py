"""Codes, or pixels, out of the files of shards."""

import os
from collections.abc import Callable, Iterator
from itertools import groupby

import numpy as np
from jaxtyping import Int, UInt8, UInt16

from toto.errors import UserError

# Frames that are in memory at once when many are wanted.
_AT_ONCE = 4096

Each = Int[np.ndarray, " n"]
Codes = UInt16[np.ndarray, "frames rows cols"] | UInt8[np.ndarray, "frames 3 side side"]
"""What is stored of frames: codes, or their pixels."""


class Shards:
    """Shards of codes or pixels, `.npy` files of one `shape` a frame, read anywhere.

    From the page cache `preadv` is faster than a memory map (a clip of 8 KiB in 2 µs against 3; 16
    images of 4 shards in 16 µs against 28), and it lets the training thread go on while it waits
    for a disk. Files are not kept open: read in the order of the shards, opening costs 3 µs for
    each, and no number of shards uses up the descriptors.
    """

    def __init__(self, name: Callable[[int], str], shape: tuple[int, ...], dtype: np.dtype) -> None:
        """`name` gives the path of a shard."""
        self._name, self.shape, self.dtype = name, shape, dtype
        self._offsets: dict[int, int] = {}

    def empty(self, frames: int) -> Codes:
        """Room for so many frames."""
        return np.empty((frames, *self.shape), self.dtype)

    def read(self, shards: Each, starts: Each, frames: Each, at: Each, out: Codes) -> None:
        """Read frames `starts .. starts + frames` of shards to `out[at ...]`.

        Raises:
            UserError: a file is not there, or does not hold them.
        """
        size = out[:1].nbytes
        view = out.reshape(-1).view(np.uint8).data
        order = np.lexsort((starts, shards))
        columns = (shards, starts.astype(np.int64) * size, at * size, (at + frames) * size)
        clips = zip(*(column[order].tolist() for column in columns), strict=True)
        for shard, its_clips in groupby(clips, key=lambda clip: clip[0]):
            path, offset = self._name(shard), self._offset(shard)
            try:
                file = os.open(path, os.O_RDONLY)
            except FileNotFoundError as error:
                raise UserError(f"{path} is missing: {error}") from error
            try:
                for _, start, begin, end in its_clips:
                    if os.preadv(file, [view[begin:end]], offset + start) != end - begin:
                        raise UserError(f"{path} has been cut short")
            finally:
                os.close(file)

    def in_turn(self, shards: Each, starts: Each, frames: Each) -> Iterator[Codes]:
        """All the frames, some thousands at a time, in the order in which they lie in the shards.

        Raises:
            UserError: as in `read`.
        """
        for shards_, starts_, frames_ in _runs(shards, starts, frames):
            ends = np.cumsum(frames_)
            out = self.empty(int(ends[-1]))
            self.read(shards_, starts_, frames_, ends - frames_, out)
            yield out

    def _offset(self, shard: int) -> int:
        """Where the codes begin in a shard's file: its header is read once."""
        if shard not in self._offsets:
            path = self._name(shard)
            try:
                codes = np.load(path, mmap_mode="r")
            except (FileNotFoundError, ValueError, EOFError) as error:
                raise UserError(f"{path} is missing or damaged: {error}") from error
            fits = codes.shape[1:] == self.shape and codes.dtype == self.dtype
            if not (fits and codes.flags.c_contiguous):
                expected = f"{self.dtype} {self.shape}"
                raise UserError(f"{path} holds {codes.dtype} {codes.shape}, not {expected}")
            self._offsets[shard] = codes.offset
        return self._offsets[shard]


def _runs(
    shards: Each, starts: Each, frames: Each
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """The same frames in few runs `(shards, starts, frames)`, about `_AT_ONCE` at a time."""
    if not len(shards):
        return
    order = np.lexsort((starts, shards))
    shards, starts, ends = shards[order], starts[order], (starts + frames)[order]
    apart = (shards[1:] != shards[:-1]) | (starts[1:] != ends[:-1])
    heads = np.flatnonzero(np.concatenate(([True], apart)))
    tails = np.append(heads[1:], len(shards)) - 1
    pieces = -(-(ends[tails] - starts[heads]) // _AT_ONCE)
    shards, ends = np.repeat(shards[heads], pieces), np.repeat(ends[tails], pieces)
    within = np.arange(len(shards)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    starts = np.repeat(starts[heads], pieces) + within * _AT_ONCE
    frames = np.minimum(ends - starts, _AT_ONCE)
    cuts = np.flatnonzero(np.diff(np.cumsum(frames) // _AT_ONCE)) + 1
    yield from zip(*(np.split(part, cuts) for part in (shards, starts, frames)), strict=True)
