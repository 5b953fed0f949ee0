"""Frames of a video to 8-bit RGB squares, through FFmpeg's scaler."""

from collections.abc import Sequence

import numpy as np
from av.error import FFmpegError
from av.video.frame import VideoFrame
from av.video.reformatter import ColorTrc, Interpolation, VideoReformatter
from jaxtyping import UInt8
from PIL import Image

from toto.errors import MediaError
from toto.media.colour import square, to_rgb
from toto.media.file import short
from toto.media.hdr import to_standard_range
from toto.media.turn import turn_of


def squares_of(
    frame: VideoFrame, convert: VideoReformatter, size: int, places: Sequence[float]
) -> UInt8[np.ndarray, "places 3 size size"]:
    """The upright squares of a frame at `places` along its longer side, `size` pixels each.

    `convert`, kept from frame to frame, saves 0.1 ms for each.

    Raises:
        MediaError: pixels that FFmpeg cannot convert.
    """
    turn = turn_of(frame)
    cut = turn.stored(places, frame.width, frame.height)
    try:
        squares = _convert(frame, convert, size, cut)
    except MemoryError:
        raise
    except FFmpegError as error:
        raise MediaError(f"pixels of format {frame.format.name}: {short(error)}") from None
    return turn.apply(squares)


def _convert(
    frame: VideoFrame, convert: VideoReformatter, size: int, places: Sequence[float]
) -> UInt8[np.ndarray, "places 3 size size"]:
    # By default each conversion would start threads, which takes ten times as long.
    if any(component.is_alpha for component in frame.format.components):
        pixels = convert.reformat(frame, format="rgba", threads=1).to_ndarray()
        image = to_rgb(Image.fromarray(pixels))
        return np.stack([square(image, size, place) for place in places])
    short_side = min(frame.width, frame.height)
    width = max(size, round(frame.width * size / short_side))
    height = max(size, round(frame.height * size / short_side))
    is_hdr = frame.color_trc in (ColorTrc.SMPTE2084, ColorTrc.ARIB_STD_B67)
    is_planar = not is_hdr and (width, height) != (frame.width, frame.height)
    way = Interpolation.AREA if size < short_side else Interpolation.BICUBIC
    if is_planar:
        # Else colours have half the width of the small picture, and white is 253 (docs/log.md).
        way |= Interpolation.FULL_CHR_H_INT
    # Scaled before it is converted: with the whole picture in RGB first, reading takes half as
    # long again. Into planes it takes half the time, and differs by one level at most.
    small = convert.reformat(
        frame,
        width=width,
        height=height,
        format="rgb48le" if is_hdr else "gbrp" if is_planar else "rgb24",
        interpolation=way,
        threads=1,
    )
    channels: Sequence[np.ndarray] | np.ndarray
    if is_planar:
        channels = _planes(small)
    elif is_hdr:
        is_hlg = frame.color_trc == ColorTrc.ARIB_STD_B67
        channels = to_standard_range(small.to_ndarray(), is_hlg).transpose(2, 0, 1)
    else:
        channels = small.to_ndarray().transpose(2, 0, 1)
    squares = np.empty((len(places), 3, size, size), np.uint8)
    for place, rgb in zip(places, squares, strict=True):
        x, y = round((width - size) * place), round((height - size) * place)
        for channel, into in zip(channels, rgb, strict=True):
            into[...] = channel[y : y + size, x : x + size]
    return squares


def _planes(frame: VideoFrame) -> list[UInt8[np.ndarray, "height stride"]]:
    """Red, green and blue of planar RGB, where they lie: `to_ndarray` takes longer than scaling."""
    planes = [frame.planes[i] for i in (2, 0, 1)]
    return [np.frombuffer(memoryview(p), np.uint8).reshape(-1, p.line_size) for p in planes]
