"""Labelled items of a token data set, and the clips of them that training and tests read."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Bool, Int, Shaped, UInt64
from torch import Tensor

from toto.errors import UserError
from toto.probing.encoder import Sequences
from toto.tokens.loader import select
from toto.tokens.mixture import choose, split_values
from toto.tokens.rows import ItemRow
from toto.tokens.store import TokenDataset
from toto.tokens.vocabulary import Kind

Which = Int[Tensor, " n"] | Int[np.ndarray, " n"] | slice


@dataclass(frozen=True, eq=False)
class Clips:
    """Clips of some items, each in one of its stored crops; of an image, it is one frame.

    What lies behind an item's end repeats its last frame.
    """

    dataset: TokenDataset
    rows: Int[np.ndarray, " clips"]
    """of the index: an item in one of its crops"""
    firsts: Int[np.ndarray, " clips"]
    """each clip's first kept frame"""
    counts: Int[np.ndarray, " clips"]
    """frames that are not repeated ones"""
    images: Bool[np.ndarray, " clips"]
    frames: int

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, which: Which) -> "Clips":
        return _some(self, _OF_CLIPS, which)

    @cached_property
    def items(self) -> list[ItemRow]:
        """What the index says of each."""
        return self.dataset.items(self.rows)

    def inputs(self) -> Sequences:
        """What a trained model reads: from the start to the last code, or patch."""
        return self._sequences(np.full(len(self), self.frames))[:, :-1]

    def sequences(self) -> Sequences:
        """What next-token training reads: to the end token, nothing repeated but padded."""
        return self._sequences(self.counts)

    def _sequences(self, lengths: Int[np.ndarray, " clips"]) -> Sequences:
        layout = self.dataset.layout
        return torch.from_numpy(layout.sequences(self.stored(), self.images, lengths))

    def stored(self) -> Shaped[np.ndarray, "clips frames ..."]:
        """The codes of all frames, or of a data set of pixels the frames themselves."""
        count, frames = len(self), self.frames
        codes = self.dataset.empty(count * frames)
        self.dataset.gather(self.rows, self.firsts, self.counts, np.arange(count) * frames, codes)
        codes = codes.reshape(count, frames, *codes.shape[1:])
        for short in np.flatnonzero(self.counts < frames):
            codes[short, self.counts[short] :] = codes[short, self.counts[short] - 1]
        return codes


Table = TypeVar("Table", Clips, "Items")


def _some(table: Table, columns: tuple[str, ...], which: Which) -> Table:
    """The rows of a table that are asked for."""
    rows = which if isinstance(which, slice) else np.asarray(which)
    return replace(table, **{name: getattr(table, name)[rows] for name in columns})


_OF_CLIPS = ("rows", "firsts", "counts", "images")


@dataclass(frozen=True, eq=False)
class Items:
    """Items of a data set, of which clips of `frames` frames are taken."""

    dataset: TokenDataset
    rows: Int[np.ndarray, " items"]
    """of the index: each item in its first crop"""
    lengths: Int[np.ndarray, " items"]
    """kept frames"""
    hashes: UInt64[np.ndarray, " items"]
    images: Bool[np.ndarray, " items"]
    frames: int

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, which: Which) -> "Items":
        return _some(self, _OF_ITEMS, which)

    @property
    def crops(self) -> int:
        """Stored crops of each item."""
        return max(self.dataset.view.crops, 1)

    def labels(self, classes: list[str]) -> Int[Tensor, " items"]:
        """Each item's place in `classes`.

        Raises:
            UserError: an item's label is not among them.
        """
        known, labels = self.dataset.encoded("label")
        places = np.array([*(classes.index(x) if x in classes else -1 for x in known), -1])
        found = places[labels[self.rows]]
        if (found < 0).any():
            item = self.dataset.item(int(self.rows[np.argmax(found < 0)]))
            raise UserError(f"label {item.label!r} of {item.key} does not occur in training")
        return torch.from_numpy(found)

    def middle(self) -> Clips:
        """The middle clip of each item, in its first crop."""
        return self._clips(np.zeros(len(self), np.int64), self._slack // 2)

    def every_crop(self) -> Clips:
        """The middle clip of each item in each of its crops, in the order of the index."""
        every = self[np.repeat(np.arange(len(self)), self.crops)]
        return every._clips(np.tile(np.arange(self.crops), len(self)), every._slack // 2)

    def drawn(self, seed: int, epoch: int, random_start: bool) -> Clips:
        """What an epoch of training sees of each item: one of its crops, by (seed, epoch, item).

        The clip is the middle one, or begins at a random frame.
        """
        epochs = np.full(len(self), epoch)
        crops = choose(seed, "crop", epochs, self.hashes, np.full(len(self), self.crops))
        firsts = self._slack // 2
        if random_start:
            firsts = choose(seed, "start", epochs, self.hashes, self._slack + 1)
        return self._clips(crops, firsts)

    def views(self, clips: int) -> int:
        """How many views of each item a test of so many clips of videos has."""
        return self.crops * (1 if self.images.all() else clips)

    def view(self, number: int, clips: int) -> Clips:
        """View `number` of a test: every crop of the first clip, of the second, and so on.

        Clips begin at even places from the first frame to the last one possible, as SlowFast's do
        (facebookresearch/SlowFast: slowfast/datasets/decoder.py, with an offset); a single one is
        in the middle.
        """
        clip, crop = divmod(number, self.crops)
        clips = self.views(clips) // self.crops
        firsts = self._slack * clip // (clips - 1) if clips > 1 else self._slack // 2
        return self._clips(np.full(len(self), crop), firsts)

    @property
    def _slack(self) -> Int[np.ndarray, " items"]:
        return np.maximum(self.lengths - self.frames, 0)

    def _clips(self, crops: Int[np.ndarray, " items"], firsts: Int[np.ndarray, " items"]) -> Clips:
        counts = np.minimum(self.lengths, self.frames)
        # The crops of an item stand in rows next to each other.
        return Clips(self.dataset, self.rows + crops, firsts, counts, self.images, self.frames)


_OF_ITEMS = ("rows", "lengths", "hashes", "images")


def items_of(dataset: TokenDataset, rows: Int[np.ndarray, " items"], frames: int) -> Items:
    """The items whose first crops are at `rows` of the index."""
    kinds, kind_of = dataset.encoded("kind")
    images = kind_of[rows] == (kinds.index("image") if "image" in kinds else len(kinds))
    lengths, hashes = dataset.column("frames")[rows], dataset.column("hash")[rows]
    return Items(dataset, rows, lengths, hashes, images, frames)


def class_names(items: Items) -> list[str]:
    """The sorted labels of some items.

    Raises:
        UserError: an item has no label, or there are fewer than two classes.
    """
    known, labels = items.dataset.encoded("label")
    labels = labels[items.rows]
    if (labels < 0).any():
        unlabelled = items.dataset.item(int(items.rows[np.argmax(labels < 0)]))
        raise UserError(f"{unlabelled.key} of {items.dataset.folder} has no label")
    names = sorted(known[i] for i in np.unique(labels).tolist())
    if len(names) < 2:
        raise UserError(f"{items.dataset.folder}: {len(names)} class in training, needs two")
    return names


def probe_splits(
    dataset: TokenDataset,
    fraction: float,
    frames: int,
    kind: Kind = "video",
    test: TokenDataset | None = None,
    left_out: str | None = None,
) -> tuple[Items, Items, Items, list[str]]:
    """Items to train on, training items to choose by, items to test on, and the classes.

    They are of one kind, and segments of a file are chosen by together. The test items are those of
    the split "test", or where it has none or no labels those of "validation"; of a data set of its
    own for the `test` that names no splits, all. Where a file is `left_out`, they are its items,
    and all others are trained on and chosen by.

    Raises:
        UserError: one of the three is empty, a test item is trained on, or labels are missing.
    """
    asked = test or dataset
    if left_out is None:
        rows, is_spared = _test_rows(asked, fraction, kind, is_whole=test is not None)
        train = _train_rows(dataset, fraction, kind, is_whole=not is_spared)
    else:
        every = _of_kind(dataset, np.arange(len(dataset)), kind)
        is_tested = dataset.matching("path", lambda paths: paths == left_out)[every]
        train, rows = every[~is_tested], every[is_tested]
    if test is not None:
        _check_apart(dataset, train, test, rows)
    chosen_by = _chosen_by(dataset.column("group")[train], fraction)
    for source, part, least, what in (
        (dataset, train[~chosen_by], 2, "to train on"),
        (dataset, train[chosen_by], 1, f"to choose by, at held_out {fraction:g}"),
        (asked, rows, 1, "to test on"),
    ):
        if len(part) < least:
            raise UserError(f"{source.folder} has too few labelled {kind}s {what}")
    classes = class_names(items_of(dataset, train, frames))
    kept, chosen = (
        items_of(dataset, part, frames) for part in (train[~chosen_by], train[chosen_by])
    )
    return kept, chosen, items_of(asked, rows, frames), classes


def _chosen_by(groups: UInt64[np.ndarray, " items"], fraction: float) -> Bool[np.ndarray, " items"]:
    """Which training items are held out: a part of the groups, but at least one of them."""
    values = split_values(groups, "choose")
    return values < max(fraction, np.nextafter(values.min(initial=1.0), 2))


def _check_apart(
    dataset: TokenDataset, train: np.ndarray, tested: TokenDataset, rows: np.ndarray
) -> None:
    """Refuse test items that are trained on, of the same place in the same file."""
    own, its = dataset.column("hash")[train], tested.column("hash")[rows]
    seen = {item.location for item in dataset.items(train[np.isin(own, its)])}
    both = [item for item in tested.items(rows[np.isin(its, own)]) if item.location in seen]
    if both:
        raise UserError(
            f"{len(both)} items of {tested.folder}, like {both[0].key}, are trained on in "
            f"{dataset.folder}"
        )


def _rows(dataset: TokenDataset, split: str, fraction: float, kind: Kind) -> np.ndarray:
    """The first crops of a split's items of a kind."""
    return _of_kind(dataset, select(dataset, split, fraction), kind)


def _train_rows(dataset: TokenDataset, fraction: float, kind: Kind, is_whole: bool) -> np.ndarray:
    """Where the test items are elsewhere, none need be spared."""
    if not is_whole:
        return _rows(dataset, "train", fraction, kind)
    names, splits = dataset.encoded("split")
    wanted = splits == names.index("train") if "train" in names else splits == -1
    return _of_kind(dataset, np.flatnonzero(wanted), kind)


def _test_rows(
    dataset: TokenDataset, fraction: float, kind: Kind, is_whole: bool
) -> tuple[np.ndarray, bool]:
    """The first crops of the test items, and whether the training items must spare them."""
    if is_whole and not dataset.encoded("split")[0]:
        return _of_kind(dataset, np.arange(len(dataset)), kind), False
    test = _rows(dataset, "test", fraction, kind)
    _, labels = dataset.encoded("label")
    if (labels[test] >= 0).any():
        return test, False
    return _rows(dataset, "validation", fraction, kind), not is_whole


def _of_kind(dataset: TokenDataset, rows: np.ndarray, kind: Kind) -> np.ndarray:
    kinds, kind_of = dataset.encoded("kind")
    wanted = np.isin(kind_of, [i for i, known in enumerate(kinds) if known == kind])
    wanted &= dataset.column("crop") == 0
    return rows[wanted[rows]]
