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
from toto.media.view import Box, Place


def squares_of(
    frame: VideoFrame, convert: VideoReformatter, size: int, places: Sequence[Place]
) -> UInt8[np.ndarray, "places 3 size size"]:
    """The upright squares that parts of a frame become, `size` pixels each.

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
    frame: VideoFrame, convert: VideoReformatter, size: int, boxes: Sequence[Box]
) -> UInt8[np.ndarray, "boxes 3 size size"]:
    is_hdr = frame.color_trc in (ColorTrc.SMPTE2084, ColorTrc.ARIB_STD_B67)
    short_side = min(frame.width, frame.height)
    has_alpha = any(component.is_alpha for component in frame.format.components)
    if has_alpha or any(box[2:] != (short_side, short_side) for box in boxes):
        image = Image.fromarray(_whole(frame, convert, has_alpha, is_hdr))
        return np.stack([square(to_rgb(image), size, box) for box in boxes])
    width = max(size, round(frame.width * size / short_side))
    height = max(size, round(frame.height * size / short_side))
    is_planar = not is_hdr and (width, height) != (frame.width, frame.height)
    way = Interpolation.AREA if size < short_side else Interpolation.BICUBIC
    if is_planar:
        # Else colours have half the width of the small picture, and white is 253 (docs/log.md).
        way |= Interpolation.FULL_CHR_H_INT
    # Scaled before it is converted: with the whole picture in RGB first, reading takes half as
    # long again. Into planes it takes half the time, and differs by one level at most.
    # By default each conversion would start threads, which takes ten times as long.
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
        channels = _standard(frame, small).transpose(2, 0, 1)
    else:
        channels = small.to_ndarray().transpose(2, 0, 1)
    squares = np.empty((len(boxes), 3, size, size), np.uint8)
    slack = max(frame.width, frame.height) - short_side
    for box, rgb in zip(boxes, squares, strict=True):
        along = (box.left + box.top) / slack if slack else 0.5
        x, y = round((width - size) * along), round((height - size) * along)
        for channel, into in zip(channels, rgb, strict=True):
            into[...] = channel[y : y + size, x : x + size]
    return squares


def _whole(
    frame: VideoFrame, convert: VideoReformatter, has_alpha: bool, is_hdr: bool
) -> UInt8[np.ndarray, "height width channels"]:
    """All pixels of a frame, as RGB or RGBA."""
    kind = "rgba" if has_alpha else "rgb48le" if is_hdr else "rgb24"
    whole = convert.reformat(frame, format=kind, threads=1)
    return _standard(frame, whole) if kind == "rgb48le" else whole.to_ndarray()


def _standard(frame: VideoFrame, wide: VideoFrame) -> UInt8[np.ndarray, "height width 3"]:
    """An HDR frame's pixels, 16 bits each, in standard range."""
    return to_standard_range(wide.to_ndarray(), frame.color_trc == ColorTrc.ARIB_STD_B67)


def _planes(frame: VideoFrame) -> list[UInt8[np.ndarray, "height stride"]]:
    """Red, green and blue of planar RGB, where they lie: `to_ndarray` takes longer than scaling."""
    planes = [frame.planes[i] for i in (2, 0, 1)]
    return [np.frombuffer(memoryview(p), np.uint8).reshape(-1, p.line_size) for p in planes]
