"""Data sets of the same frames joined: pixels that a model reads, and codes that it predicts."""

from dataclasses import replace

import numpy as np
from jaxtyping import Bool, Int, UInt64

from toto.config import differences, to_dict
from toto.errors import UserError
from toto.tokens.store import TokenDataset

# What says that two rows are of the same pixels, however large their frames are.
_SAME = ("frames", "crop_x", "crop_y", "crop_side")

_FILE = ("path", "part")


def join(pixels: TokenDataset, codes: TokenDataset) -> Int[np.ndarray, " rows"]:
    """For each row of `pixels`, the row of `codes` of the same item and crop.

    The sides of their frames may differ: a grid is what they share.

    Raises:
        UserError: they are not pixels and codes, both of them stored, of the same items, frames,
            crops and grid.
    """
    _check_kinds(pixels, codes)
    if pixels.info.grid != codes.info.grid:
        raise UserError(
            f"{pixels.folder} has a grid of {pixels.info.grid}, {codes.folder} one of "
            f"{codes.info.grid}: they cannot be joined"
        )
    views = (to_dict(replace(dataset.view, size=1)) for dataset in (codes, pixels))
    if different := differences(*views):
        raise UserError(
            f"{codes.folder} was made with {'; '.join(different)} of {pixels.folder}: they cannot "
            "be joined"
        )
    ours, theirs = _keys(pixels), _keys(codes)
    order = np.argsort(theirs)
    places = np.searchsorted(theirs, ours, sorter=order)
    rows = order[np.minimum(places, len(order) - 1)]
    _check_rows(pixels, codes, theirs[rows] == ours, "does not hold")
    same = np.ones(len(rows), bool)
    for name in _SAME:
        same &= pixels.column(name) == codes.column(name)[rows]
    _check_rows(pixels, codes, same, "has other frames or another crop of")
    if pixels.info.source != codes.info.source:
        same = np.ones(len(rows), bool)
        for name in _FILE:
            same &= pixels.column(name) == codes.column(name)[rows]
        _check_rows(pixels, codes, same, "was made of another file for")
    return rows


def _check_kinds(pixels: TokenDataset, codes: TokenDataset) -> None:
    if not pixels.is_pixels:
        raise UserError(f"{pixels.folder} stores codes: targets are joined to pixels alone")
    if codes.is_pixels:
        raise UserError(f"{codes.folder} stores pixels: targets are codes")
    for dataset in (pixels, codes):
        if dataset.is_online:
            raise UserError(
                f"{dataset.folder} stores nothing to be joined: tokenize without --online"
            )


def _keys(dataset: TokenDataset) -> UInt64[np.ndarray, " rows"]:
    """Of each row one number, by its item's key and its crop."""
    return dataset.column("hash") + dataset.column("crop").astype(np.uint64)


def _check_rows(
    pixels: TokenDataset, codes: TokenDataset, fits: Bool[np.ndarray, " rows"], what: str
) -> None:
    wrong = np.flatnonzero(~fits)
    if len(wrong):
        item = pixels.item(int(wrong[0]))
        more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        raise UserError(
            f"{codes.folder} {what} {item.key}, crop {item.crop}{more} of {pixels.folder}: they "
            "cannot be joined"
        )
