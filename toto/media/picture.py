"""One decoded picture, which becomes frames only if it is kept; and which pictures are kept."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np
from jaxtyping import UInt8

from toto.media.item import Location
from toto.media.view import Place, View

T = TypeVar("T")

# Frame rates beyond these are time bases or mistakes, not what a camera or a screen makes.
_RATES = (0.5, 500.0)
# A picture that stands for longer, in a slide show or over a jump of the clock, is not repeated
# any more.
_LONGEST = 10.0
_EPSILON = 1e-6


class Picture(NamedTuple):
    """One decoded picture.

    Attributes:
        time: seconds from the first picture.
        squares: makes its frames: `squares(size, places)`, uint8 `(places, 3, size, size)`.
    """

    time: float
    squares: Callable[[int, Sequence[Place]], UInt8[np.ndarray, "places 3 size size"]]


@dataclass(frozen=True)
class Moments:
    """When frames are kept.

    Attributes:
        start: seconds from the first picture; the first kept frame is the one on show then.
        end: seconds, exclusive.
        stride: pictures from one kept frame to the next, where no `gap` is given.
        gap: seconds from one kept frame to the next; None: pictures are counted.
        half: half a picture's time in seconds: how much earlier than its time one may be kept.
    """

    start: float
    end: float
    stride: int
    gap: float | None
    half: float

    def may_fall(self, since: float, until: float) -> bool:
        """Whether a frame may be kept from `since` to `until`; False only where surely none is."""
        if self.gap is None:
            return True
        count = max(0, math.ceil((since - self.start - self.half) / self.gap - _EPSILON))
        return _moment(self, count) < until + _EPSILON


def nominal_rate(location: Location, fps: float | None) -> float | None:
    """The frame rate that a file is taken at, None where neither source nor file tell a sane one.

    `fps` is what the file says of itself.
    """
    rate = location.fps or fps
    return rate if rate is not None and _RATES[0] <= rate <= _RATES[1] else None


def moments(view: View, location: Location, fps: float | None) -> Moments:
    """When frames of a file are kept whose nominal frame rate is `fps`.

    A file without one is counted by pictures.
    """
    rate = view.rate or fps if view.step == "time" else None
    return Moments(
        start=location.start or 0.0,
        end=float("inf") if location.end is None else location.end,
        stride=view.stride,
        gap=view.stride / rate if rate else None,
        half=0.5 / (fps or rate or 30.0),
    )


def kept(pictures: Iterable[tuple[float, T]], when: Moments) -> Iterator[T]:
    """Yield what is on show at each moment, of pictures in the order of their times."""
    if when.gap is None:
        yield from _counted(pictures, when)
        return
    shown, count = None, 0
    for time, picture in pictures:
        limit = min(time, when.end)
        while shown is not None and (moment := _moment(when, count)) < limit:
            if moment < shown[0] + _LONGEST:
                yield shown[1]
                count += 1
            else:  # at once: a broken clock may jump by years
                nearly = int((limit - when.start - when.half) / when.gap) - 1
                count = max(count + 1, nearly)
        if time >= when.end - _EPSILON:
            return
        shown = time, picture
    while shown is not None and _moment(when, count) < min(shown[0] + 2 * when.half, when.end):
        yield shown[1]
        count += 1


def _moment(when: Moments, count: int) -> float:
    """A picture that comes half its time late is still the one of that moment."""
    assert when.gap is not None
    return when.start + count * when.gap + when.half


def _counted(pictures: Iterable[tuple[float, T]], when: Moments) -> Iterator[T]:
    inside = 0
    for time, picture in pictures:
        if time >= when.end - _EPSILON:
            return
        if time >= when.start - when.half:
            if inside % when.stride == 0:
                yield picture
            inside += 1
