"""Tracked masks over the frames that they are of, to be looked at."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from toto.files import file_atomically
from toto.tasks.davis import Video

_VIDEOS, _FRAMES, _HEIGHT = 4, 6, 144


def draw_overlays(videos: Sequence[Video], masks: Path, path: Path) -> None:
    """Draw a row for each of the first videos, of frames from its first to its last one.

    Args:
        videos: what was tracked.
        masks: folder of a reading's masks.
        path: the picture to write.
    """
    rows = [_row(video, masks / video.name) for video in videos[:_VIDEOS]]
    width = max(row.shape[1] for row in rows)
    sheet = np.concatenate([np.pad(x, ((0, 0), (0, width - x.shape[1]), (0, 0))) for x in rows])
    with file_atomically(path) as file:
        Image.fromarray(sheet).save(file, "PNG")


def _row(video: Video, masks: Path) -> UInt8[np.ndarray, "height width 3"]:
    places = np.linspace(0, len(video.frames) - 1, min(_FRAMES, len(video.frames)))
    frames = [video.frames[i] for i in places.round().astype(int)]
    return np.concatenate([_laid_over(x, masks / f"{x.stem}.png") for x in frames], 1)


def _laid_over(frame: Path, mask: Path) -> UInt8[np.ndarray, "height width 3"]:
    with Image.open(frame) as picture, Image.open(mask) as numbers:
        colours, shown = numbers.convert("RGB"), numbers.point([0] + 255 * [160], "L")
        whole = picture.convert("RGB").resize(numbers.size)
    whole.paste(colours, mask=shown)
    return np.asarray(whole.resize((round(_HEIGHT * whole.width / whole.height), _HEIGHT)))
