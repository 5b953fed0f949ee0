"""Labelled clips of a token data set: one for each item."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int, Shaped
from torch import Tensor

from toto.errors import UserError
from toto.tokens.loader import select
from toto.tokens.mixture import split_values
from toto.tokens.store import ItemRow, TokenDataset
from toto.tokens.vocabulary import Kind


@dataclass(frozen=True)
class Clips:
    """One clip of each of some items, as sequences; an image is a clip of one frame."""

    tokens: Shaped[Tensor, "clips positions ..."]
    items: tuple[ItemRow, ...]
    firsts: tuple[int, ...]
    """each clip's first kept frame"""

    def __len__(self) -> int:
        return len(self.items)

    def labels(self, classes: list[str]) -> Int[Tensor, " clips"]:
        """Each clip's place in `classes`.

        Raises:
            UserError: an item's label is not among them.
        """
        for item in self.items:
            if item.label not in classes:
                raise UserError(f"label {item.label!r} of {item.key} does not occur in training")
        return torch.tensor([classes.index(str(item.label)) for item in self.items])


def class_names(dataset: TokenDataset, rows: np.ndarray) -> list[str]:
    """The sorted labels of some items.

    Raises:
        UserError: an item has no label, or there are fewer than two classes.
    """
    known, labels = dataset.encoded("label")
    labels = labels[rows]
    if (labels < 0).any():
        unlabelled = dataset.item(int(rows[np.argmax(labels < 0)]))
        raise UserError(f"{unlabelled.key} of {dataset.folder} has no label")
    names = sorted(known[i] for i in np.unique(labels).tolist())
    if len(names) < 2:
        raise UserError(f"{dataset.folder}: {len(names)} class in the training part, needs two")
    return names


def item_clips(dataset: TokenDataset, rows: np.ndarray, frames: int) -> Clips:
    """The middle clip of each item; a shorter item's last frame is repeated."""
    items = dataset.items(rows)
    lengths = np.array([item.frames for item in items], np.int64)
    firsts, counts = np.maximum(lengths - frames, 0) // 2, np.minimum(lengths, frames)
    codes = dataset.empty(len(rows) * frames)
    dataset.gather(rows, firsts, counts, np.arange(len(rows)) * frames, codes)
    codes = codes.reshape(len(rows), frames, *codes.shape[1:])
    for short in np.flatnonzero(counts < frames):
        codes[short, counts[short] :] = codes[short, counts[short] - 1]
    images = np.array([item.kind == "image" for item in items], bool)
    tokens = dataset.layout.sequences(codes, images, np.full(len(rows), frames))
    return Clips(torch.from_numpy(tokens), tuple(items), tuple(firsts.tolist()))


def probe_splits(
    dataset: TokenDataset, fraction: float, frames: int, kind: Kind = "video"
) -> tuple[Clips, Clips, Clips, list[str]]:
    """Clips to train on, clips of the training items to choose by, and clips to test on.

    They are of items of one kind. The test items are those of the split "test", or where it has
    none or no labels those of "validation".

    Raises:
        UserError: one of the three is empty, or labels are missing.
    """
    # One clip of each item, however many of its crops are stored.
    kinds, kind_of = dataset.encoded("kind")
    wanted = np.isin(kind_of, [i for i, known in enumerate(kinds) if known == kind])
    wanted &= dataset.column("crop") == 0
    train, test, validation = (
        rows[wanted[rows]]
        for rows in (select(dataset, split, fraction) for split in ("train", "test", "validation"))
    )
    _, labels = dataset.encoded("label")
    test = test if (labels[test] >= 0).any() else validation
    chosen_by = split_values(dataset.column("hash")[train], "choose") < fraction
    for rows, least, what in (
        (train[~chosen_by], 2, "to train on"),
        (train[chosen_by], 1, "to choose by"),
        (test, 1, "to test on"),
    ):
        if len(rows) < least:
            raise UserError(f"{dataset.folder} has too few labelled {kind}s {what}")
    chosen, kept = (
        item_clips(dataset, rows, frames) for rows in (train[chosen_by], train[~chosen_by])
    )
    return kept, chosen, item_clips(dataset, test, frames), class_names(dataset, train)
