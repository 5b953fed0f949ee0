"""What of a pool's frames a step sees (Ramesh et al. 2021, listing 1)."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from toto.training.config import TrainTokenizer


@dataclass(frozen=True)
class Draws:
    """What chance says for each frame, as numbers from 0 to 1."""

    side: Float[Tensor, " n"]
    corner: Float[Tensor, "n 2"]
    mirrored: Float[Tensor, " n"]


def draw(count: int, key: int, part: range | None = None) -> Draws:
    """The draws for `part` of `count` frames, or for all: a pure function of the arguments."""
    numbers = torch.from_numpy(np.random.default_rng(key).random((count, 4)))
    side, corner, mirrored = (numbers if part is None else numbers[part]).split([1, 2, 1], dim=1)
    return Draws(side[:, 0], corner, mirrored[:, 0])


def augment(
    frames: UInt8[Tensor, "n 3 side side"], recipe: TrainTokenizer, draws: Draws
) -> UInt8[Tensor, "n 3 size size"]:
    """Zoom, crop and mirror frames of a pool as a recipe says."""
    side, size = recipe.pool_size, recipe.size
    if side > size:
        least = round(recipe.zoom[0] * size)
        sides = least + (draws.side * (side - least + 1)).long()
        corners = (draws.corner * (sides - size + 1)[:, None]).long()
        frames = zoom_and_crop(frames, size, sides, corners)
    if recipe.flip:
        frames = torch.where((draws.mirrored < 0.5)[:, None, None, None], frames.flip(3), frames)
    return frames


def zoom_and_crop(
    frames: UInt8[Tensor, "n 3 side side"],
    size: int,
    sides: Int[Tensor, " n"],
    corners: Int[Tensor, "n 2"],
) -> UInt8[Tensor, "n 3 size size"]:
    """Give each frame `sides` pixels a side, and keep `size` of them from a corner on.

    A pixel is the mean of the area that it covers. `corners` are a row and a column each.
    """
    rows, columns = (_covered(frames.shape[3], size, sides, first) for first in corners.unbind(1))
    pixels = rows[:, None] @ frames.float() @ columns[:, None].mT
    return pixels.round().to(torch.uint8)


def _covered(
    old: int, size: int, sides: Int[Tensor, " n"], first: Int[Tensor, " n"]
) -> Float[Tensor, "n size old"]:
    """How much of each of `size` pixels, of `sides` in all, is covered by each of `old` ones."""
    scale = old / sides.double()[:, None]
    edges = (first[:, None] + torch.arange(size + 1)) * scale
    pixels = torch.arange(old)
    ends = torch.minimum(edges[:, 1:, None], pixels + 1)
    begins = torch.maximum(edges[:, :-1, None], pixels)
    return ((ends - begins).clamp(min=0) / scale[:, None]).float()
