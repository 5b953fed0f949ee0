"""Files to frames: whole files piece by piece, or a clip out of the middle.

An image is a file of one frame. Which bytes come out depends on the file and the view alone, not on
chunks, workers or the place where reading starts.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from itertools import islice
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from toto.errors import unknown
from toto.media.file import MediaInfo, kind_of, open_file
from toto.media.image import ImageDecoder, open_image
from toto.media.pyav import Timeline, VideoDecoder, open_video, read_timeline, seek_frames
from toto.media.torchcodec import TorchCodecDecoder, check_usable
from toto.media.view import View

Decoder = ImageDecoder | VideoDecoder | TorchCodecDecoder
DECODERS = ("auto", "pyav", "torchcodec")


class OpenMedia:
    """One open file: what it says of itself, and its frames, once."""

    def __init__(self, info: MediaInfo, decoder: Decoder) -> None:
        self.info = info
        self._decoder = decoder

    def chunks(
        self, view: View, chunk: int = 64
    ) -> Iterator[UInt8[np.ndarray, "frames 3 size size"]]:
        """Yield all kept frames, at most `chunk` at a time.

        Raises:
            MediaError: the file is broken; the frames until then are of no use.
        """
        pictures = self._decoder.pictures(view.stride, view.size)
        while len(frames := _stack(islice(pictures, chunk), view.size)):
            yield frames

    def clip(self, first: int, frames: int, view: View) -> UInt8[np.ndarray, "frames 3 size size"]:
        """The kept frames from `first` on, decoded from the start of the file."""
        pictures = self._decoder.pictures(view.stride, view.size, first)
        return _stack(islice(pictures, frames), view.size)


def decoder_name(decoder: str) -> str:
    """The decoder that reads videos when `decoder` is asked for: "pyav" or "torchcodec".

    "auto" is PyAV, which is part of every installation and was the faster one for clips.

    Raises:
        UserError: there is no such decoder, or it cannot be used here.
    """
    if decoder not in DECODERS:
        raise unknown("decoder", decoder, DECODERS)
    if decoder == "torchcodec":
        check_usable()
        return decoder
    return "pyav"


@contextmanager
def open_media(path: str, decoder: str = "auto") -> Iterator[OpenMedia]:
    """Open an image, an animation or a video.

    Raises:
        MediaError: the file's own bytes are no media, or damaged.
        OSError: the machine failed.
        UserError: the decoder cannot be used.
    """
    name = decoder_name(decoder)
    with open_file(path) as file:
        if kind_of(file) == "image":
            with open_image(file) as image:
                yield OpenMedia(image.info, image)
        else:
            with open_video(file) as (container, stream):
                video = VideoDecoder(container, stream)
                chosen = TorchCodecDecoder(path) if name == "torchcodec" else video
                yield OpenMedia(video.info, chosen)


def probe(path: str) -> MediaInfo:
    """Say what a file is; of a video, one frame is decoded.

    Raises:
        MediaError, OSError: as in `open_media`.
    """
    with open_media(path) as media:
        return media.info


def read_frames(
    path: str, view: View, chunk: int = 64, decoder: str = "auto"
) -> Iterator[UInt8[np.ndarray, "frames 3 size size"]]:
    """Read all kept frames of a file, in order, at most `chunk` at a time.

    Raises:
        MediaError: the file's own bytes are at fault, even if frames have come already: then the
            file as a whole is not to be used.
        OSError, UserError: as in `open_media`.
    """
    with open_media(path, decoder) as media:
        yield from media.chunks(view, chunk)


def read_clip(
    path: str, first: int, frames: int, view: View, decoder: str = "auto"
) -> UInt8[np.ndarray, "frames 3 size size"]:
    """Read the kept frames `first` to `first + frames - 1`, fewer where the file ends before.

    They are byte for byte those of `read_frames`. Reading starts at the key frame before the clip
    where that is sure to give the same frames, else at the start of the file. Only what is read of
    the file is checked.

    Raises:
        MediaError, OSError, UserError: as in `read_frames`.
    """
    if first > 0 and decoder_name(decoder) == "pyav":
        sought = _seek_clip(path, first, frames, view)
        if sought is not None:
            return sought
    with open_media(path, decoder) as media:
        return media.clip(first, frames, view)


def _seek_clip(
    path: str, first: int, frames: int, view: View
) -> UInt8[np.ndarray, "frames 3 size size"] | None:
    """The clip by seeking, None where that is not possible or not sure."""
    with open_file(path) as file:
        if kind_of(file) == "image":
            return None
        status = Path(path).stat()
        timeline = _timeline(path, status.st_size, status.st_mtime_ns)
        if timeline is None:
            return None
        stop = min((first + frames) * view.stride, len(timeline.times))
        wanted = range(first * view.stride, stop, view.stride)
        if not wanted:
            return _stack([], view.size)
        with open_video(file) as (container, stream):
            found = seek_frames(container, stream, timeline, wanted, view.size)
    return None if found is None else _stack(found, view.size)


@lru_cache(maxsize=64)  # it takes reading the whole file; several clips of a long one are usual
def _timeline(path: str, size: int, modified: int) -> Timeline | None:
    with open_file(path) as file, open_video(file) as (container, stream):
        return read_timeline(container, stream)


def _stack(
    pictures: Iterable[UInt8[np.ndarray, "3 size size"]], size: int
) -> UInt8[np.ndarray, "frames 3 size size"]:
    frames = list(pictures)
    return np.stack(frames) if frames else np.empty((0, 3, size, size), np.uint8)
