"""How often n-grams occur: exact at any size, in bounded memory, by sorted runs on disk."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int

# Keys that are in memory at once. With all that sorting and merging take, 0.3 GiB.
_AT_ONCE = 2**21
_RUN = np.dtype([("key", "<u8"), ("count", "<u4")])

Keys = Int[np.ndarray, " n"]
Piece = tuple[Keys, Int[np.ndarray, " n"]]
"""different keys and how often each occurs"""


@dataclass(frozen=True)
class Spectrum:
    """How many different n-grams occur how often: all that does not depend on which they are."""

    occurrences: list[int]
    """how often, descending"""
    ngrams: list[int]
    """how many different n-grams occur so often"""

    @property
    def total(self) -> int:
        """Occurrences of all."""
        return sum(a * b for a, b in zip(self.occurrences, self.ngrams, strict=True))

    @property
    def distinct(self) -> int:
        return sum(self.ngrams)

    @property
    def once(self) -> int:
        """N-grams that occur a single time: where they are many, more data would bring more."""
        return dict(zip(self.occurrences, self.ngrams, strict=True)).get(1, 0)

    @property
    def entropy(self) -> float:
        """Of the shares, in bits."""
        shares = np.array(self.occurrences) / max(self.total, 1)
        return float(-(np.array(self.ngrams) * shares * np.log2(shares)).sum())

    def covering(self, percent: int) -> int:
        """How many n-grams, the most frequent first, make that part of all occurrences."""
        needed, taken = -(-percent * self.total // 100), 0
        for value, number in zip(self.occurrences, self.ngrams, strict=True):
            if needed <= value * number:
                return taken - (-needed // value)
            needed -= value * number
            taken += number
        return taken

    def at_ranks(self, ranks: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
        """How often the n-grams of these ranks occur; the most frequent has rank 1."""
        return np.array(self.occurrences)[np.searchsorted(np.cumsum(self.ngrams), ranks)]


class Tally:
    """Counts of different n-grams, a piece at a time, on the way to their spectrum."""

    def __init__(self) -> None:
        self._found: Counter[int] = Counter()

    def add(self, counts: Int[np.ndarray, " n"]) -> "Tally":
        values, numbers = np.unique(counts[counts > 0], return_counts=True)
        self._found.update(dict(zip(values.tolist(), numbers.tolist(), strict=True)))
        return self

    @property
    def spectrum(self) -> Spectrum:
        occurrences = sorted(self._found, reverse=True)
        return Spectrum(occurrences, [self._found[value] for value in occurrences])


def counted(parts: Iterable[Keys], scratch: Path, at_once: int = _AT_ONCE) -> Iterator[Piece]:
    """The different keys of all parts and how often each occurs, in pieces, ascending.

    Keys are 0 or more. At most `at_once` of them, and one part, are in memory; the folder `scratch`
    holds 12 bytes for each key that differs from all others of its `at_once`.

    Raises:
        OSError: the disk is full.
    """
    runs = [
        _Run.write(scratch / f"{number:06d}", keys)
        for number, keys in enumerate(_gathered(parts, at_once))
    ]
    while runs := [run for run in runs if run.fill(max(at_once // len(runs), 1))]:
        # Whatever is not yet read of a run lies above the last key that is.
        limit = min((run.last for run in runs if run.left), default=None)
        taken = np.concatenate([run.take(limit) for run in runs])
        keys, counts = taken["key"].astype(np.int64), taken["count"].astype(np.int64)
        order = np.argsort(keys)
        keys, counts = keys[order], counts[order]
        starts = np.flatnonzero(np.diff(keys, prepend=-1))
        yield keys[starts], np.add.reduceat(counts, starts)


def _gathered(parts: Iterable[Keys], at_once: int) -> Iterator[Keys]:
    """The same keys, about `at_once` at a time."""
    waiting: list[Keys] = []
    for part in parts:
        for begin in range(0, len(part), at_once):
            waiting.append(part[begin : begin + at_once])
            if sum(map(len, waiting)) >= at_once:
                yield np.concatenate(waiting)
                waiting = []
    if waiting:
        yield np.concatenate(waiting)


class _Run:
    """Different keys, ascending, with their counts, in a file of which a few are in memory."""

    def __init__(self, path: Path, length: int) -> None:
        self.path, self.left, self._read = path, length, 0
        self._head = np.empty(0, _RUN)

    @classmethod
    def write(cls, path: Path, keys: Keys) -> "_Run":
        values, counts = np.unique(keys, return_counts=True)
        run = np.empty(len(values), _RUN)
        run["key"], run["count"] = values, counts
        # np.ndarray.tofile does not tell that the disk is full from any other failure.
        path.write_bytes(run.data)
        return cls(path, len(run))

    @property
    def last(self) -> int:
        """The greatest key in memory."""
        return int(self._head["key"][-1])

    def fill(self, block: int) -> bool:
        """Have `block` keys in memory, or all that there are; whether there is one.

        The file is not kept open: there may be more of them than descriptors.
        """
        wanted = min(block - len(self._head), self.left)
        if wanted > 0:
            offset = self._read * _RUN.itemsize
            more = np.fromfile(self.path, _RUN, wanted, offset=offset)
            self._head = np.concatenate((self._head, more))
            self._read, self.left = self._read + wanted, self.left - wanted
        return len(self._head) > 0

    def take(self, limit: int | None) -> np.ndarray:
        """Take those up to `limit` out of memory; all without one."""
        end = len(self._head)
        if limit is not None:
            end = int(np.searchsorted(self._head["key"], np.uint64(limit), side="right"))
        taken, self._head = self._head[:end], self._head[end:]
        return taken
