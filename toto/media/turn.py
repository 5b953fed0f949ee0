"""How a video's container wants its pictures turned and mirrored."""

from typing import NamedTuple

import numpy as np
from av.sidedata.sidedata import SideData
from av.video.frame import VideoFrame
from jaxtyping import UInt8


class Turn(NamedTuple):
    """How a picture is put upright: its right or lower end first, then rows for columns."""

    from_right: bool
    from_below: bool
    swaps_axes: bool

    def apply(
        self, squares: UInt8[np.ndarray, "places 3 size size"]
    ) -> UInt8[np.ndarray, "places 3 size size"]:
        if self.from_right:
            squares = squares[..., ::-1]
        if self.from_below:
            squares = squares[..., ::-1, :]
        return squares.swapaxes(2, 3) if self.swaps_axes else squares


def turn_of(frame: VideoFrame) -> Turn:
    """What the display matrix asks for, to the nearest quarter turn.

    (x, y) becomes (a x + c y, b x + d y) (ISO/IEC 14496-12, 8.3.2); PyAV's `frame.rotation` knows
    no mirrors.
    """
    data = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return Turn(False, False, False)
    assert isinstance(data, SideData)
    a, b, _, c, d = np.frombuffer(bytes(data), np.int32)[:5].tolist()
    if abs(b) > abs(a):
        return Turn(b < 0, c < 0, True)
    return Turn(a < 0, d < 0, False)
