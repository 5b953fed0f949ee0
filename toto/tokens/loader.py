"""The sequences of a run, read from token data sets."""

from collections.abc import Sequence
from functools import cached_property
from math import gcd
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int, UInt16
from torch import Tensor

from toto.errors import UserError
from toto.tokens.mixture import Entry, Manifest, draw, in_validation, key_of, window_offset
from toto.tokens.store import ItemRow, TokenDataset
from toto.tokens.vocabulary import Kind, Vocabulary

# Weights that are not given are shares of a block of about so many sequences.
_BLOCK = 1000


def select(dataset: TokenDataset, split: str, fraction: float) -> Int[np.ndarray, " items"]:
    """Index rows of the items that belong to a split ("train", "validation" or "test").

    A data set that names splits is taken at its word ("val" is validation). Where it names no
    validation, a hash of the key puts `fraction` of the training items there: at least one, which
    in a data set too small for its fraction is the one with the smallest hash.
    """
    names = dataset.column("split")
    named = {split for split in names if split is not None}
    if split == "test" or (split == "validation" and "val" in named):
        return np.flatnonzero(names == {"test": "test", "validation": "val"}[split])
    train = np.flatnonzero(names == "train") if named else np.arange(len(names))
    if "val" in named:
        return train
    keys = dataset.column("key")[train]
    held_out = np.array([in_validation(key, fraction) for key in keys], bool)
    if not held_out.any() and len(keys) > 1:
        held_out[min(range(len(keys)), key=lambda i: key_of("split", keys[i]))] = True
    return train[held_out if split == "validation" else ~held_out]


class _Source:
    """The items of one kind and split of one data set, and their clips."""

    def __init__(
        self, dataset: TokenDataset, kind: str, split: str, fraction: float, frames: int
    ) -> None:
        self.dataset, self.frames = dataset, frames
        rows = select(dataset, split, fraction)
        self.rows = rows[dataset.column("kind")[rows] == kind]
        lengths = dataset.column("frames")[self.rows]
        # A video that is shorter than a clip gives one short sequence.
        windows = np.maximum(lengths // frames, 1) if kind == "video" else np.ones_like(lengths)
        self.ends = np.cumsum(windows)

    @property
    def clips(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    def locate(self, place: int) -> tuple[ItemRow, int]:
        """The item that holds clip `place` of an epoch, and which of its windows it is."""
        i = int(np.searchsorted(self.ends, place, side="right"))
        before = int(self.ends[i - 1]) if i else 0
        return self.dataset.item(int(self.rows[i])), place - before


class Sequences:
    """Sequence `i` of a manifest as tokens.

    Raises:
        UserError: a data set is not the one that the manifest was frozen with.
    """

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest
        self.datasets = [TokenDataset(Path(entry.path)) for entry in manifest.entries]
        for dataset, entry in zip(self.datasets, manifest.entries, strict=True):
            if dataset.fingerprint != entry.fingerprint:
                raise UserError(
                    f"{entry.path} has changed under this run: its fingerprint was "
                    f"{entry.fingerprint}, now it is {dataset.fingerprint}"
                )
        self.sources = [
            _Source(
                dataset, entry.kind, manifest.split, manifest.validation_fraction, manifest.frames
            )
            for dataset, entry in zip(self.datasets, manifest.entries, strict=True)
        ]

    @cached_property
    def vocabulary(self) -> Vocabulary:
        return self.datasets[0].vocabulary

    @property
    def clips(self) -> int:
        """Clips and packs of images in one epoch of everything."""
        pack = self.manifest.frames
        return sum(
            entry.clips if entry.kind == "video" else -(-entry.clips // pack)
            for entry in self.manifest.entries
        )

    def describe(self, index: int) -> list[tuple[ItemRow, int]]:
        """The items of sequence `index`, each with its first kept frame there."""
        drawn = draw(self.manifest, index)
        source = self.sources[drawn.source]
        found = []
        for epoch, place in drawn.places:
            item, window = source.locate(place)
            slack = item.frames % self.manifest.frames if item.frames > self.manifest.frames else 0
            offset = window_offset(self.manifest.seed, epoch, item.key, slack)
            found.append((item, offset + window * self.manifest.frames))
        return found

    def codes(self, index: int) -> UInt16[np.ndarray, "frames rows cols"]:
        """The codes of sequence `index`."""
        source = draw(self.manifest, index).source
        dataset = self.datasets[source]
        frames = self.manifest.frames if self.manifest.entries[source].kind == "video" else 1
        codes = [dataset.codes(item, first, frames) for item, first in self.describe(index)]
        return np.concatenate(codes)

    def sequence(self, index: int) -> Int[np.ndarray, " positions"]:
        """The tokens of sequence `index`, padded to the full length."""
        entry = self.manifest.entries[draw(self.manifest, index).source]
        kind: Kind = "video" if entry.kind == "video" else "image"
        return self.vocabulary.sequence(self.codes(index), kind, self.manifest.frames)

    def batch(self, first: int, count: int) -> Int[Tensor, "b t"]:
        """Sequences `first .. first + count`."""
        return torch.from_numpy(np.stack([self.sequence(first + i) for i in range(count)]))


def freeze(
    datasets: Sequence[TokenDataset],
    weights: Sequence[int],
    frames: int,
    seed: int,
    split: str,
    fraction: float,
) -> Manifest:
    """The manifest of a mixture of data sets.

    Raises:
        UserError: tokenizers differ, a weight does not fit, or there is nothing for the split.
    """
    if not datasets:
        raise UserError("no token data set is given")
    first = datasets[0]
    for other in datasets[1:]:
        if other.info["tokenizer"] != first.info["tokenizer"]:
            raise UserError(
                f"{first.folder} was made by tokenizer {first.info['tokenizer']}, "
                f"{other.folder} by {other.info['tokenizer']}: they cannot be mixed"
            )
    entries = []
    for i, dataset in enumerate(datasets):
        kinds = [kind for kind in ("video", "image") if (dataset.column("kind") == kind).any()]
        if weights and len(kinds) > 1:
            raise UserError(f"{dataset.folder} holds videos and images: give it no weight")
        for kind in kinds:
            clips = _Source(dataset, kind, split, fraction, frames).clips
            if clips:
                weight = weights[i] if weights else 0
                entries.append((dataset, kind, weight, clips))
    if not entries:
        folders = ", ".join(str(dataset.folder) for dataset in datasets)
        raise UserError(f"{folders}: no item for the split {split!r}")
    if not weights:
        sequences = [c if kind == "video" else -(-c // frames) for _, kind, _, c in entries]
        shares = [max(1, round(_BLOCK * n / sum(sequences))) for n in sequences]
        shares = [share // gcd(*shares) for share in shares]
        entries = [(d, k, n, c) for (d, k, _, c), n in zip(entries, shares, strict=True)]
    return Manifest(
        entries=tuple(
            Entry(str(dataset.folder.absolute()), dataset.fingerprint, kind, weight, clips)
            for dataset, kind, weight, clips in entries
        ),
        seed=seed,
        frames=frames,
        split=split,
        validation_fraction=fraction,
        tokenizer=first.info["tokenizer"],
    )
