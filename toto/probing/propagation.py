"""Labels of a video's first frame, carried on to the others by likeness of features, untrained.

The two protocols are STC's (Jabri et al. 2020; ajabri/videowalk: code/test.py,
code/utils/test_utils.py) and DINO's (Caron et al. 2021; facebookresearch/dino:
eval_video_segmentation.py). Each place of a frame takes over the labels of those places of earlier
frames that are most like it.
"""

from functools import lru_cache

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor
from torch.nn import functional as F

from toto.probing.config import Propagation

# Likenesses that are in memory at once.
_AT_ONCE = 2**26


class Propagator:
    """Carries soft labels from frame to frame.

    Args:
        how: the protocol.
        grid: rows and columns of a frame's places.
        features: of the first frame.
        labels: of its places, a column for the background and for each object.
    """

    def __init__(
        self,
        how: Propagation,
        grid: tuple[int, int],
        features: Float[Tensor, "places channels"],
        labels: Float[Tensor, "places objects"],
    ) -> None:
        self.how, self._steps = how, 0
        self._near = neighbours(how, grid, features.device)
        # The first frame, and a ring of the last ones.
        self._keys = F.normalize(features, dim=-1).repeat(1 + how.queue, 1, 1)
        self._labels = labels.repeat(1 + how.queue, 1, 1)

    def step(self, features: Float[Tensor, "places channels"]) -> Float[Tensor, "places objects"]:
        """The labels of the next frame, whose features these are."""
        queries, queue = F.normalize(features, dim=-1), self.how.queue
        frames = 1 + (queue if self.how.repeat_first else min(self._steps, queue))
        some = max(_AT_ONCE // (frames * len(queries)), 1)
        rows = torch.arange(len(queries), device=queries.device).split(some)
        labels = torch.cat([self._read(queries, part, frames) for part in rows])
        place = 1 + self._steps % queue
        self._keys[place], self._labels[place] = queries, labels
        self._steps += 1
        return labels

    def _read(
        self, queries: Float[Tensor, "places channels"], rows: Int[Tensor, " n"], frames: int
    ) -> Float[Tensor, "n objects"]:
        """Labels of some places, from so many frames."""
        how, far = self.how, ~self._near[rows]
        likeness = torch.einsum("nc,fpc->nfp", queries[rows], self._keys[:frames])
        far = far[:, None].repeat(1, frames, 1)
        far[:, 0] &= how.near_first
        likeness = likeness.masked_fill_(far, -torch.inf).flatten(1)
        labels = self._labels[:frames].flatten(0, 1)
        best, which = likeness.topk(min(how.top_k, likeness.shape[1]), dim=1)
        if how.keep_ties:
            likeness.masked_fill_(likeness < best[:, -1:], -torch.inf)
            return (likeness / how.temperature).softmax(1) @ labels
        weights = (best / how.temperature).softmax(1)
        return torch.einsum("nk,nko->no", weights, labels[which])


@lru_cache(maxsize=1)  # that of all layers is the same
def neighbours(
    how: Propagation, grid: tuple[int, int], device: torch.device
) -> Bool[Tensor, "places places"]:
    """Which places may take labels over from which: those nearer than the radius.

    In STC's disc the distance is less than the radius, in DINO's square at most the radius in both
    directions.
    """
    rows, cols = (torch.arange(side, device=device) for side in grid)
    places = torch.cartesian_prod(rows, cols).float()
    apart = (places[:, None] - places).abs()
    if how.neighbourhood == "disc":
        return apart.norm(dim=-1) < how.radius
    return (apart <= how.radius).all(-1)


def shrink_labels(
    how: Propagation, numbers: UInt8[Tensor, "height width"], grid: tuple[int, int], objects: int
) -> Float[Tensor, "places {objects}+1"]:
    """The labels of a frame's places, of a mask that numbers its objects from 1 on.

    STC's are soft (OpenCV's bilinear: of the four pixels around a place's middle), DINO's those of
    the nearest pixel.
    """
    mode = "bilinear" if how.soft_first else "nearest-exact"
    return F.interpolate(_layers(numbers, objects), grid, mode=mode)[0].flatten(1).T.contiguous()


def coarsened(
    numbers: UInt8[Tensor, "height width"], grid: tuple[int, int], objects: int
) -> UInt8[Tensor, "height width"]:
    """The mask that comes back of what each place of the grid has of it: parts of its area."""
    parts = F.interpolate(_layers(numbers, objects), grid, mode="area")
    size = numbers.shape[0], numbers.shape[1]
    return F.interpolate(parts, size, mode="bilinear")[0].argmax(0).to(torch.uint8)


def _layers(
    numbers: UInt8[Tensor, "height width"], objects: int
) -> Float[Tensor, "1 {objects}+1 height width"]:
    return F.one_hot(numbers.long(), objects + 1).movedim(-1, 0)[None].float()


def grow_labels(
    how: Propagation,
    labels: Float[Tensor, "places objects"],
    grid: tuple[int, int],
    size: tuple[int, int],
) -> UInt8[Tensor, "height width"]:
    """The mask of `size` that labels of places make: each pixel's likeliest object."""
    soft = labels.T.unflatten(1, grid)[None]
    soft = F.interpolate(soft, size, mode="bilinear")[0]
    if how.stretch:
        flat = soft.flatten(1)
        low, high = (end[:, None, None] for end in (flat.amin(1), flat.amax(1)))
        soft = torch.where(high > low, (soft - low) / (high - low), soft)
    return soft.argmax(0).to(torch.uint8)
