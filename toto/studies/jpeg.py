"""JPEG at the size of a frame's codes: what a tokenizer should be better than."""

import io
from bisect import bisect_right

import numpy as np
from jaxtyping import UInt8
from PIL import Image

# Of few bits most is made by a smaller picture of better quality.
_SCALES = (1, 2, 4, 8)
_QUALITIES = range(1, 96)

Frame = UInt8[np.ndarray, "3 height width"]


def jpeg_within(frame: Frame, bits: int) -> tuple[Frame, int] | None:
    """The best that JPEG makes of a frame in at most so many bits, and how many it takes.

    Of the frame and of it reduced to a half, a quarter and an eighth, each at the highest quality
    that fits, the one of the least squared error. Bits are those of the coefficients alone: header
    and tables, the standard ones, count as part of the decoder, as a tokenizer's weights do. None
    if nothing fits.
    """
    picture = Image.fromarray(np.ascontiguousarray(frame.transpose(1, 2, 0)))
    found = [made for scale in _SCALES if (made := _at_scale(picture, scale, bits)) is not None]
    return min(found, key=lambda made: _error(frame, made[0]), default=None)


def _at_scale(picture: Image.Image, scale: int, bits: int) -> tuple[Frame, int] | None:
    width, height = (max(side // scale, 1) for side in picture.size)
    small = picture.resize((width, height), Image.Resampling.LANCZOS)
    quality = bisect_right(_QUALITIES, bits, key=lambda q: _coefficients(_encode(small, q)))
    if quality == 0:
        return None
    data = _encode(small, _QUALITIES[quality - 1])
    made = Image.open(io.BytesIO(data)).resize(picture.size, Image.Resampling.BICUBIC)
    return np.asarray(made).transpose(2, 0, 1), _coefficients(data)


def _encode(picture: Image.Image, quality: int) -> bytes:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=quality)
    return file.getvalue()


def _coefficients(data: bytes) -> int:
    """Bits between the header of the only scan and the marker of the end."""
    header = data.rindex(b"\xff\xda") + 2  # cannot occur later: there 0 follows each 255
    return 8 * (len(data) - header - int.from_bytes(data[header : header + 2]) - 2)


def _error(frame: Frame, made: Frame) -> float:
    return float(np.square(frame.astype(np.float32) - made).mean())
