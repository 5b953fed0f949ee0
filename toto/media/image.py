"""Still images and animations (GIF, WebP, APNG, AVIF), through Pillow."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial

import numpy as np
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError

from toto.errors import MediaError
from toto.media.colour import MAX_PIXELS, check_pixels, square, to_rgb
from toto.media.file import MediaFile, MediaInfo, short
from toto.media.picture import Picture
from toto.media.turn import UPRIGHT, Turn
from toto.media.view import Place

_FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000")
# The pages of a TIFF and the pictures of an MPO are no animation.
_ANIMATED = ("GIF", "WEBP", "PNG", "AVIF")
_ORIENTATION = 0x0112
# EXIF's orientations.
_TURNS = {
    2: Turn(True, False, False),
    3: Turn(True, True, False),
    4: Turn(False, True, False),
    5: Turn(False, False, True),
    6: Turn(False, True, True),
    7: Turn(True, True, True),
    8: Turn(True, False, True),
}
_NO_DURATION = 100  # milliseconds that browsers show a picture for that names no time


class ImageDecoder:
    """One open image or animation."""

    def __init__(self, image: Image.Image) -> None:
        check_pixels(*image.size)
        self._image = image
        self._turn = _TURNS.get(_orientation(image), UPRIGHT)
        frames = getattr(image, "n_frames", 1) if image.format in _ANIMATED else 1
        # An APNG may begin with a picture for those who cannot show it moving.
        first = 1 if frames > 1 and getattr(image, "default_image", False) else 0
        self._pages = range(first, frames)
        width, height = image.size
        if self._turn.swaps_axes:
            width, height = height, width
        is_moving = len(self._pages) > 1
        self.info = MediaInfo(
            kind="video" if is_moving else "image",
            width=width,
            height=height,
            fps=self._rate() if is_moving else None,
            frames=len(self._pages),
        )

    def pictures(self) -> Iterator[Picture]:
        """Yield all pictures.

        Raises:
            MediaError: the bytes end early or make no sense.
        """
        time = 0.0
        for index, page in enumerate(self._pages):
            with blaming_the_bytes(index):
                duration = self._show(page)
                rgb = to_rgb(self._image)  # at once: going back would decode from the start
            yield Picture(time, partial(self._squares, rgb))
            time += duration / 1000

    def _show(self, page: int) -> float:
        """Decode a picture, and say for how many milliseconds it is on show."""
        self._image.seek(page)
        self._image.load()  # of WebP and AVIF, `info` is that of the picture before until then
        return float(self._image.info.get("duration") or _NO_DURATION)

    def _rate(self) -> float | None:
        """Pictures a second on average; only decoding them all tells their times."""
        durations: list[float] = []
        with suppress(MediaError), blaming_the_bytes():  # reading will say it, and where
            for page in self._pages:
                durations.append(self._show(page))  # noqa: PERF401  those before an error count
        return 1000 * len(durations) / sum(durations) if durations else None

    def _squares(
        self, rgb: Image.Image, size: int, places: Sequence[Place]
    ) -> UInt8[np.ndarray, "places 3 size size"]:
        cut = self._turn.stored(places, *rgb.size)
        return self._turn.apply(np.stack([square(rgb, size, box) for box in cut]))


@contextmanager
def open_image(file: MediaFile) -> Iterator[ImageDecoder]:
    """Open an image whose first bytes are those of one.

    Raises:
        MediaError: its header makes no sense, or it is too large.
    """
    with blaming_the_bytes():
        image = Image.open(file, formats=_FORMATS)  # type: ignore[arg-type]
        decoder = ImageDecoder(image)
    with image:
        yield decoder


@contextmanager
def blaming_the_bytes(frames: int = 0) -> Iterator[None]:
    """Pillow raises errors of any class on bad bytes: all of them are the file's."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd metadata, and of sizes that are checked here
            yield
    except (MediaError, MemoryError):
        raise
    except Image.DecompressionBombError:
        raise MediaError(f"too large: limit {MAX_PIXELS} pixels") from None
    except UnidentifiedImageError:
        raise MediaError("corrupt: begins as an image, but has no valid header") from None
    except Exception as error:
        after = f"decoding stopped after {frames} frames: " if frames else ""
        raise MediaError(f"truncated or corrupt: {after}{short(error)}") from None


def _orientation(image: Image.Image) -> int:
    if image.format == "TIFF":  # which Pillow turns by itself
        return 1
    exif = Image.Exif()
    try:
        # Not getexif, which decodes a whole PNG, and swallows what that raises.
        exif.load(image.info.get("exif", b""))
        return int(exif.get(_ORIENTATION, 1))
    except Exception:  # broken metadata is no reason to lose the picture
        return 1
