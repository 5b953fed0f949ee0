"""Videos, through PyAV: sequentially, and at random places with the same bytes."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain

import av
import numpy as np
from av.container import InputContainer
from av.error import FFmpegError
from av.stream import Disposition
from av.video.frame import PictureType, VideoFrame
from av.video.reformatter import ColorTrc, Interpolation, VideoReformatter
from av.video.stream import VideoStream
from jaxtyping import Int64, UInt8
from PIL import Image

from toto.errors import MediaError
from toto.media.colour import MAX_PIXELS, check_pixels, square, to_rgb
from toto.media.file import MediaFile, MediaInfo, short
from toto.media.hdr import to_standard_range
from toto.media.picture import Picture
from toto.media.turn import turn_of

# Covers, previews of a seek bar, and what only refines another stream.
_NOT_THE_VIDEO = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.dependent
# A file that holds less than this part of what it declares is truncated.
_COMPLETE = 0.8
_MOV = "mov,mp4,m4a,3gp,3g2,mj2"
_MATROSKA = "matroska,webm"
# One packet is one frame here, and its time stamp is exact: frames can be counted undecoded.
_COUNTED_CODECS = ("h264", "hevc", "vp9", "av1", "mjpeg")


@contextmanager
def open_video(file: MediaFile) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Open a file's best video stream, for one thread.

    Raises:
        MediaError: the header makes no sense, there is no video, or it is too large.
    """
    try:
        container = av.open(
            file,
            metadata_errors="replace",
            buffer_size=2**18,
            # Play lists must not open other files, nor the network.
            container_options={"protocol_whitelist": "none"},
        )
    except MemoryError:
        raise
    except FFmpegError as error:
        raise MediaError(f"not media, or its header is damaged: {short(error)}") from None
    assert isinstance(container, InputContainer)
    with container:
        stream = _best(container)
        context = stream.codec_context
        check_pixels(context.width, context.height)
        context.options = {"max_pixels": str(MAX_PIXELS)}  # the size may change on the way
        context.thread_count = 1
        yield container, stream


def _best(container: InputContainer) -> VideoStream:
    """The video stream that a player shows: the largest of those marked as default, if any is.

    FFmpeg's own choice goes by bit rates, and takes the first where they are not told: in Matroska
    and MPEG-TS.
    """
    streams = [s for s in container.streams.video if not s.disposition & _NOT_THE_VIDEO]
    known = [s for s in streams if s.codec_context is not None]
    if not streams:
        audio = " (audio only)" if container.streams.audio else ""
        raise MediaError(f"no video stream{audio}")
    if not known:
        raise MediaError("no decoder for its video codec")

    def rank(stream: VideoStream) -> tuple[bool, int]:
        pixels = stream.codec_context.width * stream.codec_context.height
        return bool(stream.disposition & Disposition.default), pixels

    return max(known, key=rank)


class VideoDecoder:
    """A video read once, from its start to its end."""

    def __init__(self, container: InputContainer, stream: VideoStream) -> None:
        decoded = _decode(container, stream)
        first = next(decoded)  # only a frame tells how it is turned
        self._frames = chain([first], decoded)
        self._clock = Clock(stream)
        width, height = first.width, first.height
        if turn_of(first).swaps_axes:
            width, height = height, width
        rate = stream.average_rate
        self.info = MediaInfo(
            kind="video",
            width=width,
            height=height,
            fps=float(rate) if rate else None,
            frames=stream.frames or None,
        )

    def pictures(self) -> Iterator[Picture]:
        """Yield all pictures.

        Raises:
            MediaError: decoding stops early, or the file holds much less than it declares.
        """
        convert = VideoReformatter()
        for frame in self._frames:
            yield Picture(self._clock.time(frame.pts), partial(_squares, frame, convert))


class Clock:
    """Seconds since the first picture, always going on.

    A picture without a time stamp, or whose stamp lies before the one ahead of it, comes one
    nominal picture later than that.
    """

    def __init__(self, stream: VideoStream) -> None:
        self._base = float(stream.time_base or 1 / 90000)
        self._step = 1 / float(stream.average_rate or 30)
        self._first: int | None = None
        self._last = -self._step

    def time(self, stamp: int | None) -> float:
        """The time of the next picture."""
        if stamp is not None and self._first is None:
            self._first = stamp - round((self._last + self._step) / self._base)
        later = self._last
        if stamp is not None and self._first is not None:
            later = (stamp - self._first) * self._base
        self._last = later if later > self._last else self._last + self._step
        return self._last


def _decode(container: InputContainer, stream: VideoStream) -> Iterator[VideoFrame]:
    """Yield all frames, at least one, or raise MediaError."""
    check = _LengthCheck(container, stream)
    frames, keys, error = 0, 0, None
    try:
        for packet in container.demux(*check.streams):
            check.saw(packet)
            if packet.stream is not stream:  # the index of a flushing packet is not set
                continue
            keys += packet.is_keyframe
            try:
                decoded = packet.decode()
            except FFmpegError as problem:
                if keys:
                    raise
                error = problem  # a recording may start between two key frames
                continue
            for picture in decoded:
                assert isinstance(picture, VideoFrame)
                frames += 1
                yield picture
    except MemoryError:
        raise
    except FFmpegError as problem:
        if frames:
            raise MediaError(
                f"truncated or corrupt: decoding stopped after {frames} frames: {short(problem)}"
            ) from None
        error = problem
    if not frames:
        why = f": {short(error)}" if error else ""
        raise MediaError(f"no frame could be decoded{why}")
    check.at_end()


class _LengthCheck:
    """Compares what a file holds with what it declares, where its format declares that reliably.

    MP4 has an index of its packets in front, AVI the count in front and the index at the end,
    Matroska and FLV only the seconds, which may be those of a longer audio stream.
    """

    def __init__(self, container: InputContainer, stream: VideoStream) -> None:
        name = container.format.name
        self._stream = stream
        self._packets = 0
        self._seconds = 0.0
        self._avi_frames = stream.frames if name == "avi" else 0
        # Not `frames`, of which an edit list may leave out a part.
        self._mov_packets = len(stream.index_entries) if name == _MOV and stream.frames else 0
        timed = name in (_MATROSKA, "flv")
        self._declared_seconds = (container.duration or 0) / av.time_base if timed else 0.0
        self.streams = container.streams if timed else (stream,)

    def saw(self, packet: av.Packet) -> None:
        if packet.size and packet.stream is self._stream:
            self._packets += 1
        if self._declared_seconds and packet.pts is not None and packet.time_base is not None:
            end = float((packet.pts + (packet.duration or 0)) * packet.time_base)
            self._seconds = max(self._seconds, end)

    def at_end(self) -> None:
        """Raise MediaError if the file is much shorter than declared."""
        if self._packets < _COMPLETE * self._mov_packets:
            raise MediaError(f"truncated: {self._packets} of {self._mov_packets} frames")
        # A recorder may leave frames out, but then the index has them; it is lost in truncation.
        if max(self._packets, len(self._stream.index_entries)) < _COMPLETE * self._avi_frames:
            raise MediaError(f"truncated: {self._packets} of {self._avi_frames} frames")
        if self._seconds < _COMPLETE * self._declared_seconds:
            raise MediaError(
                f"truncated: {self._seconds:.1f} of {self._declared_seconds:.1f} seconds"
            )


@dataclass(frozen=True)
class Timeline:
    """The frames of a video as its packets tell them, without decoding.

    Attributes:
        times: the presentation time stamp of every frame, ascending.
        keys: those of the key frames, ascending.
        seconds: the times in seconds from the first.
        fps: frames a second, None where the file does not say.
    """

    times: Int64[np.ndarray, " frames"]
    keys: Int64[np.ndarray, " keys"]
    seconds: list[float]
    fps: float | None


def read_timeline(container: InputContainer, stream: VideoStream) -> Timeline | None:
    """Count the frames by reading the packets; None where that cannot be trusted."""
    if (
        container.format.name not in (_MOV, _MATROSKA)
        or stream.codec_context.name not in _COUNTED_CODECS
    ):
        return None
    times, keys = [], []
    try:
        for number, packet in enumerate(p for p in container.demux(stream) if p.size):
            if packet.pts is None or packet.is_corrupt:
                return None
            if number == 0:
                start = packet.pts
                if not packet.is_keyframe:
                    return None
            # Frames shown before the first key frame may lack what they refer to.
            if packet.pts < start:
                return None
            if packet.is_discard:
                continue
            times.append(packet.pts)
            if packet.is_keyframe:
                keys.append(packet.pts)
    except MemoryError:
        raise
    except FFmpegError:
        return None
    if not keys or len(set(times)) < len(times):
        return None
    clock, rate = Clock(stream), stream.average_rate
    times.sort()
    return Timeline(
        times=np.array(times, np.int64),
        keys=np.array(sorted(keys), np.int64),
        seconds=[clock.time(stamp) for stamp in times],
        fps=float(rate) if rate else None,
    )


class Unsure(Exception):
    """Something differs from what the timeline says: only decoding from the start is right."""


def seek_pictures(
    container: InputContainer, stream: VideoStream, timeline: Timeline, index: int
) -> Iterator[tuple[int, Picture]]:
    """Yield the pictures from `index` or before on, each with its index.

    Raises:
        Unsure: something differs from the timeline, or there is nothing to jump over; the pictures
            until then were right.
    """
    times = timeline.times
    key = int(np.searchsorted(timeline.keys, times[index], side="right")) - 1
    if key < 1:
        raise Unsure
    convert = VideoReformatter()
    try:
        # Only the first packet names the encoder, and FFmpeg decodes the 4:4:4 of old x264 with
        # another rule: without this, every frame after the jump is garbage.
        next(container.demux(stream)).decode()
        container.seek(int(timeline.keys[key]), stream=stream)
        packets = container.demux(stream)
        landed = next(packets)
        start = landed.pts
        if start is None or start > timeline.keys[key] or start not in timeline.keys:
            raise Unsure
        frames = (frame for packet in chain([landed], packets) for frame in packet.decode())
        at = int(np.searchsorted(times, start))
        is_first = True
        for frame in frames:
            assert isinstance(frame, VideoFrame)
            if frame.pts is not None and frame.pts < start:
                continue  # an open group of pictures: shown before its key frame, which came first
            if at == len(times) or frame.pts != times[at]:
                raise Unsure
            # A recovery point within an intra refresh is marked as a key frame, but is none.
            if is_first and not (frame.key_frame and frame.pict_type == PictureType.I):
                raise Unsure
            is_first = False
            yield at, Picture(timeline.seconds[at], partial(_squares, frame, convert))
            at += 1
    except MemoryError:
        raise
    except FFmpegError:
        raise Unsure from None
    if at < len(times):
        raise Unsure


def _squares(
    frame: VideoFrame, convert: VideoReformatter, size: int, places: Sequence[float]
) -> UInt8[np.ndarray, "places 3 size size"]:
    """The squares of a frame; `convert`, kept from frame to frame, saves 0.1 ms for each."""
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
    way = Interpolation.AREA if size < short_side else Interpolation.BICUBIC
    if not is_hdr and (width, height) != (frame.width, frame.height):
        # Else colours have half the width of the small picture, and white is 253 (docs/log.md).
        way |= Interpolation.FULL_CHR_H_INT
    # Scaled before it is converted: with the whole picture in RGB first, reading takes half as
    # long again (docs/log.md).
    small = convert.reformat(
        frame,
        width=width,
        height=height,
        format="rgb48le" if is_hdr else "rgb24",
        interpolation=way,
        threads=1,
    ).to_ndarray()
    if is_hdr:
        small = to_standard_range(small, frame.color_trc == ColorTrc.ARIB_STD_B67)
    corners = [(round((width - size) * p), round((height - size) * p)) for p in places]
    squares = np.stack([small[y : y + size, x : x + size] for x, y in corners])
    return squares.transpose(0, 3, 1, 2)
