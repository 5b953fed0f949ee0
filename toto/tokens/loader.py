"""The sequences of a run, read from token data sets."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import gcd
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Int, Shaped
from torch import Tensor

from toto.errors import UserError
from toto.tokens.joined import join
from toto.tokens.mixture import Entry, Manifest, Source, draw, places_of, split_values
from toto.tokens.online import OnlineReader, Wanted
from toto.tokens.reading import Codes
from toto.tokens.rows import ItemRow
from toto.tokens.store import TokenDataset
from toto.tokens.vocabulary import Layout, Vocabulary

# Weights that are not given are shares of a block of about so many sequences.
_BLOCK = 1000

# Drawing so many sequences costs little more than drawing a few: they are kept for the next batch.
_PAGE = 4096


def select(dataset: TokenDataset, split: str, fraction: float) -> Int[np.ndarray, " chosen"]:
    """Index rows of the items that belong to a split ("train", "validation" or "test").

    A data set that names splits is taken at its word ("val" is validation). Where it names no
    validation, a hash of the key puts `fraction` of the training items there, segments of a file
    together: at least one, which in a data set too small for its fraction has the smallest hash. As
    a data set grows that one can go back to training; none ever goes from training to validation.
    """
    return np.flatnonzero(_chosen(dataset, split, fraction))


def _chosen(dataset: TokenDataset, split: str, fraction: float) -> Bool[np.ndarray, " rows"]:
    names, splits = dataset.encoded("split")
    if split == "test" or (split == "validation" and "val" in names):
        return _named({"test": "test", "validation": "val"}[split], names, splits)
    train = _named("train", names, splits) if names else splits == -1
    if "val" in names:
        return train
    held_out = dataset.matching("group", lambda groups: split_values(groups) < fraction) & train
    if not held_out.any() and train.any():
        values = split_values(dataset.column("group"))
        lowest = values[train].min()
        held_out = train & (values == lowest) & (values[train].max() > lowest)
    return held_out if split == "validation" else train & ~held_out


def _named(
    name: str, names: list[str], places: Int[np.ndarray, " rows"]
) -> Bool[np.ndarray, " rows"]:
    return places == (names.index(name) if name in names else len(names))


def sources_of(
    dataset: TokenDataset, split: str, fraction: float, frames: int
) -> dict[str, Source]:
    """By kind, videos first, the items of a split; clips of videos have `frames` frames."""
    chosen = _chosen(dataset, split, fraction)
    kinds, kind_of = dataset.encoded("kind")
    # The crops of an item stand in rows next to each other, crop 0 first.
    crop = dataset.column("crop")
    heads = crop == 0
    sources = {}
    for kind in sorted(kinds, reverse=True):
        mine = chosen & heads & _named(kind, kinds, kind_of)
        if not mine.any():
            continue
        crops = np.broadcast_to(np.int16(1), int(mine.sum()))
        if crop.any():
            crops = np.diff(np.flatnonzero(heads), append=len(crop)).astype(np.int16)[mine[heads]]
        sources[kind] = Source(
            np.flatnonzero(mine).astype(np.min_scalar_type(-len(mine))),
            crops,
            dataset.column("frames", mine, np.int32),
            dataset.column("hash", mine),
            frames if kind == "video" else 1,
        )
    return sources


class Sequences:
    """Sequence `i` of a manifest as tokens.

    Raises:
        UserError: a data set is not the one that the manifest was frozen with.
    """

    def __init__(self, manifest: Manifest, device: str = "cpu", workers: int = 2) -> None:
        """Clips of scanned data sets are decoded by `workers` and tokenized on `device`."""
        self.manifest = manifest
        opened: dict[str, TokenDataset] = {}
        for entry in manifest.entries:
            for path, known in (
                (entry.path, entry.fingerprint),
                (entry.target, entry.target_fingerprint),
            ):
                if path and path not in opened:
                    opened[path] = _unchanged(Path(path), known)
        how = manifest.split, manifest.validation_fraction, manifest.frames
        sources = {entry.path: sources_of(opened[entry.path], *how) for entry in manifest.entries}
        self.datasets = [opened[entry.path] for entry in manifest.entries]
        self.targets = [opened[entry.target] for entry in manifest.entries if entry.target]
        pairs = [(entry.path, entry.target) for entry in manifest.entries if entry.target]
        joined = {pair: join(*(opened[path] for path in pair)) for pair in set(pairs)}
        self._target_rows = [joined[pair] for pair in pairs]
        self.sources = [sources[entry.path][entry.kind] for entry in manifest.entries]
        self._online = OnlineReader(manifest, self.datasets, self.sources, device, workers)
        self._page = lru_cache(maxsize=4)(self._plan)

    def __enter__(self) -> "Sequences":
        return self

    def __exit__(self, *_: object) -> None:
        """End the processes that decode; what another thread is reading breaks off."""
        self._online.close()

    @property
    def layout(self) -> Layout:
        """How frames become sequences: of tokens, or of patches."""
        return self.datasets[0].layout

    @property
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
        (part,) = self._parts(index, 1)
        items = self.datasets[part.source].items(part.rows[0])
        return list(zip(items, part.firsts[0].tolist(), strict=True))

    def codes(self, index: int) -> Codes:
        """The codes of sequence `index`."""
        codes, _, lengths = self._read(index, 1)
        return codes[0, : lengths[0]]

    def sequence(self, index: int) -> Shaped[np.ndarray, "positions ..."]:
        """The tokens, or patches, of sequence `index`, padded to the full length."""
        return self.layout.sequences(*self._read(index, 1))[0]

    def batch(self, first: int, count: int) -> Shaped[Tensor, "b t ..."]:
        """Sequences `first .. first + count`."""
        return torch.from_numpy(self.layout.sequences(*self._read(first, count)))

    def target_batch(self, first: int, count: int) -> Int[Tensor, "b t"]:
        """The tokens of the codes that are joined to sequences `first .. first + count`."""
        read = self._read(first, count, targets=True)
        return torch.from_numpy(self.targets[0].vocabulary.sequences(*read))

    def lengths(self, first: int, count: int) -> Int[np.ndarray, " b"]:
        """How many frames sequences `first .. first + count` have, by the index alone.

        It is true whatever happens in reading: a clip that takes another's place is as long.
        """
        lengths = np.zeros(count, np.int64)
        for part in self._parts(first, count):
            lengths[part.indices - first] = part.frames.sum(axis=1)
        return lengths

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Of the sources, by their number: the data set's folder, and the kind where it has two."""
        entries = self.manifest.entries
        paths = [entry.path for entry in entries]
        names = [
            Path(entry.path).name + (f" {entry.kind}s" if paths.count(entry.path) > 1 else "")
            for entry in entries
        ]
        return tuple(
            name if names.count(name) == 1 else f"{name} ({i})" for i, name in enumerate(names)
        )

    def source_numbers(self, first: int, count: int) -> Int[np.ndarray, " b"]:
        """Which source sequences `first .. first + count` are of."""
        numbers = np.zeros(count, np.int64)
        for part in self._parts(first, count):
            numbers[part.indices - first] = part.source
        return numbers

    def _read(
        self, first: int, count: int, targets: bool = False
    ) -> tuple[
        Shaped[np.ndarray, "b frames *codes"], Bool[np.ndarray, " b"], Int[np.ndarray, " b"]
    ]:
        """Codes of sequences, which of them are images, and how many of their frames count."""
        frames = self.manifest.frames
        datasets = self.targets if targets else self.datasets
        codes = datasets[0].empty(count * frames)
        images = np.zeros(count, bool)
        wanted: list[Wanted] = []
        for part in self._parts(first, count):
            # A video's clip fills its sequence; images follow each other in theirs.
            places = part.indices - first
            at = places[:, None] * frames + np.arange(part.rows.shape[1])
            images[places] = self.manifest.entries[part.source].kind == "image"
            if self.datasets[part.source].is_online:
                clips = (part.epochs, part.ranks, at, part.frames)
                each = zip(*(values.ravel().tolist() for values in clips), strict=True)
                wanted.extend(Wanted(part.source, *values) for values in each)
                continue
            rows, firsts, counts = part.rows.ravel(), part.firsts.ravel(), part.frames.ravel()
            if targets:
                rows = self._target_rows[part.source][rows]
            datasets[part.source].gather(rows, firsts, counts, at.ravel(), codes)
        if wanted:
            self._online.read(wanted, codes)
        codes = codes.reshape(count, frames, *codes.shape[1:])
        return codes, images, self.lengths(first, count)

    def _parts(self, first: int, count: int) -> list["_Part"]:
        """What each source gives to sequences `first .. first + count`."""
        parts = []
        for page in range(first // _PAGE, (first + count - 1) // _PAGE + 1):
            for part in self._page(page):
                begin, end = np.searchsorted(part.indices, (first, first + count)).tolist()
                if begin < end:
                    parts.append(part.slice(begin, end))
        return parts

    def _plan(self, page: int) -> list["_Part"]:
        """What each source gives to the sequences of a page."""
        indices = np.arange(page * _PAGE, (page + 1) * _PAGE)
        parts = []
        for share in draw(self.manifest, indices):
            places = places_of(self.manifest, share.source, share.epochs, share.ranks)
            source, seed = self.sources[share.source], self.manifest.seed
            clips = source.locate(share.epochs.ravel(), places.ravel(), seed)
            parts.append(
                _Part(
                    source=share.source,
                    indices=indices[share.asked],
                    rows=clips.rows.reshape(places.shape),
                    firsts=clips.firsts.reshape(places.shape),
                    frames=clips.frames.reshape(places.shape),
                    epochs=share.epochs,
                    ranks=share.ranks,
                )
            )
        return parts


@dataclass(frozen=True)
class _Part:
    """Sequences of one source: where each clip, or each image, of each of them lies."""

    source: int
    indices: Int[np.ndarray, " n"]
    rows: Int[np.ndarray, "n clips"]
    firsts: Int[np.ndarray, "n clips"]
    frames: Int[np.ndarray, "n clips"]
    epochs: Int[np.ndarray, "n clips"]
    ranks: Int[np.ndarray, "n clips"]

    def slice(self, begin: int, end: int) -> "_Part":
        where = self.indices, self.rows, self.firsts, self.frames, self.epochs, self.ranks
        return _Part(self.source, *(values[begin:end] for values in where))


def freeze(
    datasets: Sequence[TokenDataset],
    weights: Sequence[int],
    frames: int,
    seed: int,
    split: str,
    fraction: float,
    targets: Sequence[TokenDataset] = (),
) -> Manifest:
    """The manifest of a mixture of data sets; to each, one of `targets` may be joined.

    Raises:
        UserError: tokenizers or grids differ, a weight does not fit, targets are not of the same
            frames, or there is nothing for the split.
    """
    if not datasets:
        raise UserError("no token data set is given")
    for other in datasets[1:]:
        _check_mixable(datasets[0], other)
    for other in targets[1:]:
        _check_mixable(targets[0], other)
    target_of = {}
    for dataset, target in zip(datasets, targets, strict=True) if targets else ():
        join(dataset, target)
        target_of[dataset] = str(target.folder.absolute()), target.fingerprint
    entries = []
    for i, dataset in enumerate(datasets):
        sources = sources_of(dataset, split, fraction, frames)
        if weights and len(dataset.encoded("kind")[0]) > 1:
            raise UserError(f"{dataset.folder} holds videos and images: give it no weight")
        if weights and not sources and split == "train":
            raise UserError(f"{dataset.folder} has weight {weights[i]}, but no item for training")
        for kind, source in sources.items():
            entries.append((dataset, kind, weights[i] if weights else 0, source.clips))
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
            Entry(
                *(str(dataset.folder.absolute()), dataset.fingerprint, kind, weight, clips),
                *target_of.get(dataset, ()),
            )
            for dataset, kind, weight, clips in entries
        ),
        seed=seed,
        frames=frames,
        split=split,
        validation_fraction=fraction,
        tokenizer=datasets[0].info.tokenizer,
    )


def _unchanged(folder: Path, fingerprint: str | None) -> TokenDataset:
    dataset = TokenDataset(folder)
    if dataset.fingerprint != fingerprint:
        raise UserError(
            f"{folder} has changed under this run: its fingerprint was {fingerprint}, now it is "
            f"{dataset.fingerprint}"
        )
    return dataset


def _check_mixable(first: TokenDataset, other: TokenDataset) -> None:
    for name, said in (("tokenizer", "was made by tokenizer"), ("grid", "has a grid of")):
        its, ours = getattr(other.info, name), getattr(first.info, name)
        if its != ours:
            raise UserError(
                f"{first.folder} {said} {ours}, {other.folder} {said} {its}: they cannot be mixed"
            )
