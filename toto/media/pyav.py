"""Videos, through PyAV: sequentially, and at random places with the same bytes."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain

import av
import numpy as np
from av.container import InputContainer
from av.error import FFmpegError
from av.stream import Disposition
from av.video.frame import PictureType, VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream
from jaxtyping import Int64, UInt8
from PIL import Image

from toto.errors import MediaError
from toto.media.file import MediaFile, MediaInfo, short
from toto.media.view import MAX_PIXELS, check_pixels, square, to_rgb

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
        stream = container.streams.best("video")
        if stream is None or stream.disposition & Disposition.attached_pic:
            audio = " (audio only)" if container.streams.audio else ""
            raise MediaError(f"no video stream{audio}")
        assert isinstance(stream, VideoStream)
        context = stream.codec_context
        check_pixels(context.width, context.height)
        context.options = {"max_pixels": str(MAX_PIXELS)}  # the size may change on the way
        context.thread_count = 1
        yield container, stream


class VideoDecoder:
    """A video read once, from its start to its end."""

    def __init__(self, container: InputContainer, stream: VideoStream) -> None:
        decoded = _decode(container, stream)
        first = next(decoded)  # only a frame tells the rotation
        self._decoded = chain([first], decoded)
        self._convert = VideoReformatter()
        width, height = first.width, first.height
        if _quarter_turns(first) in (1, 3):
            width, height = height, width
        rate = stream.average_rate
        self.info = MediaInfo(
            kind="video",
            width=width,
            height=height,
            fps=float(rate) if rate else None,
            frames=stream.frames or None,
        )

    def pictures(
        self, stride: int, size: int, first: int = 0
    ) -> Iterator[UInt8[np.ndarray, "3 size size"]]:
        """Yield the kept frames from the `first` kept one on.

        Raises:
            MediaError: decoding stops early, or the file holds much less than it declares.
        """
        for index, picture in enumerate(self._decoded):
            if index >= first * stride and index % stride == 0:
                yield _frame(picture, size, self._convert)


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
    """

    times: Int64[np.ndarray, " frames"]
    keys: Int64[np.ndarray, " keys"]


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
    return Timeline(np.array(sorted(times), np.int64), np.array(sorted(keys), np.int64))


def seek_frames(
    container: InputContainer,
    stream: VideoStream,
    timeline: Timeline,
    wanted: range,
    size: int,
) -> list[UInt8[np.ndarray, "3 size size"]] | None:
    """Decode the frames of the indices `wanted` (ascending, not empty) from the key frame before.

    None wherever something differs from what the timeline says: then only decoding from the start
    gives the right frames.
    """
    times = timeline.times
    key = int(np.searchsorted(timeline.keys, times[wanted[0]], side="right")) - 1
    if key < 1:  # nothing to jump over
        return None
    frames: list[np.ndarray] = []
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
            return None
        index = int(np.searchsorted(times, start))
        pictures = (picture for packet in chain([landed], packets) for picture in packet.decode())
        is_first = True
        for picture in pictures:
            assert isinstance(picture, VideoFrame)
            if picture.pts is not None and picture.pts < start:
                continue  # an open group of pictures: shown before its key frame, which came first
            if picture.pts != times[index]:
                return None
            # A recovery point within an intra refresh is marked as a key frame, but is none.
            if is_first and not (picture.key_frame and picture.pict_type == PictureType.I):
                return None
            is_first = False
            if index in wanted:
                frames.append(_frame(picture, size, convert))
                if len(frames) == len(wanted):
                    return frames
            index += 1
    except MemoryError:
        raise
    except FFmpegError:
        pass
    return None


def _frame(
    picture: VideoFrame, size: int, convert: VideoReformatter
) -> UInt8[np.ndarray, "3 size size"]:
    """One frame; `convert`, kept from picture to picture, saves 0.1 ms for each.

    By default it would start threads for each, which takes ten times the conversion.
    """
    has_alpha = any(component.is_alpha for component in picture.format.components)
    mode = "rgba" if has_alpha else "rgb24"
    try:
        pixels = convert.reformat(picture, format=mode, threads=1).to_ndarray()
    except MemoryError:
        raise
    except FFmpegError as error:
        raise MediaError(f"pixels of format {picture.format.name}: {short(error)}") from None
    image = Image.fromarray(pixels)
    small = square(to_rgb(image) if has_alpha else image, size)
    return np.ascontiguousarray(np.rot90(small, _quarter_turns(picture), axes=(1, 2)))


def _quarter_turns(picture: VideoFrame) -> int:
    """How often the picture must be turned by 90 degrees, counterclockwise."""
    return round(picture.rotation / 90) % 4
