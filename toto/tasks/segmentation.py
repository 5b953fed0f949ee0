"""How well objects are segmented: J and F of DAVIS-2017, semi-supervised.

(davisvideochallenge/davis2017-evaluation: davis2017/metrics.py, evaluation.py, utils.py)
"""

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from math import ceil, hypot, isqrt

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

# Part of the picture's diagonal by which boundaries may be apart.
_TOLERANCE = 0.008
# The decay is the mean of the first of so many parts of a video less that of the last one.
_PARTS = 4


@dataclass(frozen=True)
class Measured:
    """J and F of a video's objects, by object and by frame: the first and the last do not count."""

    j: list[list[float]]
    f: list[list[float]]

    @classmethod
    def of(cls, frames: Sequence[tuple[Tensor, Tensor]]) -> "Measured":
        """Of J and F of all objects, frame by frame."""
        j, f = (torch.stack(values).T.tolist() for values in zip(*frames, strict=True))
        return cls(j, f)


@dataclass(frozen=True)
class Score:
    """Means over objects, from 0 to 1: of J, the overlap, and of F, the agreement of boundaries."""

    j_mean: float
    j_recall: float
    j_decay: float
    f_mean: float
    f_recall: float
    f_decay: float

    @classmethod
    def of(cls, videos: Sequence[Measured]) -> "Score":
        """Of all objects of some videos, each counted once."""
        j = [_statistics(values) for video in videos for values in video.j]
        f = [_statistics(values) for video in videos for values in video.f]
        return cls(*np.mean(j, axis=0).tolist(), *np.mean(f, axis=0).tolist())

    @property
    def jf(self) -> float:
        """The mean of the two means, by which methods are compared."""
        return (self.j_mean + self.f_mean) / 2

    @property
    def values(self) -> tuple[float, ...]:
        """J&F and all others, in the order of DAVIS's tables."""
        return (self.jf, *astuple(self))


class Truth:
    """The true mask of a frame, whose objects are numbered from 1 on."""

    def __init__(self, numbers: UInt8[Tensor, "height width"], objects: int) -> None:
        self._masks = _apart(numbers, objects)
        self._edges = boundary(self._masks)
        self._near = dilated(self._edges)

    def measure(
        self, numbers: UInt8[Tensor, "height width"]
    ) -> tuple[Float[Tensor, " objects"], Float[Tensor, " objects"]]:
        """J and F of a mask's objects."""
        masks = _apart(numbers, len(self._masks))
        edges = boundary(masks)
        near = dilated(edges)
        counts = (edges, self._edges, edges & self._near, self._edges & near)
        own, true, hits, found = map(_counted, counts)
        # Where one has no boundary and the other has, there is no agreement; where neither, full.
        either = (own > 0) | (true > 0)
        precision, recall = hits / own.clamp(min=1), found / true.clamp(min=1)
        both = precision + recall
        f = torch.where(either, 2 * precision * recall / both.clamp(min=1e-12), 1.0)
        return overlap(masks, self._masks), f


def _apart(
    numbers: UInt8[Tensor, "height width"], objects: int
) -> Bool[Tensor, "{objects} height width"]:
    return numbers == torch.arange(1, objects + 1, device=numbers.device)[:, None, None]


def overlap(
    masks: Bool[Tensor, "n height width"], truth: Bool[Tensor, "n height width"]
) -> Float[Tensor, " n"]:
    """J: pixels in both over pixels in either; 1 where there are none."""
    both, either = map(_counted, (masks & truth, masks | truth))
    return torch.where(either > 0, both / either.clamp(min=1), 1.0)


def _counted(masks: Bool[Tensor, "n height width"]) -> Float[Tensor, " n"]:
    """How many pixels each mask has; on the CPU, for not every device has fp64."""
    return masks.flatten(1).sum(1).cpu().double()


def boundary(masks: Bool[Tensor, "n height width"]) -> Bool[Tensor, "n height width"]:
    """Pixels that differ from the next one to the right, below, or on the diagonal between."""
    # Behind the last row and column all goes on as it is.
    padded = torch.cat((masks, masks[:, -1:]), 1)
    padded = torch.cat((padded, padded[:, :, -1:]), 2)
    right, below, diagonal = padded[:, :-1, 1:], padded[:, 1:, :-1], padded[:, 1:, 1:]
    return (masks ^ right) | (masks ^ below) | (masks ^ diagonal)


def dilated(edges: Bool[Tensor, "n height width"]) -> Bool[Tensor, "n height width"]:
    """Pixels no farther from an edge than boundaries may be apart."""
    radius = ceil(_TOLERANCE * hypot(*edges.shape[1:]))
    count, height, width = edges.shape
    tall, wide = height + 2 * radius, width + 2 * radius + 1
    # Of each row of the disk around each edge, both ends: edges are few, and a convolution of all
    # pixels takes twenty times as long.
    ends = torch.zeros(count * tall * wide, dtype=torch.int32, device=edges.device)
    frame, y, x = edges.nonzero(as_tuple=True)
    middle = (frame * tall + y) * wide + x + radius
    one = torch.ones((), dtype=torch.int32, device=edges.device).expand(len(middle))
    for down in range(2 * radius + 1):
        half = isqrt(radius**2 - (down - radius) ** 2)
        ends.index_add_(0, middle + down * wide - half, one)
        ends.index_add_(0, middle + down * wide + half + 1, -one)
    near = ends.view(count, tall, wide).cumsum(2) > 0
    return near[:, radius : radius + height, radius : radius + width]


def _statistics(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean, part above one half, and decay of what an object has in its frames."""
    every = np.array(values)
    ends = np.round(np.linspace(1, len(every), _PARTS + 1) + 1e-10).astype(int) - 1
    first, last = every[ends[0] : ends[1] + 1], every[ends[-2] : ends[-1] + 1]
    return float(every.mean()), float((every > 0.5).mean()), float(first.mean() - last.mean())
