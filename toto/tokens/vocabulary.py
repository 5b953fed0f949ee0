"""How codes become tokens, and tokens codes again. Nothing else knows the ids.

A sequence is `[start] + codes in raster order, frame after frame + [end]`: start is 1 for a clip of
a video and 3 for images; end is 2; padding is 0; code `c` is token `c + 4` (Toto, section 3; the
offset is this implementation's choice, since ids 1 to 3 are also codes).
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Int, Integer, Shaped
from torch import Tensor

from toto.errors import UserError

PAD, VIDEO, END, IMAGES = 0, 1, 2, 3
OFFSET = 4
TABLE_MULTIPLE = 128

Kind = Literal["video", "image"]


class Layout(ABC):
    """How frames become sequences: of tokens, or of patches (see patches.py)."""

    rows: int
    cols: int

    @property
    def frame(self) -> int:
        """Places of one frame."""
        return self.rows * self.cols

    def length(self, frames: int) -> int:
        """Places of a sequence of `frames` frames: start and end are two of them."""
        return frames * self.frame + 2

    @abstractmethod
    def sequences(
        self,
        codes: Shaped[np.ndarray, "b frames ..."],
        images: Bool[np.ndarray, " b"],
        lengths: Int[np.ndarray, " b"],
    ) -> Shaped[np.ndarray, "b positions ..."]:
        """Sequences of clips, or of packed images where `images` says so.

        Of `codes`, or pixels, the first `lengths` frames count; the rest is padding.
        """

    def sequence(
        self, codes: Shaped[np.ndarray, "_ ..."], kind: Kind, frames: int
    ) -> Shaped[np.ndarray, "positions ..."]:
        """One clip or packed images, padded to the length of `frames` frames."""
        padded = np.zeros((1, frames, *codes.shape[1:]), codes.dtype)
        padded[0, : len(codes)] = codes
        return self.sequences(padded, np.array([kind == "image"]), np.array([len(codes)]))[0]

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """The layout as a saved model records it."""


@dataclass(frozen=True)
class Vocabulary(Layout):
    """The tokens of one codebook on one grid."""

    codebook_size: int
    rows: int
    cols: int

    @property
    def size(self) -> int:
        """Rows of the embedding table: all ids, up to a multiple of 128."""
        return -(-(self.codebook_size + OFFSET) // TABLE_MULTIPLE) * TABLE_MULTIPLE

    def sequences(
        self,
        codes: Integer[np.ndarray, "b frames rows cols"],
        images: Bool[np.ndarray, " b"],
        lengths: Int[np.ndarray, " b"],
    ) -> Int[np.ndarray, "b positions"]:
        """Their tokens."""
        count, frames = codes.shape[:2]
        tokens = np.empty((count, self.length(frames)), np.int64)
        tokens[:, 0] = np.where(images, IMAGES, VIDEO)
        np.add(codes.reshape(count, -1), OFFSET, out=tokens[:, 1:-1], dtype=np.int64)
        tokens[:, -1] = END
        for short in np.flatnonzero(lengths < frames):
            end = lengths[short] * self.frame + 1
            tokens[short, end] = END
            tokens[short, end + 1 :] = PAD
        return tokens

    def tokens(self, codes: Int[Tensor, "b frames rows cols"]) -> Int[Tensor, "b t"]:
        """Tokens of whole frames in raster order, without start and end."""
        return codes.long().flatten(1) + OFFSET

    def codes(self, tokens: Int[Tensor, "b t"]) -> Int[Tensor, "b frames rows cols"]:
        """The codes of whole frames of tokens, start and end taken away before.

        Raises:
            UserError: the tokens are no whole frames of codes.
        """
        codes = tokens - OFFSET
        if codes.shape[1] % self.frame or bool(((codes < 0) | (codes >= self.codebook_size)).any()):
            raise UserError(f"these {tokens.shape[1]} tokens are no whole frames of codes")
        return codes.unflatten(1, (-1, self.rows, self.cols))

    def allowed(self, rows: int, device: torch.device | None = None) -> Bool[Tensor, " rows"]:
        """Which ids of a table stand for codes: all that generation may sample."""
        ids = torch.arange(rows, device=device)
        return (ids >= OFFSET) & (ids < OFFSET + self.codebook_size)

    def to_dict(self) -> dict[str, Any]:
        return {
            "codebook_size": self.codebook_size,
            "grid": [self.rows, self.cols],
            "offset": OFFSET,
            "special": {"padding": PAD, "video": VIDEO, "end": END, "images": IMAGES},
        }


def inputs_and_targets(
    sequences: Shaped[Tensor, "b t ..."],
) -> tuple[Shaped[Tensor, "b n ..."], Shaped[Tensor, "b n ..."]]:
    """What training reads: `tokens[:-2]` predicts `tokens[1:-1]`; of patches likewise.

    In a full sequence all targets are codes; in a shorter one the end is a target too, and targets
    that are padding do not count.
    """
    return sequences[:, :-2], sequences[:, 1:-1]


def cut(
    sequences: Shaped[Tensor, "b t ..."], filled: Int[Tensor, " b"], positions: int
) -> tuple[Shaped[Tensor, "pieces n ..."], Int[Tensor, " pieces"], Int[Tensor, " pieces"]]:
    """Cut sequences into as many whole sequences of `positions` codes, or patches, as each holds.

    `filled` says how many codes each holds. With the pieces come the row of `sequences` that each
    is of, and how many codes it holds. Pieces of nothing but padding are left out, so their number
    can vary.
    """
    start, body = sequences[:, :1], sequences[:, 1:-1]
    count = body.shape[1] // positions
    pieces = body[:, : count * positions].unflatten(1, (count, positions)).flatten(0, 1)
    starts = start.repeat_interleave(count, dim=0)
    # A piece that ends before its sequence does is full: its end is never a target.
    ends = torch.full_like(starts, END)
    whole = torch.cat((starts, pieces, ends), dim=1)
    left = (filled[:, None] - positions * torch.arange(count)).clamp(0, positions).flatten()
    rows = torch.arange(len(sequences)).repeat_interleave(count)
    return whole[left > 0], rows[left > 0], left[left > 0]
