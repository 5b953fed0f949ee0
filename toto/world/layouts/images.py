"""Pictures of one main solid in ImageFolder's layout (SPECS 10).

`train/red_cube/00000000.JPEG ...`, `val/red_cube/...`.
"""

from pathlib import Path

from PIL import Image

from toto.errors import at_least
from toto.world.layouts.driver import TRAIN, VAL, Layout, World, split_and_class
from toto.world.portraits import CLASSES, sample_portrait
from toto.world.render import render

_SPLITS = (TRAIN, TRAIN, VAL, TRAIN, TRAIN)


def _image(world: World, index: int) -> str:
    split, label = split_and_class(world.seed, index, _SPLITS, len(CLASSES))
    return f"{split}/{CLASSES[label]}/{index:08d}.JPEG"


def _write(world: World, index: int, folder: Path) -> None:
    _, label = split_and_class(world.seed, index, _SPLITS, len(CLASSES))
    (frame,) = render(sample_portrait(world.seed, index, label), world.size)
    path = folder / _image(world, index)
    path.parent.mkdir(parents=True)
    Image.fromarray(frame.transpose(1, 2, 0)).save(path, quality=95)


def _check(world: World) -> None:
    # A class that a split lacks would shift the numbers of those after it.
    at_least(len(_SPLITS) * len(CLASSES), count=world.count)


IMAGES_LAYOUT = Layout("images", "images", 128, 1, 1, _image, _write, check=_check)
