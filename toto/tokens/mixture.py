"""Which clip is sequence `i` of a run: a pure function of a frozen manifest and `i`.

Sources take turns in exact proportions in every block. A source's clips come in an order that is
drawn anew each epoch by a keyed bijection, so that none repeats before all have been seen, and
nothing has to be remembered.
"""

import hashlib
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Int, Shaped

from toto.errors import UserError

_MASK = np.uint64(0xFFFFFFFFFFFFFFFF)
_ROUNDS = 6


def key_of(*parts: object) -> int:
    """64 bits that depend on every part and on nothing else."""
    text = "\0".join(str(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def _mix(x: np.ndarray) -> np.ndarray:
    """SplitMix64's finalizer: every bit of the input changes every bit of the output."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def permute(places: Shaped[np.ndarray, " n"], size: int, key: int) -> Int[np.ndarray, " n"]:
    """Where a keyed permutation of `range(size)` takes each of `places`.

    A Feistel network over the next even number of bits, walked along its cycles until it is back in
    range: constant memory for a billion places as for ten.
    """
    if size == 1:
        return np.zeros(len(places), np.int64)
    half = np.uint64(max(1, -(-(size - 1).bit_length() // 2)))
    low = (np.uint64(1) << half) - np.uint64(1)
    keys = [np.uint64(key_of(key, i)) for i in range(_ROUNDS)]

    def network(x: np.ndarray) -> np.ndarray:
        left, right = x >> half, x & low
        for round_key in keys:
            left, right = right, left ^ (_mix(right + round_key) & low)
        return (left << half) | right

    with np.errstate(over="ignore"):
        x = network(places.astype(np.uint64))
        while (outside := x >= size).any():
            x[outside] = network(x[outside])
    return x.astype(np.int64)


@dataclass(frozen=True)
class Entry:
    """One data set in a mixture."""

    path: str
    """folder of the data set"""
    fingerprint: str
    """fingerprint of its content"""
    kind: str
    """"video": a sequence is a clip; "image": a sequence packs images"""
    weight: int
    """sequences from it in every block"""
    clips: int
    """clips, or images, in an epoch"""


@dataclass(frozen=True)
class Manifest:
    """What the sequences of a run are made of; frozen in its config.json."""

    entries: tuple[Entry, ...]
    seed: int
    frames: int
    """frames of a clip, or images of a sequence"""
    split: str
    """"train", "validation" or "test"; where a data set names none, `in_validation` decides"""
    validation_fraction: float
    """part of the items without a split of their own that go to validation"""
    tokenizer: str
    """fingerprint of the tokenizer of all data sets"""

    def __post_init__(self) -> None:
        for entry in self.entries:
            if entry.weight < 1:
                raise UserError(f"weight {entry.weight} of {entry.path}: at least 1")
            if entry.clips < 1:
                raise UserError(f"{entry.path} holds nothing for the split {self.split!r}")

    @property
    def block(self) -> int:
        """Sequences in which every source has its exact share."""
        return sum(entry.weight for entry in self.entries)


@dataclass(frozen=True)
class Draw:
    """A sequence's source, and its clips (or images) there: `(epoch, place in the source)` each."""

    source: int
    places: tuple[tuple[int, int], ...]


def draw(manifest: Manifest, index: int) -> Draw:
    """What sequence `index` consists of."""
    block, slot = divmod(index, manifest.block)
    order = _block_order(manifest, block)
    source = int(order[slot])
    before = int((order[:slot] == source).sum())
    entry = manifest.entries[source]
    nth = block * entry.weight + before
    per_sequence = 1 if entry.kind == "video" else manifest.frames
    places = []
    for k in range(nth * per_sequence, (nth + 1) * per_sequence):
        epoch, rank = divmod(k, entry.clips)
        key = key_of(manifest.seed, "order", source, epoch)
        places.append((epoch, int(permute(np.array([rank]), entry.clips, key)[0])))
    return Draw(source, tuple(places))


@lru_cache(maxsize=256)
def _block_order(manifest: Manifest, block: int) -> np.ndarray:
    weights = [entry.weight for entry in manifest.entries]
    slots = np.repeat(np.arange(len(weights)), weights)
    if len(weights) == 1:
        return slots
    key = key_of(manifest.seed, "block", block)
    return slots[permute(np.arange(len(slots)), len(slots), key)]


def window_offset(seed: int, epoch: int, item: str, slack: int) -> int:
    """By how many frames an epoch shifts an item's windows: 0 .. slack."""
    return key_of(seed, "offset", epoch, item) % (slack + 1)


def in_validation(key: str, fraction: float) -> bool:
    """Whether the item of that key is for validation; by the key alone, so growth moves none."""
    return key_of("split", key) < fraction * 2**64
