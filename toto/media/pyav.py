"""Videos, through PyAV: sequentially, and at random places with the same bytes."""

from collections.abc import Callable, Iterator
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
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream
from jaxtyping import Int64

from toto.errors import MediaError
from toto.media.colour import MAX_PIXELS, check_pixels
from toto.media.file import MediaFile, MediaInfo, short
from toto.media.picture import Moments, Picture, kept
from toto.media.sparse import Sparse, Unsure
from toto.media.squares import squares_of
from toto.media.turn import turn_of

# Covers, previews of a seek bar, and what only refines another stream.
_NOT_THE_VIDEO = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.dependent
# A file that holds less than this part of what it declares is truncated.
_COMPLETE = 0.8
_MOV = "mov,mp4,m4a,3gp,3g2,mj2"
_MATROSKA = "matroska,webm"
# One packet is one frame here, and its time stamp is exact: frames can be counted undecoded.
_TIMED = (_MOV, _MATROSKA)
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
        self._clock = Clock(stream)
        self._when: Moments | None = None
        decoded = _decode(container, stream, self._may_be_kept)
        first = next(decoded)  # only a frame tells how it is turned
        assert isinstance(first, VideoFrame)
        self._frames = chain([first], decoded)
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
        return (picture for _, picture in self._timed() if picture is not None)

    def kept(self, when: Moments) -> Iterator[Picture]:
        """Yield the kept pictures; what they do not need is not decoded, nor found to be damaged.

        Raises:
            MediaError: as in `pictures`.
            Unsure: something is unusual; the pictures until then were right.
        """
        self._when = when
        for picture in kept(self._timed(), when):
            if picture is None:
                raise Unsure
            yield picture

    def _timed(self) -> Iterator[tuple[float, Picture | None]]:
        """All pictures with their times; None for those left out."""
        convert = VideoReformatter()
        for frame in self._frames:
            if isinstance(frame, int):
                yield self._clock.time(frame), None
            else:
                time = self._clock.time(frame.pts)
                yield time, Picture(time, partial(squares_of, frame, convert))

    def _may_be_kept(self, stamp: int, later: int) -> bool:
        since, until = self._clock.exact(stamp), self._clock.exact(later)
        if self._when is None or since is None or until is None:
            return True
        return self._when.may_fall(since, until)


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

    def exact(self, stamp: int) -> float | None:
        """The time that a stamp tells; None before the first."""
        return None if self._first is None else (stamp - self._first) * self._base

    def time(self, stamp: int | None) -> float:
        """The time of the next picture."""
        if stamp is not None and self._first is None:
            self._first = stamp - round((self._last + self._step) / self._base)
        later = self._last
        if stamp is not None and self._first is not None:
            later = (stamp - self._first) * self._base
        self._last = later if later > self._last else self._last + self._step
        return self._last


def _decode(
    container: InputContainer, stream: VideoStream, may_be_kept: Callable[[int, int], bool]
) -> Iterator[VideoFrame | int]:
    """Yield all frames, at least one, or raise MediaError; of those left out, the time stamps."""
    check = _LengthCheck(container, stream)
    has_times = container.format.name in _TIMED
    sparse = Sparse(stream.codec_context, has_times, may_be_kept)
    frames, keys, error = 0, 0, None
    try:
        for packet, later in sparse.followed(check.packets()):
            keys += packet.is_keyframe
            sparse.before(packet, later)
            try:
                decoded = packet.decode()
            except FFmpegError as problem:
                if keys:
                    raise
                error = problem  # a recording may start between two key frames
                continue
            for picture in decoded:
                assert isinstance(picture, VideoFrame)
                missing = sparse.missing(picture)
                frames += len(missing) + 1
                yield from missing
                yield picture
        yield from sparse.missing_at_end()
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
        self._read = tuple(container.streams) if timed else (stream,)
        self._ticks = {s.index: float(s.time_base or 0) for s in self._read}
        self._container = container

    def packets(self) -> Iterator[av.Packet]:
        """Read all that is needed, and yield the video's."""
        for packet in self._container.demux(*self._read):
            if self._declared_seconds and packet.pts is not None:
                end = (packet.pts + (packet.duration or 0)) * self._ticks[packet.stream_index]
                self._seconds = max(self._seconds, end)
            if packet.stream is self._stream:  # the index of a flushing packet is not set
                self._packets += packet.size > 0
                yield packet

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
    if container.format.name not in _TIMED or stream.codec_context.name not in _COUNTED_CODECS:
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
            yield at, Picture(timeline.seconds[at], partial(squares_of, frame, convert))
            at += 1
    except MemoryError:
        raise
    except FFmpegError:
        raise Unsure from None
    if at < len(times):
        raise Unsure
