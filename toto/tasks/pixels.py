"""The pictures themselves, as coarse as an encoder's grid: what its states are to surpass."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from toto.errors import MediaError
from toto.media.video import read_clip
from toto.probing.clips import Clips
from toto.training.world import World, all_of


def pixels_of(
    clips: Clips, world: World, advance: Callable[[int], None]
) -> Float[Tensor, "clips positions 3"]:
    """The clips' frames, average-pooled to one colour for each place of the grid.

    Processes share the reading, and all get all.

    Raises:
        MediaError: a clip's file cannot be read, in all processes.
    """
    pooled: list[Tensor] = []
    unread = None
    for clip in world.part(len(clips)).tolist():
        try:
            pooled.append(_pooled(clips[clip : clip + 1]))
        except MediaError as error:
            unread = f"{clips[clip : clip + 1].items[0].path}: {error}"
            break
        advance(world.size)
    parts = all_of(world, (pooled, unread))
    for _, reason in parts:
        if reason is not None:
            raise MediaError(reason)
    return torch.stack([clip for part, _ in parts for clip in part])


def _pooled(clip: Clips) -> Float[Tensor, "positions 3"]:
    rows, cols = clip.dataset.info.grid
    if clip.dataset.is_pixels:
        pixels = clip.stored()[0]
    else:
        (item,) = clip.items
        pixels = read_clip(item.location, int(clip.firsts[0]), clip.frames, clip.dataset.view)
    small = F.adaptive_avg_pool2d(torch.from_numpy(pixels) / 255, (rows, cols))
    repeated = small[-1:].repeat(clip.frames - len(small), 1, 1, 1)
    return torch.cat((small, repeated)).movedim(1, -1).flatten(0, 2)
