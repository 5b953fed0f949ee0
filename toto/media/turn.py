"""How stored pictures are put upright: squares are cut first, and turned once they are small."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from av.sidedata.sidedata import SideData
from av.video.frame import VideoFrame
from jaxtyping import UInt8

from toto.media.view import Box, Place


class Turn(NamedTuple):
    """A stored picture's right or lower end comes first, then rows become columns."""

    from_right: bool
    from_below: bool
    swaps_axes: bool

    def stored(self, places: Sequence[Place], width: int, height: int) -> list[Box]:
        """The parts of the upright picture, in the one stored as width x height."""
        return [self._stored(place, width, height) for place in places]

    def _stored(self, place: Place, width: int, height: int) -> Box:
        if self.swaps_axes:
            top, left, high, wide = place.box(height, width)
        else:
            left, top, wide, high = place.box(width, height)
        if self.from_right:
            left = width - wide - left
        if self.from_below:
            top = height - high - top
        return Box(left, top, wide, high)

    def apply(
        self, squares: UInt8[np.ndarray, "places 3 size size"]
    ) -> UInt8[np.ndarray, "places 3 size size"]:
        if self.from_right:
            squares = squares[..., ::-1]
        if self.from_below:
            squares = squares[..., ::-1, :]
        return np.ascontiguousarray(squares.swapaxes(2, 3) if self.swaps_axes else squares)


UPRIGHT = Turn(False, False, False)


def turn_of(frame: VideoFrame) -> Turn:
    """What the display matrix asks for, to the nearest quarter turn.

    (x, y) becomes (a x + c y, b x + d y) (ISO/IEC 14496-12, 8.3.2); PyAV's `frame.rotation` knows
    no mirrors.
    """
    data = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return UPRIGHT
    assert isinstance(data, SideData)
    a, b, _, c, d = np.frombuffer(bytes(data), np.int32)[:5].tolist()
    if abs(b) > abs(a):
        return Turn(b < 0, c < 0, True)
    return Turn(a < 0, d < 0, False)
