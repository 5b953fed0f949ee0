"""Tracked solids in the layout of DAVIS-2017 (SPECS 7.3).

`JPEGImages/480p/<sequence>/00000.jpg ...`, `Annotations/480p/<sequence>/00000.png ...` with a
number for each object that the first frame shows, `ImageSets/2017/train.txt` and `val.txt`.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from toto.media.masks import write_mask
from toto.world.crossings import sample_crossing
from toto.world.layouts.driver import TRAIN, VAL, Layout, World
from toto.world.render import render, render_geometry

_SPLITS = (TRAIN, VAL, TRAIN)  # DAVIS has 60 and 30


def first_frame_ids(
    seen: UInt8[np.ndarray, "frames height width"],
) -> UInt8[np.ndarray, "frames height width"]:
    """Numbers from 1 on for what the first frame shows; what comes later is background."""
    numbers = np.zeros(256, np.uint8)
    present = [i for i in np.unique(seen[0]) if i]
    numbers[present] = np.arange(1, len(present) + 1)
    return np.asarray(numbers[seen])


def sequence_name(index: int) -> str:
    """The folder of sequence `index`."""
    return f"crossing-{index:06d}"


def _mark(world: World, index: int) -> str:
    return f"Annotations/480p/{sequence_name(index)}/{world.frames - 1:05d}.png"


def _write(world: World, index: int, folder: Path) -> None:
    scene = sample_crossing(world.seed, index, world.frames)
    sides = (world.size, 2 * round(world.size * 8 / 9))
    images = folder / "JPEGImages" / "480p" / sequence_name(index)
    masks = folder / "Annotations" / "480p" / sequence_name(index)
    images.mkdir(parents=True)
    masks.mkdir(parents=True)
    for frame, pixels in enumerate(render(scene, sides)):
        Image.fromarray(pixels.transpose(1, 2, 0)).save(images / f"{frame:05d}.jpg", quality=95)
    for frame, ids in enumerate(first_frame_ids(render_geometry(scene, sides)[1])):
        write_mask(masks / f"{frame:05d}.png", ids)


def _lists(world: World, out: Path) -> Iterator[tuple[str, str]]:
    for split in (TRAIN, VAL):
        names = [sequence_name(i) for i in range(world.count) if _SPLITS[i % 3] == split]
        yield f"ImageSets/2017/{split}.txt", "".join(f"{name}\n" for name in names)


DAVIS_LAYOUT = Layout("davis", "sequences", 240, 40, 24, _mark, _write, _lists)
