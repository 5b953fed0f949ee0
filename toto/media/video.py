"""Files to frames: whole files piece by piece, or a clip out of the middle.

An image is a file of one frame. Which bytes come out depends on the file and the view alone, not on
chunks, workers or the place where reading starts.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from itertools import count, islice
from pathlib import Path

import numpy as np
from jaxtyping import Int64, UInt8

from toto.media.file import MediaInfo, kind_of, open_file
from toto.media.image import ImageDecoder, open_image
from toto.media.item import Location, is_url
from toto.media.numbered import NumberedFrames
from toto.media.picture import Moments, Picture, kept, moments, nominal_rate
from toto.media.pyav import (
    Timeline,
    VideoDecoder,
    open_video,
    read_timeline,
    seek_pictures,
)
from toto.media.sparse import Unsure
from toto.media.view import Place, View

Decoder = ImageDecoder | VideoDecoder | NumberedFrames

# Frames at a time, and their bytes: what fits into a pipe of 1 MiB.
_CHUNK, _CHUNK_BYTES = 64, 3 * 2**18


class OpenMedia:
    """One open file: what it says of itself, and its frames, once."""

    def __init__(self, location: Location, decoder: Decoder) -> None:
        self.info: MediaInfo = decoder.info
        self.fps = nominal_rate(location, decoder.info.fps)
        self._location = location
        self._decoder = decoder

    def chunks(
        self,
        view: View,
        places: Sequence[Place] = (),
        first: int = 0,
        frames: int | None = None,
    ) -> Iterator[UInt8[np.ndarray, "frames places 3 size size"]]:
        """Yield the kept frames from `first` on, at most `frames` or all, some at a time.

        They come from the key frame before the first of them where that is sure to give the same
        frames, else from the start of the file. Each frame gives a square at each of `places`, by
        default that of the view where nothing is drawn.

        Raises:
            MediaError: the file is broken; the frames until then are of no use.
        """
        places = places or (view.undrawn,)
        stop = None if frames is None else first + frames
        when = moments(view, self._location, self.fps)
        pictures = self._kept(when, first, stop)
        squares = (_mirror(p.squares(view.size, places), places) for p in pictures)
        each = 3 * view.size**2 * len(places)
        size = max(1, min(_CHUNK, _CHUNK_BYTES // each))
        while chunk := list(islice(squares, size)):
            yield np.stack(chunk)

    def count(self, view: View) -> int:
        """How many frames are kept: from the packets where these tell, else by decoding.

        Raises:
            MediaError: the file is broken, as far as that was noticed.
        """
        when = moments(view, self._location, self.fps)
        if isinstance(self._decoder, VideoDecoder):
            location = _whole(self._location)
            version = _version(location)
            if _timeline(location, version) is not None:
                return len(_indices(location, version, when))
        return sum(1 for _ in self._kept(when, 0, None))

    def _kept(self, when: Moments, first: int, stop: int | None) -> Iterator[Picture]:
        decoder = self._decoder
        if not isinstance(decoder, VideoDecoder):
            yield from islice(_of_all(decoder, when), first, stop)
            return
        given = 0
        try:
            if first or when.start:
                for picture in _seek(self._location, when, first, stop):
                    yield picture
                    given += 1
                return
        except Unsure:
            pass
        try:
            for picture in islice(decoder.kept(when), first + given, stop):
                yield picture
                given += 1
            return
        except Unsure:
            pass
        with open_file(self._location) as file, open_video(file) as (container, stream):
            plain = _of_all(VideoDecoder(container, stream), when)
            yield from islice(plain, first + given, stop)


@contextmanager
def open_media(where: Location | str) -> Iterator[OpenMedia]:
    """Open an image, an animation, a video or a folder of numbered frames.

    Raises:
        MediaError: the file's own bytes are no media, or damaged.
        OSError: the machine failed.
    """
    location = where if isinstance(where, Location) else Location(where)
    if location.part == "frames":
        yield OpenMedia(location, NumberedFrames(location))
        return
    with open_file(location) as file:
        if kind_of(file) == "image":
            with open_image(file) as image:
                yield OpenMedia(location, image)
        else:
            with open_video(file) as (container, stream):
                yield OpenMedia(location, VideoDecoder(container, stream))


def probe(where: Location | str) -> MediaInfo:
    """Say what a file is; of a video, one frame is decoded.

    Raises:
        MediaError, OSError: as in `open_media`.
    """
    with open_media(where) as media:
        return media.info


def read_frames(
    where: Location | str, view: View
) -> Iterator[UInt8[np.ndarray, "frames 3 size size"]]:
    """Read all kept frames of a file, in order, some at a time, whole or in the middle square.

    Raises:
        MediaError: the file's own bytes are at fault, even if frames have come already: then the
            file as a whole is not to be used.
        OSError: as in `open_media`.
    """
    with open_media(where) as media:
        for chunk in media.chunks(view):
            yield chunk[:, 0]


def read_clip(
    where: Location | str, first: int, frames: int, view: View
) -> UInt8[np.ndarray, "frames 3 size size"]:
    """Read the kept frames `first` to `first + frames - 1`, fewer where the file ends before.

    They are byte for byte those of `read_frames`. Only what is read of the file is checked.

    Raises:
        MediaError, OSError: as in `read_frames`.
    """
    with open_media(where) as media:
        chunks = [chunk[:, 0] for chunk in media.chunks(view, first=first, frames=frames)]
    return np.concatenate(chunks) if chunks else np.empty((0, 3, view.size, view.size), np.uint8)


def _mirror(
    squares: UInt8[np.ndarray, "places 3 size size"], places: Sequence[Place]
) -> UInt8[np.ndarray, "places 3 size size"]:
    for square, place in zip(squares, places, strict=True):
        if place.mirrored:
            square[:] = square[..., ::-1].copy()
    return squares


def _seek(location: Location, when: Moments, first: int, stop: int | None) -> Iterator[Picture]:
    """The kept pictures by seeking.

    Raises:
        Unsure: that is not possible or not sure; the pictures until then were right.
    """
    location = _whole(location)
    version = _version(location)
    timeline = _timeline(location, version)
    if timeline is None:
        raise Unsure
    indices = _indices(location, version, when)[first:stop].tolist()
    if not indices:
        return
    with open_file(location) as file, open_video(file) as (container, stream):
        pictures = seek_pictures(container, stream, timeline, indices[0])
        at, picture = next(pictures)
        for index in indices:
            while at < index:
                at, picture = next(pictures)
            yield picture


def _of_all(decoder: Decoder, when: Moments) -> Iterator[Picture]:
    return kept(((picture.time, picture) for picture in decoder.pictures()), when)


def _whole(location: Location) -> Location:
    """The file that segments are of: all of them share its timeline."""
    return Location(location.path, location.part)


def _version(location: Location) -> tuple[int, int]:
    """What changes when the file does, as far as it can be told without reading it."""
    if is_url(location.path):
        return 0, 0
    status = Path(location.path).stat()
    return status.st_size, status.st_mtime_ns


@lru_cache(maxsize=64)  # it takes reading the whole file; several clips of a long one are usual
def _timeline(location: Location, version: tuple[int, int]) -> Timeline | None:
    with open_file(location) as file, open_video(file) as (container, stream):
        return read_timeline(container, stream)


@lru_cache(maxsize=64)
def _indices(
    location: Location, version: tuple[int, int], when: Moments
) -> Int64[np.ndarray, " kept"]:
    """Which pictures of a video are kept; its timeline is known."""
    timeline = _timeline(location, version)
    assert timeline is not None
    return np.fromiter(kept(zip(timeline.seconds, count(), strict=False), when), np.int64)
