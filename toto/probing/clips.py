"""Labelled clips of a token data set: one for each item."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from toto.errors import UserError
from toto.tokens.loader import select
from toto.tokens.mixture import in_validation
from toto.tokens.store import ItemRow, TokenDataset


@dataclass(frozen=True)
class Clips:
    """One clip of each of some items, as sequences."""

    tokens: Int[Tensor, "clips positions"]
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
    labels = dataset.column("label")[rows]
    if any(label is None for label in labels):
        unlabelled = dataset.item(int(rows[np.flatnonzero(labels == None)[0]]))  # noqa: E711
        raise UserError(f"{unlabelled.key} of {dataset.folder} has no label")
    names = sorted(set(labels))
    if len(names) < 2:
        raise UserError(f"{dataset.folder}: {len(names)} class in the training part, needs two")
    return names


def item_clips(dataset: TokenDataset, rows: np.ndarray, frames: int) -> Clips:
    """The middle clip of each item; a shorter item's last frame is repeated."""
    tokens, items, firsts = [], [], []
    for row in rows:
        item = dataset.item(int(row))
        first = max(item.frames - frames, 0) // 2
        codes = dataset.codes(item, first, frames)
        padding = np.repeat(codes[-1:], frames - len(codes), axis=0)
        codes = np.concatenate((codes, padding))
        tokens.append(dataset.vocabulary.sequence(codes, "video", frames))
        items.append(item)
        firsts.append(first)
    return Clips(torch.from_numpy(np.stack(tokens)), tuple(items), tuple(firsts))


def probe_splits(
    dataset: TokenDataset, fraction: float, frames: int
) -> tuple[Clips, Clips, Clips, list[str]]:
    """Clips to train on, clips of the training items to choose by, and clips to test on.

    The test items are those of the split "test", or where there is none of "validation".

    Raises:
        UserError: one of the three is empty, or labels are missing.
    """
    train = select(dataset, "train", fraction)
    test = select(dataset, "test", fraction)
    test = test if len(test) else select(dataset, "validation", fraction)
    keys = dataset.column("key")
    chosen_by = np.array([in_validation("choose " + keys[row], fraction) for row in train], bool)
    for rows, what in (
        (train[~chosen_by], "train"),
        (train[chosen_by], "choose by"),
        (test, "test"),
    ):
        if not len(rows):
            raise UserError(f"{dataset.folder} has too few labelled items: none to {what} on")
    chosen, kept = (
        item_clips(dataset, rows, frames) for rows in (train[chosen_by], train[~chosen_by])
    )
    return kept, chosen, item_clips(dataset, test, frames), class_names(dataset, train)
