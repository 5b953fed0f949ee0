"""Which clip is sequence `i` of a run: a pure function of a frozen manifest and `i`.

Sources take turns in exact proportions in every block. A source's clips come in an order that is
drawn anew each epoch by a keyed bijection, so that none repeats before all have been seen, and
nothing has to be remembered. Everything is done for many sequences at once.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, Shaped, UInt64

from toto.errors import UserError

_ROUNDS = 6


def key_of(*parts: object) -> int:
    """64 bits that depend on every part and on nothing else."""
    text = "\0".join(str(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def _mix(x: UInt64[np.ndarray, "*n"]) -> UInt64[np.ndarray, "*n"]:
    """SplitMix64's finalizer: every bit of the input changes every bit of the output."""
    x = x ^ (x >> np.uint64(30))
    x *= np.uint64(0xBF58476D1CE4E5B9)
    x ^= x >> np.uint64(27)
    x *= np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(31)
    return x


def permute(places: Shaped[np.ndarray, " n"], size: int, key: int) -> Int[np.ndarray, " n"]:
    """Where a keyed permutation of `range(size)` takes each of `places`.

    A Feistel network over the next even number of bits, walked along its cycles until it is back in
    range: constant memory for a billion places as for ten.
    """
    return _permute(places, size, [key], np.zeros(len(places), np.int64))


def _permute(
    places: Shaped[np.ndarray, " n"],
    size: int,
    keys: Sequence[int],
    which: Int[np.ndarray, " n"],
) -> Int[np.ndarray, " n"]:
    """`permute`, each place by the key of `keys` that `which` says."""
    if size == 1:
        return np.zeros(len(places), np.int64)
    half = np.uint64(max(1, -(-(size - 1).bit_length() // 2)))
    low = (np.uint64(1) << half) - np.uint64(1)
    rounds = np.array([[key_of(key, i) for key in keys] for i in range(_ROUNDS)], np.uint64)

    def network(x: np.ndarray, which: np.ndarray) -> np.ndarray:
        left, right = x >> half, x & low
        for round_keys in rounds:
            left, right = right, left ^ (_mix(right + round_keys[which]) & low)
        return (left << half) | right

    x = network(places.astype(np.uint64), which)
    while len(outside := np.flatnonzero(x >= size)):
        x[outside] = network(x[outside], which[outside])
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
    target: str | None = None
    """folder of the data set of codes that are predicted, where others are read"""
    target_fingerprint: str | None = None
    """fingerprint of its content"""


@dataclass(frozen=True)
class Manifest:
    """What the sequences of a run are made of; frozen in its config.json."""

    entries: tuple[Entry, ...]
    seed: int
    frames: int
    """frames of a clip, or images of a sequence"""
    split: str
    """"train", "validation" or "test"; where a data set names none, `split_values` decides"""
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
class Share:
    """What one source gives to the sequences that are asked for."""

    source: int
    asked: Int[np.ndarray, " n"]
    """which of the asked sequences are its own"""
    epochs: Int[np.ndarray, "n clips"]
    """epoch of each clip (or image) of each of them"""
    ranks: Int[np.ndarray, "n clips"]
    """its number within that epoch, see `places_of`"""


def draw(manifest: Manifest, indices: Int[np.ndarray, " asked"]) -> list[Share]:
    """What the sequences of these indices consist of: a share for each source that has a part."""
    blocks, slots = np.divmod(indices, manifest.block)
    sources, before = _turns(manifest, blocks, slots)
    shares = []
    for source, entry in enumerate(manifest.entries):
        asked = np.flatnonzero(sources == source)
        if not len(asked):
            continue
        nth = blocks[asked] * entry.weight + before[asked]
        clips = 1 if entry.kind == "video" else manifest.frames
        numbers = nth[:, None] * clips + np.arange(clips)
        shares.append(Share(source, asked, *np.divmod(numbers, entry.clips)))
    return shares


def places_of(
    manifest: Manifest, source: int, epochs: Int[np.ndarray, "*n"], ranks: Int[np.ndarray, "*n"]
) -> Int[np.ndarray, "*n"]:
    """Which of a source's clips come at these ranks of epochs: each once in an epoch."""
    distinct, which = np.unique(epochs, return_inverse=True)
    keys = [key_of(manifest.seed, "order", source, epoch) for epoch in distinct.tolist()]
    places = _permute(ranks.ravel(), manifest.entries[source].clips, keys, which.ravel())
    return places.reshape(ranks.shape)


def _turns(
    manifest: Manifest, blocks: Int[np.ndarray, " n"], slots: Int[np.ndarray, " n"]
) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"]]:
    """The source of each slot of a block, and how many of its slots come before in the block."""
    if len(manifest.entries) == 1:
        return np.zeros_like(slots), slots
    weights = [entry.weight for entry in manifest.entries]
    size = manifest.block
    distinct, which = np.unique(blocks, return_inverse=True)
    keys = [key_of(manifest.seed, "block", block) for block in distinct.tolist()]
    everywhere = np.tile(np.arange(size), len(distinct))
    order = _permute(everywhere, size, keys, np.repeat(np.arange(len(distinct)), size))
    sources = np.repeat(np.arange(len(weights)), weights)[order].reshape(-1, size)
    # Sorted by source, a block's slots are numbered from 0 in each.
    within = np.concatenate([np.arange(weight) for weight in weights])
    before = np.empty_like(sources)
    np.put_along_axis(before, np.argsort(sources, axis=1, kind="stable"), within[None], axis=1)
    return sources[which, slots], before[which, slots]


@dataclass(frozen=True)
class Located:
    """Where clips are: rows of an index, and their first kept frame and number of frames there."""

    rows: Int[np.ndarray, " n"]
    firsts: Int[np.ndarray, " n"]
    frames: Int[np.ndarray, " n"]


class Source:
    """The items of one kind and split, and the clips that they give in an epoch."""

    def __init__(
        self,
        rows: Int[np.ndarray, " items"],
        crops: Int[np.ndarray, " items"],
        frames: Int[np.ndarray, " items"],
        hashes: UInt64[np.ndarray, " items"],
        clip: int,
    ) -> None:
        """`rows` are the items' first rows in an index, where their `crops` stand in a row.

        `clip` is the number of frames of a clip: 1 for images.
        """
        self.rows, self.crops, self.frames, self.hashes = rows, crops, frames, hashes
        self.clip = clip
        # A video that is shorter than a clip gives one short sequence.
        windows = np.maximum(frames // clip, 1)
        clips = int(windows.sum(dtype=np.int64))
        # The smallest signed type that holds 128 is not the one that holds -128.
        self.ends = np.cumsum(windows, dtype=np.min_scalar_type(-clips - 1))

    @property
    def clips(self) -> int:
        """Clips in an epoch."""
        return int(self.ends[-1]) if len(self.ends) else 0

    def locate(
        self, epochs: Int[np.ndarray, " n"], places: Int[np.ndarray, " n"], seed: int
    ) -> Located:
        """Where the clips at `places` of `epochs` are: windows that tile their videos, shifted by
        an offset of the epoch, in the crop of the epoch.
        """
        items = np.searchsorted(self.ends, places.astype(self.ends.dtype), side="right")
        before = np.where(items > 0, self.ends[items - 1], 0).astype(np.int64)
        frames, hashes = self.frames[items].astype(np.int64), self.hashes[items]
        slack = np.where(frames > self.clip, frames % self.clip, 0)
        offsets = choose(seed, "offset", epochs, hashes, slack + 1)
        crops = choose(seed, "crop", epochs, hashes, self.crops[items])
        return Located(
            rows=self.rows[items] + crops,
            firsts=(places - before) * self.clip + offsets,
            frames=np.minimum(frames, self.clip),
        )


def choose(
    seed: int,
    what: str,
    epochs: Int[np.ndarray, " n"],
    hashes: UInt64[np.ndarray, " n"],
    counts: Int[np.ndarray, " n"],
) -> Int[np.ndarray, " n"]:
    """For each item a number from 0 to its count (exclusive), by (seed, epoch, item) alone."""
    distinct, which = np.unique(epochs, return_inverse=True)
    keys = np.array([key_of(seed, what, epoch) for epoch in distinct.tolist()], np.uint64)
    return (_mix(hashes + keys[which]) % counts.astype(np.uint64)).astype(np.int64)


def split_values(
    groups: UInt64[np.ndarray, " n"], purpose: str = "split"
) -> Float[np.ndarray, " n"]:
    """A number from 0 to 1 for each item, by its group alone: those below a fraction are held out.

    As nothing else has a part in it, an item stays on its side however its data set grows.
    """
    # 53 bits are what a float holds exactly.
    return (_mix(groups ^ np.uint64(key_of(purpose))) >> np.uint64(11)) * 2.0**-53


def in_validation(group: str, fraction: float) -> bool:
    """Whether items of a group are for validation, where there is no index yet to ask."""
    return bool(split_values(np.array([key_of("item", group)], np.uint64))[0] < fraction)
