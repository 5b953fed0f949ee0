"""Leaving out frames that are neither kept nor referred to: all others come out as ever.

H.264 marks the pictures that no other refers to (`nal_ref_idc` 0), about half of all in what x264
makes by default, and FFmpeg's decoder jumps over them if told so. Which they were shows only by
what does not come out, and that is checked against the packets.
"""

from bisect import bisect_right, insort
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from heapq import heappop, heappush

import av
from av.error import FFmpegError
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame

# HEVC has no such mark: what is not referred to within its layer may be so in the next.
_CODECS = ("h264",)
# No stream is reordered over more pictures; fewer known ones only make more be decoded.
_AHEAD = 16


class Unsure(Exception):
    """Something is not as the packets say: only decoding all from the start is right."""


class Sparse:
    """Tells a decoder what it may leave out, and the caller what it left out.

    Args:
        context: the decoder.
        has_times: whether each packet is one frame, with an exact time stamp; else all is decoded.
        may_be_kept: whether the picture of a time stamp may be kept, given that of a later one.
    """

    def __init__(
        self,
        context: VideoCodecContext,
        has_times: bool,
        may_be_kept: Callable[[int, int], bool],
    ) -> None:
        self._context = context
        self._may_be_kept = may_be_kept
        self._is_sure = has_times and context.name in _CODECS
        self._has_left = False
        self._sent: list[tuple[int, bool]] = []  # a heap of stamps, and whether they may be missing
        self._last = -(2**63)

    def followed(self, packets: Iterable[av.Packet]) -> Iterator[tuple[av.Packet, int | None]]:
        """Each packet with the time stamp of a later picture: of the next, if that is near."""
        if not self._is_sure:
            yield from ((packet, None) for packet in packets)
            return
        waiting: deque[av.Packet] = deque()
        stamps: list[int] = []
        error = None
        try:
            for packet in packets:
                waiting.append(packet)
                if packet.pts is not None:
                    insort(stamps, packet.pts)
                if len(waiting) > _AHEAD:
                    yield _first(waiting, stamps)
                    del stamps[: -4 * _AHEAD]
        except FFmpegError as problem:  # after what came before it
            error = problem
        while waiting:
            yield _first(waiting, stamps)
        if error is not None:
            raise error

    def before(self, packet: av.Packet, later: int | None) -> None:
        """Prepare for the decoding of a packet; `later` as `followed` gives it.

        Raises:
            Unsure: its time stamp is missing or comes too late.
        """
        if not self._is_sure or not packet.size:
            return
        stamp = packet.pts
        if stamp is None or stamp <= self._last or packet.is_corrupt:
            self._give_up()
            return
        may_miss = False
        if not packet.is_discard:
            may_miss = later is not None and not self._may_be_kept(stamp, later)
            heappush(self._sent, (stamp, may_miss))
        self._has_left |= may_miss
        self._context.skip_frame = "NONREF" if may_miss else "DEFAULT"

    def missing(self, frame: VideoFrame) -> list[int]:
        """The time stamps of what was left out before a frame, ascending.

        Raises:
            Unsure: the frame is not the next that should come, or it is damaged: what the decoder
                puts in for damage may come from a frame that was left out.
        """
        left: list[int] = []
        if not self._is_sure:
            return left
        while self._sent and not frame.is_corrupt:
            first, may_miss = heappop(self._sent)
            if first == frame.pts:
                self._last = first
                return left
            if not may_miss:
                break
            left.append(first)
        self._give_up()
        return []

    def missing_at_end(self) -> list[int]:
        """As `missing`, when no frame comes any more."""
        if self._is_sure and not all(may_miss for _, may_miss in self._sent):
            self._give_up()
        return sorted(stamp for stamp, _ in self._sent)

    def _give_up(self) -> None:
        if self._has_left:
            raise Unsure
        self._is_sure = False
        self._sent.clear()


def _first(waiting: deque[av.Packet], stamps: list[int]) -> tuple[av.Packet, int | None]:
    packet = waiting.popleft()
    place = len(stamps) if packet.pts is None else bisect_right(stamps, packet.pts)
    return packet, stamps[place] if place < len(stamps) else None
