"""Frames to files: H.264 in MP4, and looping GIF. A file appears whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter
from jaxtyping import UInt8
from PIL import Image

from toto.errors import UserError


def write_video(
    path: str | Path, frames: UInt8[np.ndarray, "frames 3 height width"], fps: float | int
) -> None:
    """Write frames as an MP4 that browsers play: H.264, yuv420p, near-lossless to the eye.

    Odd sides grow by one pixel, a copy of the last. The same frames give the same bytes with the
    same FFmpeg.

    Raises:
        UserError: no frames, or PyAV's FFmpeg lacks x264.
    """
    _check(path, frames)
    if "libx264" not in av.codecs_available:
        raise UserError("this build of PyAV has no H.264 encoder: `pip install av` gives one")
    height, width = frames.shape[2:]
    padding = ((0, 0), (0, 0), (0, height % 2), (0, width % 2))
    pixels = np.pad(frames, padding, mode="edge").transpose(0, 2, 3, 1)
    with _whole(Path(path)) as temporary, av.open(str(temporary), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=_rate(fps))
        context = stream.codec_context
        context.height, context.width = pixels.shape[1:3]
        context.pix_fmt = "yuv420p"
        context.thread_count = 1  # x264's bytes depend on its threads
        # With its macroblock tree, 5 of 60 runs on a small video gave other bytes.
        context.options = {"crf": "16", "preset": "veryfast", "x264-params": "mbtree=0"}
        context.colorspace = Colorspace.ITU601
        context.color_range = ColorRange.MPEG
        convert = VideoReformatter()
        for picture in pixels:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            yuv = convert.reformat(
                frame,
                format="yuv420p",
                threads=1,
                dst_colorspace=Colorspace.ITU601,
                dst_color_range=ColorRange.MPEG,
            )
            container.mux(stream.encode(yuv))
        container.mux(stream.encode())


def write_gif(
    path: str | Path, frames: UInt8[np.ndarray, "frames 3 height width"], fps: float | int
) -> None:
    """Write frames as a GIF that loops forever; its times are multiples of 10 ms.

    Raises:
        UserError: no frames.
    """
    _check(path, frames)
    first, *rest = (Image.fromarray(np.ascontiguousarray(f.transpose(1, 2, 0))) for f in frames)
    duration = max(20, round(100 / fps) * 10)  # browsers slow down what is shorter
    with _whole(Path(path)) as temporary:
        first.save(
            temporary, format="GIF", save_all=True, append_images=rest, duration=duration, loop=0
        )


def _check(path: str | Path, frames: UInt8[np.ndarray, "frames 3 height width"]) -> None:
    if not len(frames):
        raise UserError(f"{str(path)!r}: there are no frames to write")


def _rate(fps: float | int) -> Fraction:
    return Fraction(fps).limit_denominator(1001)


@contextmanager
def _whole(path: Path) -> Iterator[Path]:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
